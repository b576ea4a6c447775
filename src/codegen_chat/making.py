"""One turn, from its candidates to the log: drawn, run from one state, chosen from by what they did, kept.

Nothing that was generated is lost: what a Ctrl-C, a closed iterator or a failing sandbox leaves behind stays in the history as a
candidate that is not accepted. A Ctrl-C may be met here, or by who shows the events; handed in with `throw(KeyboardInterrupt)` it
ends the turn in the same way, and the remaining events still come. One event is a question: `Proposed` is answered by `send`.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, replace

from codegen_chat import prompt as prompts
from codegen_chat.choose import RULES, Ran, Rule, choose, examples, normal
from codegen_chat.drawing import Candidate, Drawing, relay
from codegen_chat.events import Chosen, Committed, Event, Events, Executed, Fallback, Notice, Proposed, Several
from codegen_chat.guard import blank
from codegen_chat.namespace import Namespace
from codegen_chat.session.history import History, new_id
from codegen_chat.turn import Execution, Output, Sampling, Turn
from codegen_chat.wishes import missed


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


class Making:
    """One turn in the making. Its steps are events; when they end, by whatever, the turn is in the history.

    `judged` has what chose among the candidates: those that ran, each program once, and what is known of each.
    """

    def __init__(self, history: History, namespace: Namespace | None, options: Options) -> None:
        self._history = history
        self._namespace = namespace
        self._options = options
        self._candidates: list[Candidate] = []
        self.judged: tuple[tuple[Turn, Ran], ...] = ()

    def play(self, wanted: Turn) -> Events:
        """Run a turn whose code is there: the person's own, one that never ran, or one that runs again somewhere else."""

        def steps() -> Events:
            self._candidates.append(Candidate(0, replace(wanted, id=new_id(), execution=None, accepted=False)))
            yield from self._run()
            yield from self._settle()

        yield from self._keeping(steps())

    def ask(self, wanted: Turn, samples: int, drawing: Drawing) -> Events:
        """Draw candidates for a turn that has no code yet, execute them, choose, commit."""

        def more(count: int) -> Events:
            begin = len(self._candidates)
            drawn = [Candidate(index, replace(wanted, id=new_id())) for index in range(begin, begin + count)]
            self._candidates.extend(drawn)
            if count > 1 and self._namespace is not None:
                self._namespace.expect(wanted.parent, count)
            yield from drawing.draw(drawn)

        def steps() -> Events:
            if samples > 1:
                yield Several(samples)
            yield from more(samples)
            yield from self._run(ask=self._options.ask)
            fallback = self._options.fallback
            if fallback and len(self._candidates) == 1 and self._candidates[0].failed and not self._options.ask:
                yield Fallback(fallback)
                yield from more(fallback)
                yield from self._run()
            yield from self._settle()

        yield from self._keeping(steps())

    def _run(self, *, ask: bool = False) -> Events:
        """Execute the candidates that do something and have not run, until one is interrupted. A program runs once.

        With `ask` only those that the person wants.
        """
        if self._namespace is None:
            return
        if not self._options.keep:
            self._namespace.spare(())
        ran: dict[str, Candidate] = {}
        for candidate in self._candidates:
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
            execution = yield from self._execute(self._namespace, candidate)
            if execution.status == "interrupted":
                return

    def _settle(self) -> Events:
        """Let the results choose among the candidates, and commit the chosen one."""
        candidates = self._candidates
        runnable = [candidate for candidate in candidates if not blank(candidate.turn.code)]
        if not runnable:
            yield Notice("The model wrote no code: say it in other words.")
            yield self._commit(candidates[0].turn)
            return
        if self._namespace is None:
            yield self._commit(replace(runnable[0].turn, accepted=True))
            return
        ran = [candidate for candidate in runnable if candidate.turn.execution and candidate.like is None]
        if not ran:  # the person wanted none of them
            yield self._commit(runnable[0].turn)
            return
        best, reason = ran[-1], "it was interrupted"
        if best.turn.execution and best.turn.execution.status != "interrupted":
            known = self._known(self._namespace, ran)
            choice = choose(known, self._options.rules)
            best, reason = ran[choice.index], choice.reason
            self.judged = tuple((candidate.turn, judged) for candidate, judged in zip(ran, known, strict=True))
        if not self._options.keep:
            self._namespace.spare([one.turn.id for one in ran if one is not best and one.turn.accepted])
        if len(candidates) > 1:
            yield Chosen(best.turn, tuple(candidate.turn for candidate in candidates), reason)
        yield self._commit(best.turn)

    def _known(self, namespace: Namespace, ran: list[Candidate]) -> list[Ran]:
        """Return what is known of candidates that have run. Examples in the words are tried in a throw-away fork of each."""
        first = ran[0].turn
        tests = examples(first.text) if len(ran) > 1 or self._options.keep else []
        alive = namespace.names(first.parent)

        def holds(candidate: Candidate, test: str) -> bool:
            return namespace.evaluate(candidate.turn.id, f"not not ({test})").value == "True"

        def known(candidate: Candidate) -> Ran:
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

    def _execute(self, namespace: Namespace, candidate: Candidate) -> Generator[Event, None, Execution]:
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
            yield from relay(namespace.execute(turn), take)
        if result.status == "ok":
            namespace.built(turn.id)
        candidate.turn = replace(turn, execution=result, accepted=result.status == "ok")
        yield Executed(result, candidate.index)
        return result

    def _commit(self, turn: Turn) -> Committed:
        drawn = [turn if candidate.turn.id == turn.id else candidate.turn for candidate in self._candidates]
        self._candidates.clear()
        self._history.append(turn, drawn)
        return Committed(turn)

    def _keeping(self, steps: Events) -> Events:
        """Pass on the steps of a turn. Whatever ends them early, what the candidates hold stays in the history, not accepted."""
        try:
            yield from steps
        except KeyboardInterrupt:
            yield from self._commit_unaccepted()
        finally:
            for _ in self._commit_unaccepted():
                """Nobody listens any more."""

    def _commit_unaccepted(self) -> Events:
        """Keep what there is: the first candidate as the turn, the others beside it."""
        if not self._candidates:
            return
        for candidate in self._candidates:
            if candidate.turn.accepted and self._namespace:
                self._namespace.forget(candidate.turn.id)
            candidate.turn = replace(candidate.turn, accepted=False)
        yield self._commit(self._candidates[0].turn)
