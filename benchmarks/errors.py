"""Say of a measured run why its answers are wrong, in kinds: a table of counts, and no problem's text.

    codegen-chat bench mtpb benchmarks/devset/visible.jsonl -m nano -o runs/visible
    python benchmarks/errors.py benchmarks/devset/visible.jsonl runs/visible

The first kind that fits counts: the last turn failed (syntax, unknown name, or what a call or an operator could not take); the
answer is right but for its form; an earlier turn failed and was left out; a value of the words stands nowhere in the code; else
the code does something else than was asked.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

from codegen_chat.bench import mtpb
from codegen_chat.bench.samples import Sample, Samples
from codegen_chat.prompt import comment

RAISED = {"SyntaxError": "syntax", "IndentationError": "syntax", "NameError": "unknown name", "UnboundLocalError": "unknown name"}


def bare(value: object) -> str:
    """Reduce what was printed to letters and digits."""
    return re.sub(r"[^a-z0-9.]", "", str(value).lower())


def kind(sample: Sample, problem: mtpb.Problem) -> str:
    """Name what is wrong with an answer."""
    if sample.reason != "wrong answer":
        return RAISED.get(sample.reason, "failed in running")
    last = sample.output.strip().rpartition("\n")[2]
    if bare(last) == bare(problem.outputs[sample.case]):
        return "wrong format"
    if any(comment(words) not in sample.program for words in mtpb.worded(problem, sample.case)):
        return "an earlier turn failed"
    code = "\n".join(line for line in sample.program.splitlines() if not line.startswith("#"))
    values = re.findall(r"[A-Za-z0-9.]+", " ".join(map(str, problem.inputs[sample.case].values())))
    return "wrong copy" if any(value not in code for value in values) else "wrong operation"


def main() -> None:
    """Count and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("problems", type=Path)
    arguments.add_argument("run", type=Path)
    given = arguments.parse_args()
    problems = {problem.id: problem for problem in mtpb.read(given.problems.read_bytes(), given.problems.name)}
    samples = list(Samples.read(given.run))
    kinds = Counter(kind(sample, problems[sample.task]) for sample in samples if not sample.passed)
    print(f"{sum(sample.passed for sample in samples)} of {len(samples)} right")
    for name, count in kinds.most_common():
        print(f"{count:4d} {name}")


if __name__ == "__main__":
    main()
