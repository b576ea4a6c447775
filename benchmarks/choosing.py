"""What choosing by execution is worth on the dev set, and what each of its rules is: every rule is taken out in turn.

    python benchmarks/choosing.py [--half visible|counted] [--model nano] [-n 8] [--cases 1] [--chains] [--rules]

Prints a line as each run ends: how many cases pass, seconds a case. `greedy` has one answer a turn, `chosen` the best of n by all
rules; --rules adds a run without each, --chains n whole conversations a case, of which the best counts (pass@n: what choosing
could reach at most). Problems are only counted, never shown.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from codegen_chat.bench import lanes, mtpb
from codegen_chat.bench.estimate import mcnemar
from codegen_chat.bench.mtpb import Mtpb
from codegen_chat.choose import RULES
from codegen_chat.models import load

HERE = Path(__file__).parent / "devset"


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
    model = load(given.model)
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
        batches = lanes.local(benchmark, benchmark.jobs(), lambda: (model.engine, None), lanes.count())
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
