"""One turn, start to end, as an iterator of events.

Words become a prompt, the prompt candidates, the candidates run from the same state, one of them is kept and joins the history.
Nothing is owned here: the completer, the executor and the history are referred to, and all that lasts is in the history. A turn
whose code failed, and what was interrupted, is kept there too, not accepted: neither the prompt nor the namespace knows of it.

Nothing that was generated is lost: what a Ctrl-C, a closed iterator or a failing sandbox leaves behind stays in the history as a
candidate that is not accepted. A Ctrl-C may be met here, or by who shows the events; handed in with `throw(KeyboardInterrupt)` it
ends the turn in the same way, and the remaining events still come.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

from codegen_chat import prompt as prompts
from codegen_chat.choose import RULES, Ran, Rule, choose, examples, normal
from codegen_chat.errors import ModelUnavailable, UsageError
from codegen_chat.guard import blank
from codegen_chat.guard import guard as guarding
from codegen_chat.literals import copying
from codegen_chat.session.history import History, new_id
from codegen_chat.turn import (
    Accept,
    Completed,
    Completer,
    Completion,
    Delta,
    Execution,
    Executor,
    Output,
    Prompt,
    Sampling,
    Turn,
    last_execution,
)

ROOT = "header"
"""The state before the first turn: the sandbox's empty one, in which what the prompt begins with has run."""

FALLBACK_TEMPERATURE = 0.6
"""For whatever must differ from the greedy answer: further candidates, a retry, a second try after comments."""

ATTEMPT_SEEDS = 1000
"""How far apart the seeds of two attempts at one turn are: more than anyone asks for candidates."""


@dataclass(frozen=True, slots=True)
class Options:
    """How turns are run. `sampling` None: the checkpoint's own; `timeout` in seconds, None: the sandbox's own.

    `fallback`: where one answer was asked for and its code fails, so many more are drawn, and the best is kept; 0: none.
    `guard`: a line that cannot stand is drawn again while it is written. `rules`: how to choose among candidates.
    """

    samples: int = 1
    fallback: int = 0
    guard: bool = True
    sampling: Sampling | None = None
    max_new_tokens: int = 256
    timeout: float | None = None
    execute: bool = True
    rules: tuple[Rule, ...] = RULES


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
class Chosen:
    """Among `of` candidates the results chose this one; `reason` says in a few words why."""

    candidate: int
    of: int
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


Event = Delta | Completed | Output | Executed | Fallback | Chosen | Evicted | Notice | Committed
Events = Generator[Event, None, None]


class Conversation:
    """Runs turns on a history. Without a completer only the person's own code runs; without an executor nothing does.

    `options` may be replaced between turns.
    """

    def __init__(
        self, completer: Completer | None, executor: Executor | None, history: History, options: Options | None = None
    ) -> None:
        self.completer = completer
        self.executor = executor
        self.history = history
        self.options = options or Options()
        self._rooted: Executor | None = None

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The accepted branch, oldest first."""
        return self.history.turns

    def prompt_text(self, text: str = "") -> str:
        """Return the exact text that the model would continue, asked for `text` now."""
        if self.completer is None:
            return prompts.render(self.turns, text)
        return self._fit(self.completer, self.turns, text).prompt_text

    def names(self) -> Mapping[str, str]:
        """Return the person's names alive now, each with a summary of its value; none where nothing is executed."""
        executor = self._sandbox()
        if executor is None:
            return {}
        given = executor.names(ROOT)
        return {name: what for name, what in executor.names(self.history.head or ROOT).items() if given.get(name) != what}

    def run(self, text: str, *, samples: int | None = None) -> Events:
        """Ask the model for a turn and run its answer.

        Raises at the first event: UsageError without words, ModelUnavailable without a model, ContextWindowExceeded.
        """
        if not text.strip():
            raise UsageError("a turn needs words: say in a line what the code should do")
        yield from self._ask(text.strip(), self.turns, samples or self.options.samples)

    def run_code(self, code: str, *, text: str = "") -> Events:
        """Run code as a turn without asking the model: the person's own, or with its words that of a recorded turn.

        It joins the prompt. Raises UsageError where there is no code.
        """
        if blank(code):
            raise UsageError("there is no code to run")
        candidates = [_Candidate(0, Turn(new_id(), self.history.head, text.strip(), prompts.code(code), accepted=False))]

        def steps() -> Events:
            yield from self._run(candidates)
            yield from self._settle(candidates)

        yield from self._keeping(candidates, steps())

    def retry(self, *, samples: int | None = None, temperature: float | None = None) -> Events:
        """Ask for the last turn again, with seeds not used for it before and never greedily.

        The last turn is one that failed just now, or else the last accepted one, whose place the new one takes once it is
        accepted. Raises UsageError where no words of the person came last.
        """
        turns = self.turns
        latest = self.history.all_turns[-1:]
        if latest and not latest[0].accepted and latest[0].parent == self.history.head:
            last = latest[0]
        elif turns:
            last, turns = turns[-1], turns[:-1]
        else:
            raise UsageError("there is no turn to retry yet")
        if not last.text:
            raise UsageError("the last turn is your own code: there is nothing for the model to try again")
        attempt = sum(turn.parent == last.parent for turn in self.history.all_turns)
        yield from self._ask(last.text, turns, samples or self.options.samples, attempt, temperature)

    def undo(self) -> Turn | None:
        """Leave the last turn, in prompt and namespace at once. Returns it; None at the beginning."""
        return self.history.undo()

    def redo(self) -> Turn | None:
        """Take back the last undo. Returns the turn that counts again; None where there is none."""
        return self.history.redo()

    def resume(self) -> list[Execution]:
        """Rebuild the namespace of a history that was opened again, by running its accepted code. Returns what each turn did."""
        if self.executor is None or not self.options.execute:
            return []
        self._rooted = self.executor
        return self.executor.restore([(ROOT, prompts.HEADER), *((turn.id, turn.code) for turn in self.turns)])[1:]

    def check(self, expression: str) -> tuple[bool, str]:
        """Tell whether an expression holds in the state of the last turn, and if not, why, in a line.

        It is evaluated in a throw-away fork. What it says can be forged by the code that it judges.
        """
        executor = self._sandbox()
        if executor is None:
            return False, "nothing was executed"
        try:
            tree = ast.parse(expression.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            return False, f"not a Python expression: {error.args[0]}"
        # The newline keeps a comment from hiding the bracket; `not not` cannot be rebound as `bool` can.
        result = self._evaluate(executor, f"not not (\n{expression}\n)")
        if result.value == "True":
            return True, ""
        if result.status != "ok":
            return False, f"{result.failure.type}: {result.failure.message}" if result.failure else result.status
        if isinstance(tree, ast.Compare):
            left = ast.unparse(tree.left)
            return False, f"{left} is {self._evaluate(executor, left).value}"
        return False, "it is not true"

    # ------------------------------------------------------------ the parts of a turn

    def _sandbox(self) -> Executor | None:
        """Return the executor with its root state; None where nothing is executed."""
        if self.executor is None or not self.options.execute:
            return None
        if self._rooted is not self.executor:
            begun = last_execution(self.executor.execute(prompts.HEADER, parent=None, turn=ROOT))
            self._rooted = self.executor if begun.status == "ok" else None
        return self.executor

    def _fit(self, completer: Completer, turns: Sequence[Turn], text: str) -> prompts.Fit:
        return prompts.fit(turns, text, completer.count, completer.window, self.options.max_new_tokens)

    def _evaluate(self, executor: Executor, code: str) -> Execution:
        return last_execution(executor.execute(code, parent=self.history.head or ROOT, turn=None, timeout=self.options.timeout))

    def _ask(self, text: str, turns: Sequence[Turn], samples: int, attempt: int = 0, temperature: float | None = None) -> Events:
        """Run one turn after `turns`: draw candidates, execute them, choose, commit."""
        completer = self.completer
        if completer is None:
            raise ModelUnavailable("no model is loaded: name one by -m, or run code of your own")
        fitted = self._fit(completer, turns, text)
        if fitted.newly:
            yield Evicted(fitted.newly, fitted.tokens)
        executor = self._sandbox()
        if samples > 1 and executor is None:
            yield Notice("Candidates are compared by what they do, and nothing is executed: one was drawn.")
            samples = 1

        parent = turns[-1].id if turns else None
        accept = guarding(executor.names(parent or ROOT) if executor else None) if self.options.guard else None
        candidates: list[_Candidate] = []

        def more(count: int) -> Events:
            """Draw so many further candidates."""
            fresh = range(len(candidates), len(candidates) + count)
            drawn = [_Candidate(index, Turn(new_id(), parent, text, "", accepted=False)) for index in fresh]
            candidates.extend(drawn)
            draws = [self._sampling(completer, attempt, index, temperature) for index in fresh]
            yield from self._draw(completer, drawn, fitted.prompt_text, draws, accept)
            if any(candidate.interrupted for candidate in drawn):
                raise KeyboardInterrupt

        def steps() -> Events:
            yield from more(samples)
            yield from self._run(candidates)
            if self.options.fallback and len(candidates) == 1 and candidates[0].failed:
                yield Fallback(self.options.fallback)
                yield from more(self.options.fallback)
                yield from self._run(candidates)
            yield from self._settle(candidates)

        yield from self._keeping(candidates, steps())

    def _sampling(self, completer: Completer, attempt: int, index: int, temperature: float | None) -> Sampling:
        """Return how to draw a candidate: the first of the first attempt as the checkpoint wants it, no other one greedily."""
        own = self.options.sampling or completer.sampling
        temperature = own.temperature if temperature is None else temperature
        if attempt or index:
            temperature = temperature or FALLBACK_TEMPERATURE
        return replace(own, temperature=temperature, seed=own.seed + ATTEMPT_SEEDS * attempt + index)

    def _draw(
        self, completer: Completer, drawn: list[_Candidate], prompt_text: str, draws: list[Sampling], accept: Accept | None
    ) -> Events:
        """Let the model write candidates together; where only comments come, once more with a leading one banned.

        One is shown as it grows, several each as a whole.
        """
        room = self.options.max_new_tokens
        copy = copying(drawn[0].turn.text) if self.options.guard else None
        prompt = Prompt(prompt_text, prompts.conversation_stop, room, copy)
        yield from self._complete(completer, drawn, prompt, draws, accept)
        for candidate, sampling in zip(drawn, draws, strict=True):
            if blank(candidate.turn.code) and not candidate.interrupted:
                yield Notice("Only comments came: drawn again, with a leading comment banned.")
                temperature = sampling.temperature or FALLBACK_TEMPERATURE
                again = replace(sampling, temperature=temperature, seed=sampling.seed + ATTEMPT_SEEDS // 2)
                uncommented = Prompt(prompt_text, prompts.uncommented_stop, room, copy)
                yield from self._complete(
                    completer,
                    [candidate],
                    uncommented,
                    [again],
                    lambda text: not blank(text) and (accept is None or accept(text)),
                )
            if len(drawn) > 1:
                yield Delta(candidate.completion.text, candidate.index)
            yield Completed(candidate.completion, candidate.index)

    def _complete(
        self, completer: Completer, drawn: list[_Candidate], prompt: Prompt, draws: list[Sampling], accept: Accept | None
    ) -> Events:
        """Run completions of one prompt. The candidates and the history know at any time what is written so far."""
        for candidate, sampling in zip(drawn, draws, strict=True):
            candidate.write(Completion("", "interrupted", seed=sampling.seed))
            self.history.begin(candidate.turn.id, candidate.turn.text, seed=sampling.seed)

        def take(event: Delta | Completed) -> Event | None:
            candidate = drawn[event.candidate]
            if isinstance(event, Completed):
                candidate.write(event.completion)
                return None
            candidate.write(replace(candidate.completion, text=candidate.completion.text + event.text))
            self.history.stream(candidate.turn.id, event.text)
            return replace(event, candidate=candidate.index) if len(drawn) == 1 else None

        with suppress(KeyboardInterrupt):  # the candidates say that they were interrupted
            yield from _relay(completer.complete_many(prompt, draws, accept=accept), take)

    def _run(self, candidates: list[_Candidate]) -> Events:
        """Execute the candidates that do something and have not run, until one is interrupted. A program runs once."""
        executor = self._sandbox()
        if executor is None:
            return
        ran: dict[str, _Candidate] = {}
        for candidate in candidates:
            if blank(candidate.turn.code):
                continue
            first = ran.setdefault(normal(candidate.turn.code), candidate)
            if candidate.turn.execution is not None:
                continue
            if first.turn.execution is not None:
                first.count += 1
                candidate.like = first.index
                candidate.turn = replace(candidate.turn, execution=first.turn.execution)
                yield Executed(first.turn.execution, candidate.index)
                continue
            execution = yield from self._execute(executor, candidate)
            if execution.status == "interrupted":
                return

    def _settle(self, candidates: list[_Candidate]) -> Events:
        """Let the results choose among the candidates, and commit the chosen one."""
        runnable = [candidate for candidate in candidates if not blank(candidate.turn.code)]
        if not runnable:
            yield Notice("The model wrote no code: say it in other words.")
            yield self._commit(candidates, candidates[0].turn)
            return
        executor = self._sandbox()
        if executor is None:
            yield self._commit(candidates, replace(runnable[0].turn, accepted=True))
            return
        ran = [candidate for candidate in runnable if candidate.turn.execution and candidate.like is None]
        best, reason = ran[-1], "it was interrupted"
        if best.turn.execution and best.turn.execution.status != "interrupted":
            choice = choose(self._judged(executor, ran), candidates[0].turn.text, self.options.rules)
            best, reason = ran[choice.index], choice.reason
        for candidate in ran:
            if candidate is not best and candidate.turn.accepted:
                executor.forget(candidate.turn.id)
        if len(candidates) > 1:
            yield Chosen(best.index, len(candidates), reason)
        yield self._commit(candidates, best.turn)

    def _judged(self, executor: Executor, ran: list[_Candidate]) -> list[Ran]:
        """Return what is known of candidates that have run. Examples in the words are tried in a throw-away fork of each."""
        tests = examples(ran[0].turn.text) if len(ran) > 1 else []

        def holds(candidate: _Candidate, test: str) -> bool:
            code = f"not not ({test})"
            running = executor.execute(code, parent=candidate.turn.id, turn=None, timeout=self.options.timeout)
            return last_execution(running).value == "True"

        return [
            Ran(
                candidate.turn.execution or Execution("interrupted"),
                candidate.turn.completion.logprob if candidate.turn.completion else 0.0,
                candidate.count,
                sum(holds(candidate, test) for test in tests) if candidate.turn.accepted else 0,
            )
            for candidate in ran
        ]

    def _execute(self, executor: Executor, candidate: _Candidate) -> Generator[Event, None, Execution]:
        """Run a candidate; it is accepted if its code did not fail."""
        result = Execution("interrupted")

        def take(event: Output | Execution) -> Event | None:
            nonlocal result
            if isinstance(event, Execution):
                result = event
                return None
            field = {event.stream: getattr(result, event.stream) + event.text}
            result = replace(result, **field)
            return replace(event, candidate=candidate.index)

        turn = candidate.turn
        with suppress(KeyboardInterrupt):  # the result says so
            yield from _relay(
                executor.execute(turn.code, parent=turn.parent or ROOT, turn=turn.id, timeout=self.options.timeout), take
            )
        candidate.turn = replace(turn, execution=result, accepted=result.status == "ok")
        yield Executed(result, candidate.index)
        return result

    def _commit(self, candidates: list[_Candidate], turn: Turn) -> Committed:
        candidates.clear()
        self.history.append(turn)
        return Committed(turn)

    def _keeping(self, candidates: list[_Candidate], steps: Events) -> Events:
        """Pass on the steps of a turn. Whatever ends them early, what the candidates hold stays in the history, not accepted."""
        try:
            yield from steps
        except KeyboardInterrupt:
            yield from self._commit_unaccepted(candidates)
        finally:
            for _ in self._commit_unaccepted(candidates):
                """Nobody listens any more."""

    def _commit_unaccepted(self, candidates: list[_Candidate]) -> Events:
        while candidates:
            turn = candidates.pop(0).turn
            if turn.accepted and self.executor:
                self.executor.forget(turn.id)
            self.history.append(replace(turn, accepted=False))
            yield Committed(replace(turn, accepted=False))


@dataclass(slots=True)
class _Candidate:
    """A turn in the making: at any time, `turn` has all that is known of it."""

    index: int
    turn: Turn
    count: int = 1
    """How many candidates wrote its program."""
    like: int | None = None
    """The earlier candidate that wrote the same program, and ran in its place."""

    @property
    def completion(self) -> Completion:
        if self.turn.completion is None:
            raise AssertionError("the person's own code has no completion")
        return self.turn.completion

    @property
    def interrupted(self) -> bool:
        return self.completion.finish_reason == "interrupted"

    @property
    def failed(self) -> bool:
        return self.turn.execution is not None and self.turn.execution.status not in {"ok", "interrupted"}

    def write(self, completion: Completion) -> None:
        self.turn = replace(self.turn, completion=completion, code=prompts.code(completion.text))


_E = TypeVar("_E")


def _relay(stream: Generator[_E, None, None], take: Callable[[_E], Event | None]) -> Events:
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
