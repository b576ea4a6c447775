"""A person's conversation with a model: turns asked for, tried again, changed, taken back. Each is an iterator of events.

Words become a prompt, the prompt candidates, the candidates run from the same state, one of them is kept and joins the history
(making.py). Nothing is owned here: the completer, the executor and the history are referred to, and all that lasts is in the
history. A turn whose code failed, and what was interrupted, is kept there too, not accepted: neither the prompt nor the namespace
knows of it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from codegen_chat import prompt as prompts
from codegen_chat import remark
from codegen_chat.choose import Ran
from codegen_chat.drawing import Drawing
from codegen_chat.errors import ModelUnavailable, UsageError
from codegen_chat.events import Committed, Events, Evicted, Executed, Notice, Replayed
from codegen_chat.guard import blank, is_code
from codegen_chat.guard import guard as guarding
from codegen_chat.literals import copying
from codegen_chat.making import Making, Options
from codegen_chat.namespace import Namespace
from codegen_chat.session.history import History
from codegen_chat.turn import Completer, Delta, Execution, Executor, Output, Turn

FIXES = 4
"""How many candidates mend a failed turn where nothing is set for that."""


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
        self._states = Namespace(executor, history) if executor else None

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
        namespace = self._namespace()
        return namespace.own_names(self.history.head) if namespace else {}

    def attributes(self, expression: str) -> list[str]:
        """Return the public attributes of what a dotted name stands for now; none where it stands for nothing."""
        namespace = self._namespace()
        if namespace is None:
            return []
        listed = namespace.evaluate(self.history.head, f"[name for name in dir({expression}) if name[:1] != '_']").typed_value
        return [name for name in listed.data if isinstance(name, str)] if listed and isinstance(listed.data, list) else []

    def is_code(self, text: str) -> bool:
        """Whether a person's words can only be meant as Python: a program over what is alive now."""
        namespace = self._namespace()
        return namespace is not None and is_code(text, namespace.names(self.history.head))

    def file(self, turn: Turn, name: str) -> bytes | None:
        """Return a file that a turn wrote, named as in its Execution, as it was after the turn; None where it is gone."""
        namespace = self._namespace()
        return namespace.file(turn.id, name) if namespace else None

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
        changed = self.numbered(number)
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
        self.history.go(self.numbered(number).id if number else None)

    def switch(self, number: int) -> None:
        """Go to the end of a branch, counted from 1 as in `history.branches`. Raises UsageError."""
        branches = self.history.branches
        if not 1 <= number <= len(branches):
            raise UsageError(f"there is no branch {number}: /branches shows {len(branches)}")
        self.history.go(branches[number - 1][-1].id)

    def numbered(self, number: int) -> Turn:
        """Return a turn of the branch, counted from 1. Raises UsageError where there is no such turn."""
        turns = self.turns
        if not 1 <= number <= len(turns):
            there = f"/show lists {len(turns)}" if turns else "there is none yet"
            raise UsageError(f"there is no turn {number}: {there}")
        return turns[number - 1]

    def hide(self, number: int) -> bool:
        """Leave a turn out of the prompt, or take it in again; its variables live on. Returns whether it is hidden now."""
        return self.history.mark(self.numbered(number).id, "hidden")

    def pin(self, number: int) -> bool:
        """Keep a turn in the window whatever goes, or no longer. Returns whether it is pinned now."""
        return self.history.mark(self.numbered(number).id, "pinned")

    def undo(self) -> Turn | None:
        """Leave the last turn, in prompt and namespace at once. Returns it; None at the beginning."""
        return self.history.undo()

    def redo(self) -> Turn | None:
        """Take back the last undo. Returns the turn that counts again; None where there is none."""
        return self.history.redo()

    def resume(self) -> list[Execution]:
        """Rebuild the namespace of a history that was opened again, by running its accepted code. Returns what each turn did."""
        namespace = self._namespace()
        return namespace.restore(self.turns) if namespace else []

    def check(self, expression: str) -> tuple[bool, str]:
        """Tell whether an expression holds in the state of the last turn, and if not, why, in a line.

        It is evaluated in a throw-away fork. What it says can be forged by the code that it judges.
        """
        namespace = self._namespace()
        if namespace is None:
            return False, "nothing was executed"
        try:
            tree = ast.parse(expression.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            return False, f"not a Python expression: {error.args[0]}"
        # The newline keeps a comment from hiding the bracket; `not not` cannot be rebound as `bool` can.
        result = namespace.evaluate(self.history.head, f"not not (\n{expression}\n)")
        if result.value == "True":
            return True, ""
        if result.status != "ok":
            return False, f"{result.failure.type}: {result.failure.message}" if result.failure else result.status
        if isinstance(tree, ast.Compare):
            left = ast.unparse(tree.left)
            return False, f"{left} is {namespace.evaluate(self.history.head, left).value}"
        return False, "it is not true"

    # ------------------------------------------------------------ the parts of a turn

    def _namespace(self) -> Namespace | None:
        """Return the states of the turns; None where nothing is executed."""
        if self._states is None or not self.options.execute:
            return None
        self._states.timeout = self.options.timeout
        return self._states

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

    def _play(self, wanted: Turn) -> Events:
        yield from Making(self.history, self._namespace(), self.options).play(wanted)

    def _say(self, text: str, given: str, turns: Sequence[Turn], samples: int) -> Events:
        """Ask for a turn after `turns` in words; the values that they ask for are told above them."""
        names = prompts.mentioned(text)
        alive = self.names() if names else {}
        namespace, head = self._namespace(), self.history.head
        told = tuple(
            remark.value(name, alive[name], namespace.evaluate(head, name)) for name in names if namespace and name in alive
        )
        for name in names:
            if name not in alive:
                yield Notice(f"There is no variable {name}: @{name} stays as it is.")
        yield from self._ask(Turn("", None, text.strip(), "", given=given.strip("\n").rstrip(), remarks=told), turns, samples)

    def _ask(
        self, wanted: Turn, turns: Sequence[Turn], samples: int, *, again: bool = False, temperature: float | None = None
    ) -> Events:
        """Ask the model for one turn after `turns`, in the words of `wanted`.

        `again`: it was tried before, so the seeds are others.
        """
        completer = self._model()
        fitted = self._fit(completer, turns, wanted)
        if fitted.newly:
            yield Evicted(fitted.newly, fitted.tokens)
        namespace = self._namespace()
        if samples > 1 and namespace is None:
            yield Notice("Candidates are compared by what they do, and nothing is executed: one was drawn.")
            samples = 1

        parent = turns[-1].id if turns else None
        own = self.options.sampling or completer.sampling
        drawing = Drawing(
            completer,
            self.history,
            fitted.prompt_text,
            wanted.given,
            self.options.max_new_tokens,
            own if temperature is None else replace(own, temperature=temperature),
            attempt=sum(turn.parent == parent for turn in self.history.all_turns) if again else 0,
            accept=guarding(namespace.names(parent) if namespace else None) if self.options.guard else None,
            copy=copying(wanted.text) if self.options.guard else None,
        )
        turn = Turn("", parent, wanted.text, "", accepted=False, given=wanted.given, remarks=wanted.remarks)
        making = Making(self.history, namespace, self.options)
        yield from making.ask(turn, samples, drawing)
        self.judged = making.judged


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
