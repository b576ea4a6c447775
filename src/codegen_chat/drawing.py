"""A turn in the making, and how the model writes it: candidates drawn from one prompt, each known at any time as far as it is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from codegen_chat import prompt as prompts
from codegen_chat.events import Event, Events, Notice
from codegen_chat.guard import blank
from codegen_chat.session.history import History
from codegen_chat.turn import Accept, Completed, Completer, Completion, Copy, Delta, Prompt, Sampling, Stop, Turn

FALLBACK_TEMPERATURE = 0.8
"""For whatever must differ from the greedy answer: further candidates, a retry, a second try after comments."""

ATTEMPT_SEEDS = 1000
"""How far apart the seeds of two attempts at one turn are: more than anyone asks for candidates."""


@dataclass(slots=True)
class Candidate:
    """A turn in the making: at any time, `turn` has all that is known of it."""

    index: int
    turn: Turn
    count: int = 1
    """How many candidates wrote its program."""
    like: int | None = None
    """The earlier candidate that wrote the same program, and ran in its place."""

    @property
    def completion(self) -> Completion:
        """What the model wrote."""
        if self.turn.completion is None:
            raise AssertionError("the person's own code has no completion")
        return self.turn.completion

    @property
    def interrupted(self) -> bool:
        """Whether the model was."""
        return self.completion.finish_reason == "interrupted"

    @property
    def failed(self) -> bool:
        """Whether its code did."""
        return self.turn.execution is not None and self.turn.execution.status not in {"ok", "interrupted"}

    def write(self, completion: Completion) -> None:
        """Take what the model has written by now."""
        self.turn = replace(self.turn, completion=completion, code=prompts.code(self.turn.given + completion.text))


@dataclass(frozen=True, slots=True)
class Drawing:
    """One turn's prompt, and who continues it. `given` are first lines that stand at its end.

    `sampling` draws the first candidate of the first attempt, no other is greedy; `attempt` counts those before this one.
    `accept` and `copy` are told the code, first lines and all.
    """

    completer: Completer
    history: History
    prompt_text: str
    given: str
    room: int
    sampling: Sampling
    attempt: int = 0
    accept: Accept | None = None
    copy: Copy | None = None

    def draw(self, drawn: list[Candidate]) -> Events:
        """Let the model write candidates together; where only comments come, once more with a leading one banned.

        One is shown as it grows, several each as a whole. Ends with KeyboardInterrupt where one was interrupted.
        """
        stop = prompts.continuing(prompts.conversation_stop) if self.given else prompts.conversation_stop
        samplings = [self._sampling(candidate.index) for candidate in drawn]
        if self.given and len(drawn) == 1:
            yield Delta(self.given, drawn[0].index)
        yield from self._complete(drawn, samplings, stop)
        for candidate, sampling in zip(drawn, samplings, strict=True):
            if blank(candidate.turn.code) and not candidate.interrupted:
                yield Notice("Only comments came: drawn again, with a leading comment banned.")
                temperature = sampling.temperature or FALLBACK_TEMPERATURE
                again = replace(sampling, temperature=temperature, seed=sampling.seed + ATTEMPT_SEEDS // 2)
                yield from self._complete([candidate], [again], prompts.uncommented_stop, code=True)
            if len(drawn) > 1:
                yield Delta(self.given + candidate.completion.text, candidate.index)
            yield Completed(candidate.completion, candidate.index)
        if any(candidate.interrupted for candidate in drawn):
            raise KeyboardInterrupt

    def _sampling(self, index: int) -> Sampling:
        temperature = self.sampling.temperature
        if self.attempt or index:
            temperature = temperature or FALLBACK_TEMPERATURE
        return replace(self.sampling, temperature=temperature, seed=self.sampling.seed + ATTEMPT_SEEDS * self.attempt + index)

    def _complete(self, drawn: list[Candidate], samplings: Sequence[Sampling], stop: Stop, *, code: bool = False) -> Events:
        """Run completions of one prompt. The candidates and the history know at any time what is written so far.

        `code`: not only comments.
        """
        for candidate, sampling in zip(drawn, samplings, strict=True):
            candidate.write(Completion("", "interrupted", seed=sampling.seed))
            self.history.begin(candidate.turn.id, candidate.turn.text, seed=sampling.seed, given=self.given)
        given, accept, copy = self.given, self.accept, self.copy

        def accepts(text: str) -> bool:
            return not (code and blank(text)) and (accept is None or accept(given + text))

        def take(event: Delta | Completed) -> Event | None:
            candidate = drawn[event.candidate]
            if isinstance(event, Completed):
                candidate.write(event.completion)
                return None
            candidate.write(replace(candidate.completion, text=candidate.completion.text + event.text))
            self.history.stream(candidate.turn.id, event.text)
            return replace(event, candidate=candidate.index) if len(drawn) == 1 else None

        copies = copy and (lambda text: copy(given + text))
        prompt = Prompt(self.prompt_text, stop, self.room, copies)
        writing = self.completer.complete_many(prompt, samplings, accept=accepts if accept or code else None)
        with suppress(KeyboardInterrupt):  # the candidates say that they were interrupted
            yield from relay(writing, take)


_E = TypeVar("_E")


def relay(stream: Generator[_E, None, None], take: Callable[[_E], Event | None]) -> Events:
    """Pass on what `take` makes of a stream's events. A Ctrl-C between two of them goes down to the stream, which then ends."""
    with closing(stream):
        try:
            event = next(stream)
            while True:
                try:
                    shown = take(event)
                    if shown is not None:
                        yield shown
                except KeyboardInterrupt as interrupt:
                    event = stream.throw(interrupt)
                else:
                    event = next(stream)
        except StopIteration:
            return
