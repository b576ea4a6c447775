"""One turn, start to end, as an iterator of events.

Words become a prompt, the prompt candidates, the candidates run from the same state, one of them is kept and joins the history.
Nothing is owned here: the completer, the executor and the history are referred to, and all that lasts is in the history. A turn
whose code failed, and what was interrupted, is kept there too, not accepted: neither the prompt nor the namespace knows of it.

Nothing that was generated is lost: what a Ctrl-C, a closed iterator or a failing sandbox leaves behind stays in the history as a
candidate that is not accepted. A Ctrl-C may be met here, or by who shows the events; handed in with `throw(KeyboardInterrupt)` it
ends the turn in the same way, and the remaining events still come. One event is a question: `Proposed` is answered by `send`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from codegen_chat import prompt as prompts
from codegen_chat import remark
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
from codegen_chat.wishes import missed

ROOT = "header"
"""The state before the first turn: the sandbox's empty one, in which what the prompt begins with has run."""

FALLBACK_TEMPERATURE = 0.8
"""For whatever must differ from the greedy answer: further candidates, a retry, a second try after comments."""

FIXES = 4
"""How many candidates mend a failed turn where nothing is set for that."""

ATTEMPT_SEEDS = 1000
"""How far apart the seeds of two attempts at one turn are: more than anyone asks for candidates."""


@dataclass(frozen=True, slots=True)
class Options:
    """How turns are run. `sampling` None: the checkpoint's own; `timeout` in seconds, None: the sandbox's own.

    `fallback`: where one answer was asked for and its code fails, so many more are drawn, and the best is kept; 0: none.
    `guard`: a line that cannot stand is drawn again while it is written. `ask`: the model's code runs once the person says so.
    `rules`: how to choose among candidates. `keep`: the states of those not chosen stay, for who goes on from each of them.
    """

    samples: int = 1
    fallback: int = 0
    guard: bool = True
    sampling: Sampling | None = None
    max_new_tokens: int = 256
    timeout: float | None = None
    execute: bool = True
    ask: bool = False
    rules: tuple[Rule, ...] = RULES
    keep: bool = False


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


class Conversation:
    """Runs turns on a history. Without a completer only the person's own code runs; without an executor nothing does.

    `options` may be replaced between turns. `judged` has what chose among the last turn's candidates: those that ran, each
    program once, and what is known of each.
    """

    def __init__(
        self, completer: Completer | None, executor: Executor | None, history: History, options: Options | None = None
    ) -> None:
        self.completer = completer
        self.executor = executor
        self.history = history
        self.options = options or Options()
        self.judged: tuple[tuple[Turn, Ran], ...] = ()
        self._rooted: Executor | None = None
        self._built: set[str] = set()  # turns whose states the executor knows
        self._spare: tuple[str, ...] = ()  # states of the last turn's other candidates, for `pick`

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The accepted branch, oldest first."""
        return self.history.turns

    def prompt_text(self, text: str = "") -> str:
        """Return the exact text that the model would continue, asked for `text` now."""
        if self.completer is None:
            return prompts.render(self._shown(self.turns), text)
        return self._fit(self.completer, self.turns, Turn("", None, text, "")).prompt_text

    def window(self) -> prompts.Window:
        """Return how the model's window is filled, and what goes next. Raises ModelUnavailable without a model."""
        completer, history = self._model(), self.history
        most = self.options.max_new_tokens
        return prompts.plan(self.turns, completer.count, completer.window, most, pinned=history.pinned, hidden=history.hidden)

    def names(self) -> Mapping[str, str]:
        """Return the person's names alive now, each with a summary of its value; none where nothing is executed."""
        executor = self._sandbox()
        if executor is None:
            return {}
        given = executor.names(ROOT)
        alive = executor.names(self._state(executor, self.history.head))
        return {name: what for name, what in alive.items() if given.get(name) != what}

    def attributes(self, expression: str) -> list[str]:
        """Return the public attributes of what a dotted name stands for now; none where it stands for nothing."""
        executor = self._sandbox()
        if executor is None:
            return []
        typed = self._evaluate(executor, f"[name for name in dir({expression}) if name[:1] != '_']").typed_value
        return [name for name in typed.data if isinstance(name, str)] if typed and isinstance(typed.data, list) else []

    def file(self, turn: Turn, name: str) -> bytes | None:
        """Return a file that a turn wrote, named as in its Execution, as it was after the turn; None where it is gone."""
        executor = self._sandbox()
        if executor is None:
            return None
        last_execution(executor.execute("", parent=self._state(executor, turn.id), turn=None))  # its files are laid out by that
        return executor.file(name)

    def run(self, text: str, *, given: str = "", samples: int | None = None) -> Events:
        """Ask the model for a turn and run its answer. `given` are first lines of the code, which the model goes on with.

        A variable that the words name by `@name` is described in the prompt.

        Raises at the first event: UsageError without words, ModelUnavailable without a model, ContextWindowExceeded.
        """
        if not (text.strip() or given.strip()):
            raise UsageError("a turn needs words: say in a line what the code should do")
        yield from self._say(text, given, self.turns, samples or self.options.samples)

    def run_code(self, code: str, *, text: str = "") -> Events:
        """Run code as a turn without asking the model: the person's own, or with its words that of a recorded turn.

        It joins the prompt. Raises UsageError where there is no code.
        """
        if blank(code):
            raise UsageError("there is no code to run")
        yield from self._play(Turn("", self.history.head, text.strip(), prompts.code(code)))

    def retry(self, *, samples: int | None = None, temperature: float | None = None) -> Events:
        """Ask for the last turn again, with seeds not used for it before and never greedily.

        The last turn is one that failed just now, or else the last accepted one, whose place the new one takes once it is
        accepted. Raises UsageError where no words of the person came last.
        """
        turns = self.turns
        last = self._latest()
        if last is None:
            raise UsageError("there is no turn to retry yet")
        if not (last.text or last.given):
            raise UsageError("the last turn is your own code: there is nothing for the model to try again")
        turns = turns[:-1] if last.accepted else turns
        yield from self._ask(last, turns, samples or self.options.samples, again=True, temperature=temperature)

    def fix(self, *, samples: int | None = None) -> Events:
        """Ask for the turn that failed last once more: the prompt tells how it failed. Some candidates are drawn and run.

        Raises UsageError where the last turn did not fail.
        """
        last = self._latest()
        if last is None or last.accepted or last.execution is None or last.execution.status == "interrupted":
            raise UsageError("/fix mends a turn that failed, and the last one did not")
        wanted = replace(last, text=last.text or "Write this code without its error.", remarks=remark.error(last), given="")
        yield from self._ask(wanted, self.turns, samples or self.options.fallback or FIXES, again=True)

    @property
    def candidates(self) -> tuple[Turn, ...]:
        """The answers to the last turn, in the order in which they were drawn."""
        last = self._latest()
        return self.history.rivals(last.id) if last else ()

    def pick(self, number: int) -> Events:
        """Take another candidate of the last turn, counted from 1, with the state that it made. One that never ran runs now.

        Raises UsageError where there is no such candidate, or it failed.
        """
        candidates = self.candidates
        if not 1 <= number <= len(candidates):
            raise UsageError(f"there is no candidate {number}: the last turn has {len(candidates)}; /retry N draws more")
        picked = candidates[number - 1]
        if picked.id == self.history.head:
            yield Notice(f"candidate {number} is the one that is kept already.")
        elif picked.execution is None and not blank(picked.code):
            yield from self._play(picked)
        elif picked.execution and picked.execution.status == "ok":
            self.history.go(picked.id)
            yield from _retold(replace(picked, accepted=True))
        else:
            raise UsageError(f"candidate {number} does not run: /pick takes one that does, /fix mends it")

    def edit(self, number: int, text: str, *, code: str | None = None, given: str = "") -> Events:
        """Change a turn of the branch, counted from 1, and run again what follows it; all on a new branch.

        With `code` the turn is that code, else the model is asked anew. A later turn that fails now ends it there. Raises
        UsageError where there is no such turn.
        """
        turns = self.turns
        changed = self._numbered(number)
        if code is not None:
            yield from self._play(Turn("", changed.parent, text.strip(), prompts.code(code)))
        else:
            yield from self._say(text, given, turns[: number - 1], self.options.samples)
        if self.history.head == (turns[-1].id if turns else None):
            return  # it failed: nothing has changed
        for place, before in enumerate(turns[number:], number + 1):
            for _ in self._play(replace(before, parent=self.history.head)):
                """What came of it is told as a whole."""
            after = self.history.all_turns[-1]
            yield Replayed(place, before, after)
            if not after.accepted:
                yield Notice(f"Turn {place} does not run any more: it and what follows are left behind.")
                return
            for mark, marked in (("hidden", self.history.hidden), ("pinned", self.history.pinned)):
                if before.id in marked:
                    self.history.mark(after.id, mark)

    def fork(self, number: int) -> None:
        """Go back to where turn `number` had ended, 0 for the beginning; what follows stays as a branch. Raises UsageError."""
        self.history.go(self._numbered(number).id if number else None)

    def switch(self, number: int) -> None:
        """Go to the end of a branch, counted from 1 as in `history.branches`. Raises UsageError."""
        branches = self.history.branches
        if not 1 <= number <= len(branches):
            raise UsageError(f"there is no branch {number}: /branches shows {len(branches)}")
        self.history.go(branches[number - 1][-1].id)

    def hide(self, number: int) -> bool:
        """Leave a turn out of the prompt, or take it in again; its variables live on. Returns whether it is hidden now."""
        return self.history.mark(self._numbered(number).id, "hidden")

    def pin(self, number: int) -> bool:
        """Keep a turn in the window whatever goes, or no longer. Returns whether it is pinned now."""
        return self.history.mark(self._numbered(number).id, "pinned")

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
        self._built = {turn.id for turn in self.turns}
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
            self._built = set()
        return self.executor

    def _state(self, executor: Executor, turn: str | None) -> str:
        """Return the name of a turn's state. Where the executor does not know it (another branch, resumed), it is built again."""
        missing = []
        while turn is not None and turn not in self._built:
            missing.append(self.history.turn(turn))
            turn = missing[-1].parent
        for step in reversed(missing):
            last_execution(executor.execute(step.code, parent=turn or ROOT, turn=step.id, timeout=self.options.timeout))
            self._built.add(step.id)
            turn = step.id
        return turn or ROOT

    def _forget(self, executor: Executor, turn: str) -> None:
        executor.forget(turn)
        self._built.discard(turn)

    def _model(self) -> Completer:
        if self.completer is None:
            raise ModelUnavailable("no model is loaded: name one by -m, or run code of your own")
        return self.completer

    def _latest(self) -> Turn | None:
        """Return the turn that was tried last where it failed just now, or else the last accepted one."""
        latest = self.history.all_turns[-1:]
        if latest and not latest[0].accepted and latest[0].parent == self.history.head:
            return latest[0]
        return self.turns[-1] if self.turns else None

    def _numbered(self, number: int) -> Turn:
        turns = self.turns
        if not 1 <= number <= len(turns):
            there = f"/show lists {len(turns)}" if turns else "there is none yet"
            raise UsageError(f"there is no turn {number}: {there}")
        return turns[number - 1]

    def _fit(self, completer: Completer, turns: Sequence[Turn], wanted: Turn) -> prompts.Fit:
        return prompts.fit(
            self._shown(turns),
            wanted.text,
            completer.count,
            completer.window,
            self.options.max_new_tokens,
            pinned=self.history.pinned,
            remarks=wanted.remarks,
            given=wanted.given,
        )

    def _shown(self, turns: Sequence[Turn]) -> list[Turn]:
        return [turn for turn in turns if turn.id not in self.history.hidden]

    def _evaluate(self, executor: Executor, code: str) -> Execution:
        parent = self._state(executor, self.history.head)
        return last_execution(executor.execute(code, parent=parent, turn=None, timeout=self.options.timeout))

    def _say(self, text: str, given: str, turns: Sequence[Turn], samples: int) -> Events:
        """Ask for a turn after `turns` in words; the values that they ask for are told above them."""
        names = prompts.mentioned(text)
        alive = self.names() if names else {}
        executor = self._sandbox()
        told = tuple(
            remark.value(name, alive[name], self._evaluate(executor, name)) for name in names if executor and name in alive
        )
        for name in names:
            if name not in alive:
                yield Notice(f"There is no variable {name}: @{name} stays as it is.")
        yield from self._ask(Turn("", None, text.strip(), "", given=given.strip("\n").rstrip(), remarks=told), turns, samples)

    def _play(self, wanted: Turn) -> Events:
        """Run a turn whose code is there: the person's own, one that never ran, or one that runs again somewhere else."""
        candidates = [_Candidate(0, replace(wanted, id=new_id(), execution=None, accepted=False))]

        def steps() -> Events:
            yield from self._run(candidates)
            yield from self._settle(candidates)

        yield from self._keeping(candidates, steps())

    def _ask(
        self, wanted: Turn, turns: Sequence[Turn], samples: int, *, again: bool = False, temperature: float | None = None
    ) -> Events:
        """Run one turn after `turns`, asked for as `wanted` was: draw candidates, execute them, choose, commit.

        `again`: it was tried before, so the seeds are others.
        """
        completer = self._model()
        fitted = self._fit(completer, turns, wanted)
        if fitted.newly:
            yield Evicted(fitted.newly, fitted.tokens)
        executor = self._sandbox()
        if samples > 1 and executor is None:
            yield Notice("Candidates are compared by what they do, and nothing is executed: one was drawn.")
            samples = 1

        parent = turns[-1].id if turns else None
        wanted = Turn("", parent, wanted.text, "", accepted=False, given=wanted.given, remarks=wanted.remarks)
        attempt = sum(turn.parent == parent for turn in self.history.all_turns) if again else 0
        alive = executor.names(self._state(executor, parent)) if executor else None
        accept = guarding(alive) if self.options.guard else None
        candidates: list[_Candidate] = []
        self.judged = ()

        def more(count: int) -> Events:
            """Draw so many further candidates."""
            fresh = range(len(candidates), len(candidates) + count)
            drawn = [_Candidate(index, replace(wanted, id=new_id())) for index in fresh]
            candidates.extend(drawn)
            draws = [self._sampling(completer, attempt, index, temperature) for index in fresh]
            yield from self._draw(completer, drawn, fitted.prompt_text, draws, accept)
            if any(candidate.interrupted for candidate in drawn):
                raise KeyboardInterrupt

        def steps() -> Events:
            if samples > 1:
                yield Several(samples)
            yield from more(samples)
            yield from self._run(candidates, ask=self.options.ask)
            if self.options.fallback and len(candidates) == 1 and candidates[0].failed and not self.options.ask:
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
        given = drawn[0].turn.given
        stop = prompts.continuing(prompts.conversation_stop) if given else prompts.conversation_stop
        copy = copying(drawn[0].turn.text) if self.options.guard else None
        prompt = Prompt(prompt_text, stop, room, copy)
        if given and len(drawn) == 1:
            yield Delta(given, drawn[0].index)
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
                yield Delta(given + candidate.completion.text, candidate.index)
            yield Completed(candidate.completion, candidate.index)

    def _complete(
        self, completer: Completer, drawn: list[_Candidate], prompt: Prompt, draws: list[Sampling], accept: Accept | None
    ) -> Events:
        """Run completions of one prompt. The candidates and the history know at any time what is written so far."""
        for candidate, sampling in zip(drawn, draws, strict=True):
            candidate.write(Completion("", "interrupted", seed=sampling.seed))
            self.history.begin(candidate.turn.id, candidate.turn.text, seed=sampling.seed, given=candidate.turn.given)
        given = drawn[0].turn.given
        if given and accept:
            guard, accept = accept, lambda text: guard(given + text)

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

    def _run(self, candidates: list[_Candidate], *, ask: bool = False) -> Events:
        """Execute the candidates that do something and have not run, until one is interrupted. A program runs once.

        With `ask` only those that the person wants.
        """
        executor = self._sandbox()
        if executor is None:
            return
        for spare in self._spare:
            if spare != self.history.head and not self.options.keep:
                self._forget(executor, spare)
        self._spare = ()
        ran: dict[str, _Candidate] = {}
        for candidate in candidates:
            if ask and not blank(candidate.turn.code):
                answer = yield Proposed(candidate.turn.code, candidate.index)
                if answer is not None and blank(answer):
                    continue
                candidate.turn = replace(candidate.turn, code=candidate.turn.code if answer is None else prompts.code(answer))
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
        if not ran:  # the person wanted none of them
            yield self._commit(candidates, runnable[0].turn)
            return
        best, reason = ran[-1], "it was interrupted"
        if best.turn.execution and best.turn.execution.status != "interrupted":
            known = self._known(executor, ran)
            choice = choose(known, self.options.rules)
            best, reason = ran[choice.index], choice.reason
            self.judged = tuple((candidate.turn, judged) for candidate, judged in zip(ran, known, strict=True))
        self._spare = tuple(one.turn.id for one in ran if one is not best and one.turn.accepted)
        if len(candidates) > 1:
            yield Chosen(best.turn, tuple(candidate.turn for candidate in candidates), reason)
        yield self._commit(candidates, best.turn)

    def _known(self, executor: Executor, ran: list[_Candidate]) -> list[Ran]:
        """Return what is known of candidates that have run. Examples in the words are tried in a throw-away fork of each."""
        first = ran[0].turn
        tests = examples(first.text) if len(ran) > 1 or self.options.keep else []
        alive = executor.names(self._state(executor, first.parent))

        def holds(candidate: _Candidate, test: str) -> bool:
            code = f"not not ({test})"
            running = executor.execute(code, parent=candidate.turn.id, turn=None, timeout=self.options.timeout)
            return last_execution(running).value == "True"

        def known(candidate: _Candidate) -> Ran:
            turn = candidate.turn
            execution = turn.execution or Execution("interrupted")
            return Ran(
                execution,
                turn.completion.logprob if turn.completion else 0.0,
                candidate.count,
                sum(holds(candidate, test) for test in tests) if turn.accepted else 0,
                missed(turn.text, turn.code, execution, alive),
            )

        return list(map(known, ran))

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
        parent = self._state(executor, turn.parent)
        with suppress(KeyboardInterrupt):  # the result says so
            yield from _relay(executor.execute(turn.code, parent=parent, turn=turn.id, timeout=self.options.timeout), take)
        if result.status == "ok":
            self._built.add(turn.id)
        candidate.turn = replace(turn, execution=result, accepted=result.status == "ok")
        yield Executed(result, candidate.index)
        return result

    def _commit(self, candidates: list[_Candidate], turn: Turn) -> Committed:
        drawn = [turn if candidate.turn.id == turn.id else candidate.turn for candidate in candidates]
        candidates.clear()
        self.history.append(turn, drawn)
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
        """Keep what there is: the first candidate as the turn, the others beside it."""
        if not candidates:
            return
        for candidate in candidates:
            if candidate.turn.accepted and self.executor:
                self._forget(self.executor, candidate.turn.id)
            candidate.turn = replace(candidate.turn, accepted=False)
        yield self._commit(candidates, candidates[0].turn)


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
        self.turn = replace(self.turn, completion=completion, code=prompts.code(self.turn.given + completion.text))


def _retold(turn: Turn) -> Events:
    """Tell a turn that ran before as if it ran now."""
    yield Delta(turn.code)
    if turn.execution:
        streams: tuple[tuple[Literal["stdout", "stderr"], str], ...] = (
            ("stdout", turn.execution.stdout),
            ("stderr", turn.execution.stderr),
        )
        for stream, text in streams:
            if text:
                yield Output(stream, text)
        yield Executed(turn.execution)
    yield Committed(turn)


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
