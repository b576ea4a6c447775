"""The sandbox's states, one for each turn that has run: a view of the history, built again wherever it is missing."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

from codegen_chat.prompt import HEADER
from codegen_chat.session.history import History
from codegen_chat.turn import Execution, Executor, Output, Turn, last_execution

ROOT = "header"
"""The state before the first turn: the sandbox's empty one, in which what the prompt begins with has run."""


class Namespace:
    """What is alive after each turn of a history. `timeout`: seconds that code may run, None: the sandbox's own."""

    def __init__(self, executor: Executor, history: History) -> None:
        self.timeout: float | None = None
        self._executor = executor
        self._history = history
        self._rooted = False
        self._built: set[str] = set()
        self._spare: tuple[str, ...] = ()

    def restore(self, turns: Sequence[Turn]) -> list[Execution]:
        """Build the states of a branch by running its code; return what each turn did."""
        self._rooted = True
        done = self._executor.restore([(ROOT, HEADER), *((turn.id, turn.code) for turn in turns)])[1:]
        self._built = {turn.id for turn, did in zip(turns, done, strict=True) if did.status != "interrupted"}
        return done

    def names(self, turn: str | None) -> Mapping[str, str]:
        """Return all names alive after a turn (None: before the first), each with a summary of its value."""
        return self._executor.names(self._state(turn))

    def own_names(self, turn: str | None) -> Mapping[str, str]:
        """Return those that the person's turns made."""
        alive = self.names(turn)
        given = self.names(None)
        return {name: what for name, what in alive.items() if given.get(name) != what}

    def evaluate(self, turn: str | None, code: str) -> Execution:
        """Run code after a turn in a fork that is thrown away."""
        return last_execution(self._executor.execute(code, parent=self._state(turn), turn=None, timeout=self.timeout))

    def execute(self, turn: Turn) -> Generator[Output | Execution, None, None]:
        """Run a turn's code after its parent."""
        return self._executor.execute(turn.code, parent=self._state(turn.parent), turn=turn.id, timeout=self.timeout)

    def expect(self, turn: str | None, count: int) -> None:
        """Say that so many candidates will run after a turn, once they are drawn."""
        self._executor.expect(turn or ROOT, count)

    def file(self, turn: str, name: str) -> bytes | None:
        """Return a file as it was after a turn that wrote it; None where it is gone."""
        self.evaluate(turn, "")  # its files are laid out by that
        return self._executor.file(name)

    def built(self, turn: str) -> None:
        """Note that a turn has run without a failure: its state is there."""
        self._built.add(turn)

    def forget(self, turn: str) -> None:
        """Give a turn's state up."""
        self._executor.forget(turn)
        self._built.discard(turn)

    def spare(self, turns: Sequence[str]) -> None:
        """Keep these states for a `pick`, and give up those that were kept before and not picked."""
        for turn in self._spare:
            if turn != self._history.head:
                self.forget(turn)
        self._spare = tuple(turns)

    def _state(self, turn: str | None) -> str:
        """Return the name of a turn's state. Where the executor does not know it (another branch, resumed), it is built again.

        Raises KeyboardInterrupt where a Ctrl-C ended that: the next look at it begins once more.
        """
        missing = []
        while turn is not None and turn not in self._built:
            missing.append(self._history.turn(turn))
            turn = missing[-1].parent
        if turn is None and not self._rooted:
            begun = last_execution(self._executor.execute(HEADER, parent=None, turn=ROOT))
            self._rooted = begun.status == "ok"
        for step in reversed(missing):
            done = last_execution(self._executor.execute(step.code, parent=turn or ROOT, turn=step.id, timeout=self.timeout))
            if done.status == "interrupted":
                raise KeyboardInterrupt
            self._built.add(step.id)
            turn = step.id
        return turn or ROOT
