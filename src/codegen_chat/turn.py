"""The frozen records that flow through the product, and its two seams. Standard library only.

Words become a `Prompt`, a `Completer` makes a `Completion` of it, an `Executor` an `Execution` of the code; a `Turn` keeps them
together, and the append-only log of turns is the only truth.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "eos", "length", "interrupted"]
Status = Literal["ok", "error", "timeout", "memory", "output", "killed", "interrupted"]

Stop = Callable[[str], tuple[int, bool]]
"""A cutter: of a completion's text so far, how many characters may be shown, and whether the text ends there.

Monotone: for a longer text it never shows fewer characters, and once it says that the text ends, it says so at the same place.
"""

Accept = Callable[[str], bool]
"""A guard: called at a line end with the completion's text so far; False asks for another draw of the last line."""

Copy = Callable[[str], Sequence[tuple[str, float]]]
"""Of a completion's text so far, the texts with which it may go on as a copy of a literal of the words, and by how much the
logits of the tokens that they begin with are to rise."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. Temperature 0 is greedy; top_p 1 and top_k 0 keep every token."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """The exact text that the model continues, where its continuation ends, and how many tokens it may take."""

    text: str
    stop: Stop
    max_new_tokens: int
    copy: Copy | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a completion cost: tokens, and seconds of prefill and decode."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's continuation of a prompt, cut where it stopped.

    `logprob` is the sum of the natural-log probabilities, under the untempered model, of the tokens whose text was kept;
    `token_ids` and `logprobs` are those tokens. `redrawn` counts the lines that the guard had drawn again.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage = Usage()
    logprob: float = 0.0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    seed: int = 0
    redrawn: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception that a turn's code raised. `line` counts the turn's own lines from 1 (0: none of them)."""

    type: str
    message: str
    line: int
    traceback: str


@dataclass(frozen=True, slots=True)
class Change:
    """What a turn did to one name of the namespace: '+' bound, '~' changed, '-' deleted. `summary` such as `list[10]`."""

    kind: Literal["+", "~", "-"]
    name: str
    summary: str


@dataclass(frozen=True, slots=True)
class Typed:
    """A value as plain data: `kind` names its type in Python's words, `data` is JSON (repr where there is no JSON for it)."""

    kind: str
    data: object


@dataclass(frozen=True, slots=True)
class Execution:
    """What happened when a turn's code ran. Strings are clean: no control, bidi or escape character but newline and tab.

    `value` is the repr of a last expression, `typed_value` the same as data; `prints` are the first arguments of the print calls
    in order (None of an empty one; str where there is no JSON for it); `duration` is in seconds; `truncated` counts the
    characters of output dropped over the limit.
    """

    status: Status
    stdout: str = ""
    stderr: str = ""
    value: str | None = None
    typed_value: Typed | None = None
    prints: tuple[Typed, ...] = ()
    failure: Failure | None = None
    duration: float = 0.0
    changes: tuple[Change, ...] = ()
    files: tuple[str, ...] = ()
    truncated: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One step of a conversation: the person's words, the code, what came of it.

    `completion` is None for the person's own code, `execution` None where nothing may be executed. A turn that was not accepted
    stays in the log, but neither in the prompt nor in the namespace. `given` are first lines of the code, which the person wrote
    and the model went on with; `remarks` what stands in the prompt above the words: a value that was asked for, an error to mend.
    """

    id: str
    parent: str | None
    text: str
    code: str
    completion: Completion | None = None
    execution: Execution | None = None
    accepted: bool = True
    given: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a candidate's text, ready to be shown."""

    text: str
    candidate: int = 0


@dataclass(frozen=True, slots=True)
class Completed:
    """A candidate's code is decided."""

    completion: Completion
    candidate: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what running code wrote, cleaned."""

    stream: Literal["stdout", "stderr"]
    text: str
    candidate: int = 0


class Completer(Protocol):
    """The seam to a language model."""

    @property
    def window(self) -> int:
        """The most tokens that a prompt and its completion may have together."""
        ...

    @property
    def sampling(self) -> Sampling:
        """The checkpoint's own sampling defaults."""
        ...

    def count(self, text: str) -> int:
        """Return how many tokens a text has."""
        ...

    def complete(
        self, prompt: Prompt, sampling: Sampling, *, accept: Accept | None = None
    ) -> Generator[Delta | Completion, None, None]:
        """Yield the text in pieces as it is decided, then the Completion. Closing the generator early loses nothing but time.

        A KeyboardInterrupt, met inside or thrown in, ends the completion as "interrupted".
        """
        ...

    def complete_many(
        self, prompt: Prompt, samplings: Sequence[Sampling], *, accept: Accept | None = None
    ) -> Generator[Delta | Completed, None, None]:
        """Draw a candidate for each sampling, all at once; each is what `complete` gives. Their pieces come mixed.

        `Completed` ends a candidate as soon as it is whole. A KeyboardInterrupt ends those that are not, as "interrupted".
        """
        ...


class Executor(Protocol):
    """The seam to the sandbox. States are named by turn ids; None is the empty state."""

    def execute(
        self, code: str, *, parent: str | None, turn: str | None, timeout: float | None = None
    ) -> Generator[Output | Execution, None, None]:
        """Run code from the state of `parent`, keep the resulting state as `turn` (None: throw it away). The Execution is last.

        A KeyboardInterrupt, met inside or thrown in, or closing the generator, ends the run: its status is "interrupted".
        """
        ...

    def names(self, turn: str | None) -> Mapping[str, str]:
        """Return the person's names alive in a state, each with a summary of its value."""
        ...

    def expect(self, parent: str | None, turns: int) -> None:
        """Say that so many turns are about to run from a state, where it is there."""
        ...

    def forget(self, turn: str) -> None:
        """Drop a state that nobody will return to."""
        ...

    def file(self, name: str) -> bytes | None:
        """Return a file of the state that ran last, named as in its Execution; None where it is no ordinary file."""
        ...

    def restore(self, turns: Sequence[tuple[str, str]]) -> list[Execution]:
        """Rebuild the states of a branch, (id, code) from the oldest on, by running the code again."""
        ...


def last_execution(events: Iterator[Output | Execution]) -> Execution:
    """Drain an execution and return its result."""
    result: Execution | None = None
    for event in events:
        if isinstance(event, Execution):
            result = event
    if result is None:
        raise AssertionError("an executor ended without an Execution")
    return result


@dataclass(frozen=True, slots=True)
class Limits:
    """What a turn may use. Seconds of wall clock, bytes, and counts."""

    timeout: float = 20.0
    memory: int = 1 << 30
    processes: int = 32
    output: int = 64 << 10
    disk: int = 64 << 20
    files: int = 4096
