"""Plays a spec on a conversation, and tells of it on the screen or as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TextIO

from codegen_chat.conversation import Conversation
from codegen_chat.events import Chosen, Committed, Event, Executed
from codegen_chat.session.records import completion_to_json, execution_to_json, turn_to_json
from codegen_chat.session.spec import Expectation, Step
from codegen_chat.terminal.screen import Screen
from codegen_chat.turn import Completed, Turn

EVENTS = 1
"""Version of the events that `--json` prints; docs/events.md describes them."""


@dataclass(slots=True)
class Tally:
    """What came of a spec: turns that ran, whether the last failed or was interrupted, expectations that held and did not."""

    turns: int = 0
    failed: bool = False
    interrupted: bool = False
    held: int = 0
    missed: int = 0


class Player(Protocol):
    """Tells of a spec that is played."""

    def begin(self, facts: Mapping[str, object]) -> None:
        """Tell what is played on what."""
        ...

    def step(self, number: int, step: Step) -> None:
        """Tell of the turn that comes."""
        ...

    def event(self, event: Event) -> None:
        """Tell of an event of the turn."""
        ...

    def judged(self, expectation: Expectation, why: str | None) -> None:
        """Tell of an expectation: None that it held, else why not."""
        ...

    def end(self, tally: Tally, left: int) -> None:
        """Tell what came of it all; `left` turns were not played."""
        ...


def play(conversation: Conversation, steps: Sequence[Step], player: Player) -> Tally:
    """Run the steps one after another. A turn whose code fails ends them: what follows builds on it."""
    tally = Tally()
    for number, step in enumerate(steps, 1):
        player.step(number, step)
        if step.code is None:
            events = conversation.run(step.text, given=step.given)
        else:
            events = conversation.run_code(step.code, text=step.text)
        turn = None
        try:
            for event in events:
                player.event(event)
                turn = event.turn if isinstance(event, Committed) else turn
        except KeyboardInterrupt:
            """The conversation has kept what there was."""
        tally.turns = number
        tally.interrupted = turn is None or interrupted(turn)
        tally.failed = turn is not None and not turn.accepted
        if tally.failed or tally.interrupted:
            break
        if conversation.executor is not None:
            for expectation in step.expectations:
                holds, why = conversation.check(expectation.expression)
                tally.held += holds
                tally.missed += not holds
                player.judged(expectation, None if holds else why)
    player.end(tally, len(steps) - tally.turns)
    return tally


def interrupted(turn: Turn) -> bool:
    """Whether a Ctrl-C ended a turn."""
    ended = (turn.completion and turn.completion.finish_reason, turn.execution and turn.execution.status)
    return "interrupted" in ended


class ScreenPlayer:
    """Tells a person."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def begin(self, facts: Mapping[str, object]) -> None:
        """Say which spec begins."""
        self._screen.note(", ".join(f"{name} {fact}" for name, fact in facts.items()))

    def step(self, number: int, step: Step) -> None:
        """Print the words."""
        self._screen.start()
        self._screen.words(number, step.text or ("your first lines" if step.given else "your own code"))
        if step.code is not None:
            self._screen.code(step.code)

    def event(self, event: Event) -> None:
        """Draw it."""
        self._screen.draw(event)

    def judged(self, expectation: Expectation, why: str | None) -> None:
        """Print a line that can be gone to from an editor where it failed."""
        if why is None:
            self._screen.note(f"as expected: {expectation.expression}", "green")
        else:
            self._screen.error(f"{expectation.where}: expected {expectation.expression}: {why}")

    def end(self, tally: Tally, left: int) -> None:
        """Print the sum."""
        if tally.failed or tally.interrupted:
            self._screen.error(
                f"turn {tally.turns} {'was interrupted' if tally.interrupted else 'failed'}"
                + (f": {left} more not played" if left else "")
            )
        judged = tally.held + tally.missed
        expectations = f", {tally.held} of {judged} expectations met" if judged else ""
        self._screen.note(f"{tally.turns} turn{'' if tally.turns == 1 else 's'}{expectations}", "red" if tally.missed else "dim")


class JsonPlayer:
    """Tells a program: one event a line, its kind under "event"."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def begin(self, facts: Mapping[str, object]) -> None:
        """Print the session's facts."""
        self._line("begin", {"v": EVENTS, **facts})

    def step(self, number: int, step: Step) -> None:
        """Print the words, and the code where it is given."""
        self._line("step", {"number": number, "text": step.text, "code": step.code, "given": step.given, "where": step.where})

    def event(self, event: Event) -> None:
        """Print it."""
        match event:
            case Completed(completion, candidate):
                data = {"candidate": candidate, **completion_to_json(completion)}
            case Executed(execution, candidate):
                data = {"candidate": candidate, **execution_to_json(execution)}
            case Chosen(turn, candidates, reason):
                data = {
                    "candidate": [each.id for each in candidates].index(turn.id),
                    "of": len(candidates),
                    "id": turn.id,
                    "reason": reason,
                }
            case Committed(turn):
                data = {"id": turn.id, "parent": turn.parent, **turn_to_json(turn)}
            case _:
                data = asdict(event)
        self._line(type(event).__name__.lower(), data)

    def judged(self, expectation: Expectation, why: str | None) -> None:
        """Print the verdict."""
        self._line(
            "expectation", {"expression": expectation.expression, "where": expectation.where, "holds": why is None, "why": why}
        )

    def end(self, tally: Tally, left: int) -> None:
        """Print the sum."""
        self._line("end", {**asdict(tally), "left": left})

    def _line(self, kind: str, data: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps({"event": kind, **data}, ensure_ascii=True) + "\n")
        self._stream.flush()
