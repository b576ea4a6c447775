"""Fakes at the two seams, and nowhere else: a model that answers from a script, a sandbox without walls for the tests' code."""

from __future__ import annotations

import ast
import io
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace

import pytest

from codegen_chat.turn import (
    Accept,
    Change,
    Completed,
    Completion,
    Delta,
    Execution,
    Failure,
    FinishReason,
    Output,
    Prompt,
    Sampling,
    Typed,
    Usage,
    last_execution,
)


def interleaved(completions: Sequence[Generator[Delta | Completion, None, None]]) -> Generator[Delta | Completed, None, None]:
    """Make the candidates of `complete_many` from single completions: an event of each in turn."""
    going = dict(enumerate(completions))
    interrupted: set[int] = set()
    while going:
        for index, completion in list(going.items()):
            event = completion.throw(KeyboardInterrupt) if index in interrupted else next(completion)
            interrupted.discard(index)
            try:
                if isinstance(event, Completion):
                    del going[index]
                    yield Completed(event, index)
                else:
                    yield replace(event, candidate=index)
            except KeyboardInterrupt:
                interrupted |= going.keys()


class FakeCompleter:
    """Answers from a script, in pieces; a token is a character. `redraws` has what comes for a line that the guard refuses."""

    def __init__(
        self,
        *answers: str,
        window: int = 100_000,
        sampling: Sampling = Sampling(),  # noqa: B008  frozen
        redraws: Mapping[str, str] | None = None,
        piece: int = 3,
    ) -> None:
        self.window = window
        self.sampling = sampling
        self.prompts: list[Prompt] = []
        self.samplings: list[Sampling] = []
        self.refused: list[str] = []
        self._answers = list(answers)
        self._redraws = dict(redraws or {})
        self._piece = piece

    def count(self, text: str) -> int:
        return len(text)

    def complete(
        self, prompt: Prompt, sampling: Sampling, *, accept: Accept | None = None
    ) -> Generator[Delta | Completion, None, None]:
        self.prompts.append(prompt)
        self.samplings.append(sampling)
        answer = self._guarded(self._answers.pop(0), accept)
        shown, ended, text = 0, False, ""
        reason: FinishReason = "eos"
        try:
            for end in range(self._piece, len(answer) + self._piece, self._piece):
                text = answer[: min(end, prompt.max_new_tokens)]
                visible, ended = prompt.stop(text)
                if visible > shown:
                    piece, shown = text[shown:visible], visible
                    yield Delta(piece)
                if ended or len(text) == prompt.max_new_tokens:
                    reason = "stop" if ended else "length"
                    break
        except KeyboardInterrupt:
            reason = "interrupted"
        text = text[:shown] if ended else text
        if len(text) > shown:
            yield Delta(text[shown:])
        yield Completion(text, reason, Usage(len(prompt.text), 0, len(text)), -float(len(text)), seed=sampling.seed)

    def complete_many(
        self, prompt: Prompt, samplings: Sequence[Sampling], *, accept: Accept | None = None
    ) -> Generator[Delta | Completed, None, None]:
        return interleaved([self.complete(prompt, sampling, accept=accept) for sampling in samplings])

    def _guarded(self, answer: str, accept: Accept | None) -> str:
        written = ""
        for line in answer.splitlines(keepends=True):
            if accept and line.endswith("\n") and line in self._redraws and not accept(written + line):
                self.refused.append(line)
                written += self._redraws[line]
            else:
                written += line
        return written


class FakeExecutor:
    """Runs code in this process, in a namespace copied from its parent's. `sleep` waits for the interrupt that a test sends."""

    def __init__(self) -> None:
        self.states: dict[str | None, dict[str, object]] = {None: {}}
        self.ran: list[str] = []
        self.forgotten: list[str] = []

    def execute(
        self, code: str, *, parent: str | None, turn: str | None, timeout: float | None = None
    ) -> Generator[Output | Execution, None, None]:
        before = self.states[parent]
        scope = {"__builtins__": __builtins__, **before}
        self.ran.append(code)
        output = io.StringIO()
        value: object = None
        failure = None
        try:
            if code.startswith("sleep"):  # something to interrupt
                yield Output("stdout", "zzz\n")
                pytest.fail("nobody interrupted")
            with redirect_stdout(output):
                value = _run(code, scope)
        except KeyboardInterrupt:
            yield Execution("interrupted", stdout="zzz\n", note="by the sandbox")
            return
        except Exception as error:  # noqa: BLE001  whatever the code raises is its result
            failure = Failure(type(error).__name__, str(error), 0, traceback.format_exc())
        stdout = output.getvalue()
        if stdout:
            yield Output("stdout", stdout)
        scope.pop("__builtins__")
        if failure is None and turn is not None:
            self.states[turn] = scope
        yield Execution(
            status="error" if failure else "ok",
            stdout=stdout,
            value=None if value is None else repr(value),
            typed_value=None if value is None else Typed(type(value).__name__, value if isinstance(value, list) else repr(value)),
            failure=failure,
            changes=tuple(
                Change("~" if name in before else "+", name, repr(scope[name]))
                for name in scope
                if name not in before or scope[name] is not before[name]
            ),
        )

    def names(self, turn: str | None) -> Mapping[str, str]:
        return {name: repr(value) for name, value in self.states[turn].items()}

    def expect(self, parent: str | None, turns: int) -> None:
        """Nothing is made ahead here."""

    def forget(self, turn: str) -> None:
        self.states.pop(turn, None)
        self.forgotten.append(turn)

    def file(self, name: str) -> bytes | None:
        return None

    def restore(self, turns: Sequence[tuple[str, str]]) -> list[Execution]:
        parent = None
        results = []
        for identity, code in turns:
            results.append(last_execution(self.execute(code, parent=parent, turn=identity)))
            parent = identity
        return results


def _run(code: str, scope: dict[str, object]) -> object:
    tree = ast.parse(code)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        exec(compile(tree, "<turn>", "exec"), scope)
        return None
    exec(compile(ast.Module(tree.body[:-1], []), "<turn>", "exec"), scope)
    return eval(compile(ast.Expression(last.value), "<turn>", "eval"), scope)
