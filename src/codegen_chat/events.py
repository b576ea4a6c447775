"""What a turn tells while it happens: the events of a conversation. `Delta`, `Completed` and `Output` come from the two seams."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

from codegen_chat.turn import Completed, Delta, Execution, Output, Turn


@dataclass(frozen=True, slots=True)
class Proposed:
    """What the model wrote is about to run, if the person wants it: send the code to run, "" for none; None runs it as it is."""

    code: str
    candidate: int = 0


@dataclass(frozen=True, slots=True)
class Executed:
    """A candidate has run, or was interrupted."""

    execution: Execution
    candidate: int = 0


@dataclass(frozen=True, slots=True)
class Fallback:
    """The answer's code failed: `samples` more candidates are drawn, run from the same state, and the best of all is kept."""

    samples: int


@dataclass(frozen=True, slots=True)
class Several:
    """So many candidates are drawn, and run from the same state."""

    samples: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """Among these candidates, in the order in which they were drawn, the results chose this one; `reason` says why."""

    turn: Turn
    candidates: tuple[Turn, ...]
    reason: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Evicted:
    """These turns no longer fit the window: the model does not see them, their variables live on. The prompt has `tokens` now."""

    turns: tuple[str, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Notice:
    """One line for the person: something was done otherwise than asked."""

    text: str


@dataclass(frozen=True, slots=True)
class Committed:
    """A turn is in the history; whether it counts, `turn.accepted` says."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Replayed:
    """After an edit a later turn has run again: the turn that it was, and what it is now."""

    number: int
    before: Turn
    after: Turn


Event = Delta | Completed | Proposed | Output | Executed | Several | Fallback | Chosen | Evicted | Notice | Committed | Replayed
Events = Generator[Event, str | None, None]
