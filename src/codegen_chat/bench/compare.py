"""Two runs over the same problems: which cases differ, and whether the difference is more than chance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from codegen_chat.bench.estimate import mcnemar, sign_flips
from codegen_chat.bench.samples import Sample


@dataclass(frozen=True, slots=True)
class Difference:
    """What two runs have in common and what not. Rates are over the cases that both have.

    `better` and `worse` are the cases that pass more often in the second run, or in the first. `chance` is how often so large a
    difference would come about were the runs equally good; `test` names how that was computed.
    """

    cases: int
    left_out: int
    rate_a: float
    rate_b: float
    better: tuple[str, ...]
    worse: tuple[str, ...]
    chance: float
    test: str


def compare(a: Iterable[Sample], b: Iterable[Sample]) -> Difference:
    """Compare two runs case by case.

    One answer a case: McNemar's exact test on the cases. Several: a permutation of the signs of the differences. Cases of one
    problem stand or fall together, so where problems have several cases the signs of whole problems are permuted.
    """
    rates_a, rates_b = _rates(a), _rates(b)
    shared = sorted(rates_a.keys() & rates_b.keys())
    differences = {case: rates_b[case] - rates_a[case] for case in shared}
    by_problem: defaultdict[str, float] = defaultdict(float)
    for (task, _), difference in differences.items():
        by_problem[task] += difference
    better = tuple(_named(case) for case in shared if differences[case] > 0)
    worse = tuple(_named(case) for case in shared if differences[case] < 0)
    single = all(rate in {0.0, 1.0} for case in shared for rate in (rates_a[case], rates_b[case]))
    if single and len(by_problem) == len(shared):
        chance, test = mcnemar(len(worse), len(better)), "McNemar's exact test"
    else:
        chance, test = sign_flips(list(by_problem.values())), f"signs of {len(by_problem)} problems permuted"
    return Difference(
        cases=len(shared),
        left_out=len(rates_a.keys() ^ rates_b.keys()),
        rate_a=sum(rates_a[case] for case in shared) / len(shared) if shared else 0.0,
        rate_b=sum(rates_b[case] for case in shared) / len(shared) if shared else 0.0,
        better=better,
        worse=worse,
        chance=chance,
        test=test,
    )


def _rates(samples: Iterable[Sample]) -> dict[tuple[str, int], float]:
    passed: defaultdict[tuple[str, int], list[bool]] = defaultdict(list)
    for sample in samples:
        passed[sample.task, sample.case].append(sample.passed)
    return {case: sum(results) / len(results) for case, results in passed.items()}


def _named(case: tuple[str, int]) -> str:
    task, number = case
    return f"{task}[{number}]" if number else task
