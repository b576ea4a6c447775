"""Conversations side by side: which of them go on, and which one is kept."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import pytest

from codegen_chat.bench import branches
from codegen_chat.choose import RULES, Rule
from codegen_chat.conversation import Conversation
from codegen_chat.events import Chosen, Committed, Event
from codegen_chat.making import Options
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.session.history import History
from codegen_chat.turn import Accept, Completed, Completion, Delta, Prompt, Sampling
from tests.fakes import FakeCompleter

Answer = Callable[[str, int], str]


class Answering(FakeCompleter):
    """Answers as a function of prompt and seed says."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    def complete(
        self, prompt: Prompt, sampling: Sampling, *, accept: Accept | None = None
    ) -> Generator[Delta | Completion, None, None]:
        return FakeCompleter(self._answer(prompt.text, sampling.seed)).complete(prompt, sampling, accept=accept)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel.start(imports=["numpy"]) as started:
        yield started


def play(kernel: Kernel, answer: Answer, texts: Sequence[str], n: int, rules: Sequence[Rule] = RULES) -> tuple[str, list[Event]]:
    """Return the code that was kept, a line a turn, and the events."""
    conversation = Conversation(Answering(answer), kernel, History.memory(), Options(keep=True, rules=tuple(rules)))
    events = list(branches.play(conversation, texts, n))
    return "; ".join(turn.code.strip() for turn in conversation.turns), events


def test_who_fails_gives_its_place_to_who_runs(kernel: Kernel) -> None:
    """Three of four take a text for a number, which shows in the second turn; the one that did not goes on four times."""

    def answer(prompt: str, seed: int) -> str:
        if prompt.endswith("# Take three.\n"):
            return "x = 3\n" if seed == 3 else "x = 'three'\n"
        return "y = x // 2\n" if prompt.endswith("# Half of it.\n") else f"print(y + {int(seed == 1)})\n"

    code, events = play(kernel, answer, ["Take three.", "Half of it.", "Print it."], 4)
    assert code == "x = 3; y = x // 2; print(y + 0)"
    assert len([event for event in events if isinstance(event, Completed)]) == 12
    [chosen] = [event for event in events if isinstance(event, Chosen)]
    assert chosen.reason == "3 of 4 gave the same"
    assert isinstance(events[-1], Committed)


def test_what_was_left_undone_costs_places(kernel: Kernel) -> None:
    def answer(prompt: str, seed: int) -> str:
        if prompt.endswith("# Store 12 in `dozen`.\n"):
            return "dozen = 12\n" if seed == 2 else "dozen = 1\n"
        return "print(dozen)\n"

    texts = ["Store 12 in `dozen`.", "Print it."]
    assert play(kernel, answer, texts, 3)[0] == "dozen = 12; print(dozen)"
    assert play(kernel, answer, texts, 3, [rule for rule in RULES if rule != "asked"])[0] == "dozen = 1; print(dozen)"


def test_a_turn_that_runs_nowhere_is_left_out_and_the_last_one_told(kernel: Kernel) -> None:
    def answer(prompt: str, seed: int) -> str:
        return f"x = {seed}\n" if prompt.endswith("# Begin.\n") else "1 / 0\n"

    code, events = play(kernel, answer, ["Begin.", "Fail.", "Fail again."], 2)
    assert code == "x = 0"
    assert isinstance(events[-1], Committed)
    assert (events[-1].turn.text, events[-1].turn.accepted) == ("Fail again.", False)
    assert play(kernel, lambda *_: "# nothing\n", ["Begin."], 2)[0] == ""


def test_one_conversation_is_a_conversation(kernel: Kernel) -> None:
    def answer(prompt: str, seed: int) -> str:
        return "1 / 0\n" if prompt.endswith("# Fail.\n") else "x = 1\n"

    code, events = play(kernel, answer, ["Begin.", "Fail.", "Begin."], 1)
    assert code == "x = 1; x = 1"
    assert not any(isinstance(event, Chosen) for event in events)


def test_places_are_shared_out_by_worth(kernel: Kernel) -> None:
    """Of seven, five wrote one program and two another: in the next turn as many are drawn from each."""
    asked: list[tuple[str, int]] = []

    def answer(prompt: str, seed: int) -> str:
        asked.append((prompt, seed))
        return "x = 1\n" if seed < 5 else "x = 2\n"

    play(kernel, answer, ["Begin.", "Go on."], 7)
    later = [prompt for prompt, _ in asked if prompt.endswith("# Go on.\n")]
    assert [sum(f"x = {number}\n\n# Go" in prompt for prompt in later) for number in (1, 2)] == [5, 2]
