"""The small problem file of the package, and answers to it that somebody wrote down."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from codegen_chat.bench import mtpb
from codegen_chat.bench.mtpb import Problem
from codegen_chat.prompt import HEADER, comment
from codegen_chat.turn import Accept, Completed, Completion, Delta, Prompt, Sampling, Usage
from tests.fakes import FakeCompleter, interleaved
from tests.test_cli import run as run  # noqa: PLC0414  a fixture, which pytest finds here

OWN = Path(mtpb.__file__).with_name("problems.jsonl")


class Recorded:
    """A Completer that answers words it knows; `wrong` are the numbers of answers (their seeds) that are not as recorded."""

    def __init__(self, answers: dict[str, str], wrong: Sequence[int] = ()) -> None:
        self.answers = answers
        self.wrong = set(wrong)
        self.window = 2048
        self.sampling = Sampling()
        self.asked = 0

    def count(self, text: str) -> int:
        return len(text) // 4

    def complete(
        self, prompt: Prompt, sampling: Sampling, *, accept: Accept | None = None
    ) -> Generator[Delta | Completion, None, None]:
        self.asked += 1
        asked = "".join(line for line in prompt.text.removeprefix(HEADER).splitlines(keepends=True) if line.startswith("# "))
        found = [words for words in self.answers if (asked or prompt.text).endswith(words)]
        text = self.answers[max(found, key=len)] if sampling.seed % mtpb.TURN_SEEDS not in self.wrong else "print(0)\n"
        # The fake counts characters for tokens: the answer is to be whole.
        one = FakeCompleter(text).complete(replace(prompt, max_new_tokens=len(text)), sampling, accept=accept)
        for event in one:
            yield Completion(event.text, event.finish_reason, Usage(9, 0, 3)) if isinstance(event, Completion) else event

    def complete_many(
        self, prompt: Prompt, samplings: Sequence[Sampling], *, accept: Accept | None = None
    ) -> Generator[Delta | Completed, None, None]:
        return interleaved([self.complete(prompt, sampling, accept=accept) for sampling in samplings])


@pytest.fixture(scope="session")
def problems() -> tuple[Problem, ...]:
    return mtpb.read(OWN.read_bytes(), OWN.name)


@pytest.fixture(scope="session")
def answers(problems: tuple[Problem, ...]) -> dict[str, str]:
    """All words of a case so far, and the code that was recorded for the last."""
    recorded = json.loads(Path(__file__).with_name("recorded.json").read_text())
    known = {}
    for problem in problems:
        for case, inputs in enumerate(problem.inputs):
            history = ""
            for words, code in zip(mtpb.worded(problem, case), recorded[problem.id], strict=True):
                history += comment(words)
                known[history] = code.format(**inputs)
    return known
