"""What a run's samples say, as plain data: rates with their confidence intervals, by kind of task, and what they cost."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from codegen_chat.bench.estimate import interval, mean_pass_at_k
from codegen_chat.bench.samples import Sample


def summary(benchmark: str, samples: Iterable[Sample], ks: Sequence[int] = ()) -> dict[str, Any]:
    """Return a run's result.

    `total` tasks (HumanEval) or `cases` (MTPB), how many of the `samples` answers to them passed, their rate with a 95 %
    interval, for each k the unbiased pass@k at the best temperature, what failed, what a problem costs.
    """
    given = list(samples)
    tasks = {(sample.task, sample.case) for sample in given}
    result: dict[str, Any] = {"total" if benchmark == "humaneval" else "cases": len(tasks), **_rate(given)}
    result["pass_at"] = {str(k): best for k in ks if (best := _best(given, k))}
    result["failures"] = dict(Counter(sample.reason for sample in given if not sample.passed).most_common())
    if benchmark == "mtpb":
        result["by_category"] = _by(given, lambda sample: sample.category or "none")
        result["by_turns"] = {str(turns): rate for turns, rate in sorted(_by(given, lambda sample: sample.turns).items())}
        measured = by_problem(given)
        result["perplexity"] = _mean([perplexity for perplexity, _ in measured.values() if perplexity is not None])
    problems = len({sample.task for sample in given}) or 1
    result["seconds_per_problem"] = math.fsum(sample.seconds for sample in given) / problems
    result["tokens_per_problem"] = sum(sample.tokens for sample in given) / problems
    return result


def curves(samples: Iterable[Sample]) -> dict[str, list[tuple[int, float]]]:
    """Return pass@k for each k, as far as there are answers, for each temperature."""
    found = {}
    for temperature, counts in _counts(samples).items():
        most = min((n for n, _ in counts), default=0)
        ks = sorted({k for k in (*range(1, 11), 20, 50, 100, 200, most) if k <= most})
        found["own" if temperature is None else f"{temperature:g}"] = [(k, mean_pass_at_k(counts, k)) for k in ks]
    return found


def by_problem(samples: Iterable[Sample]) -> dict[str, tuple[float | None, float]]:
    """Return for each problem the mean perplexity of its words, None where it was not measured, and its pass rate."""
    groups: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.task].append(sample)
    return {
        task: (
            _mean([sample.perplexity for sample in group if sample.perplexity is not None]),
            sum(sample.passed for sample in group) / len(group),
        )
        for task, group in groups.items()
    }


def _rate(samples: Sequence[Sample]) -> dict[str, Any]:
    passed = sum(sample.passed for sample in samples)
    shares: defaultdict[str, list[bool]] = defaultdict(list)
    for sample in samples:
        shares[sample.task].append(sample.passed)
    low, high = interval([sum(share) / len(share) for share in shares.values()])
    rate = passed / len(samples) if samples else 0.0
    return {"samples": len(samples), "passed": passed, "pass_rate": rate, "interval": [low, high]}


def _by(samples: Sequence[Sample], kind: Callable[[Sample], Any]) -> dict[Any, dict[str, Any]]:
    groups: defaultdict[Any, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[kind(sample)].append(sample)
    return {name: _rate(group) for name, group in groups.items()}


def _counts(samples: Iterable[Sample]) -> dict[float | None, list[tuple[int, int]]]:
    """For each temperature, how many answers each task has, and how many of them pass."""
    groups: defaultdict[float | None, defaultdict[tuple[str, int], list[bool]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        groups[sample.temperature][sample.task, sample.case].append(sample.passed)
    return {temperature: [(len(passed), sum(passed)) for passed in tasks.values()] for temperature, tasks in groups.items()}


def _best(samples: Sequence[Sample], k: int) -> dict[str, Any] | None:
    """pass@k at the temperature where it is highest; None where no temperature has k answers to each task."""
    rates = {
        temperature: mean_pass_at_k(counts, k)
        for temperature, counts in _counts(samples).items()
        if all(n >= k for n, _ in counts)
    }
    if not rates:
        return None
    best = max(rates, key=rates.__getitem__)
    return {"rate": rates[best], "temperature": best}


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
