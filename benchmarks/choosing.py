"""What choosing by execution is worth on the dev set, and what each of its rules is: every rule is taken out in turn.

    python benchmarks/choosing.py [--half visible|counted] [--model nano] [-n 8] [--cases 1] [--chains] [--rules]

Prints a line as each run ends: how many cases pass, seconds a case. `greedy` has one answer a turn, `chosen` the best of n by all
rules; --rules adds a run without each, --chains n whole conversations a case, of which the best counts (pass@n: what choosing
could reach at most). What two runs draw from one prompt by one seed is drawn once: the seconds of greedy and chosen tell what a
case costs, those of later runs do not. Problems are only counted, never shown.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from codegen_chat.bench import lanes, mtpb
from codegen_chat.bench.estimate import mcnemar
from codegen_chat.bench.mtpb import Mtpb
from codegen_chat.choose import RULES
from codegen_chat.models import load
from codegen_chat.turn import Accept, Completed, Completer, Completion, Prompt, Sampling, Stop

HERE = Path(__file__).parent / "devset"


class Remembering:
    """A completer that draws what it has drawn before from memory: a prompt's completions depend on nothing else."""

    def __init__(self, completer: Completer) -> None:
        self._completer = completer
        self._drawn: dict[tuple[str, Stop, int, Sampling], Completion] = {}
        self.window, self.sampling = completer.window, completer.sampling
        self.count, self.complete = completer.count, completer.complete

    def complete_many(
        self, prompt: Prompt, samplings: Sequence[Sampling], *, accept: Accept | None = None
    ) -> Generator[Completed, None, None]:
        """Complete as the model does, without the pieces."""
        keys = [(prompt.text, prompt.stop, prompt.max_new_tokens, sampling) for sampling in samplings]
        missing = [key for key in dict.fromkeys(keys) if key not in self._drawn]
        if missing:
            for event in self._completer.complete_many(prompt, [key[-1] for key in missing], accept=accept):
                if isinstance(event, Completed):
                    self._drawn[missing[event.candidate]] = event.completion
        for place, key in enumerate(keys):
            yield Completed(self._drawn[key], place)


def main() -> None:
    """Run them one after another."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--half", choices=("visible", "counted"), default="visible")
    arguments.add_argument("--model", default="nano")
    arguments.add_argument("-n", type=int, default=8)
    arguments.add_argument("--cases", type=int, default=1, help="inputs of each problem")
    arguments.add_argument("--chains", action="store_true")
    arguments.add_argument("--rules", action="store_true")
    given = arguments.parse_args()
    path = HERE / f"{given.half}.jsonl"
    problems = mtpb.read(path.read_bytes(), path.name)
    completer = Remembering(load(given.model).engine)
    runs = {
        "greedy": Mtpb(problems, cases=given.cases),
        "chosen": Mtpb(problems, n=given.n, cases=given.cases, choose=True),
    }
    if given.rules:
        for rule in RULES:
            rules = tuple(other for other in RULES if other != rule)
            runs[f"without {rule}"] = Mtpb(problems, n=given.n, cases=given.cases, choose=True, rules=rules)
    if given.chains:
        runs[f"pass@{given.n}"] = Mtpb(problems, n=given.n, cases=given.cases)
    chosen: set[tuple[str, int]] = set()
    for name, benchmark in runs.items():
        began = time.perf_counter()
        batches = lanes.local(benchmark, benchmark.jobs(), lambda: (completer, None), lanes.count())
        samples = [sample for batch in batches for sample in batch]
        cases = {(sample.task, sample.case) for sample in samples}
        passed = {(sample.task, sample.case) for sample in samples if sample.passed}
        chosen = passed if name == "chosen" else chosen
        lost, won = len(chosen - passed), len(passed - chosen)
        beside = f", beside chosen -{lost} +{won}, p = {mcnemar(lost, won):.2f}" if chosen and name != "chosen" else ""
        seconds = (time.perf_counter() - began) / len(cases)
        print(f"{name}: {len(passed)} of {len(cases)}, {seconds:.2f} s a case{beside}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
