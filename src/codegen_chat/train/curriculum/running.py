"""A turn's code is run in the session's live namespace; only a turn that runs, ends and stays small is kept."""

from __future__ import annotations

import contextlib
import io
import re
import signal
import threading
from collections.abc import Iterator

from codegen_chat.train.curriculum.state import State, Step
from codegen_chat.train.curriculum.wording import surface

LONGEST_VALUE = 400
"""Characters of repr; a longer value ends its turn, so that nothing explodes."""

LONGEST_RUN = 5.0
"""Seconds; importing pandas is a part of them."""


class TooLong(BaseException):
    """A program did not end in time."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Break off what runs longer than LONGEST_RUN: a drawn number can make a loop endless. For a main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_RUN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def commit(state: State, words: str, code: str, imports: tuple[str, ...]) -> bool:
    """Run a turn's code in the live namespace; keep the turn when it runs and stays small."""
    needed = [line for line in imports if line not in state.imports]
    whole = "\n".join([*needed, code])
    loops = set(re.findall(r"\bfor (\w+)", whole))
    if "{x}" in words or "{y}" in words or "\n\n" in whole or not words or any(state.named(name) for name in loops):
        return False
    space = dict(state.space)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as output, limited():
            exec(compile(whole, "<curriculum>", "exec"), space)  # noqa: S102 - the grammar's own code
    except (Exception, TooLong):  # noqa: BLE001 - whatever fails is not kept
        return False
    changed = [value for name, value in space.items() if name != "__builtins__" and state.space.get(name) is not value]
    try:
        if len(output.getvalue()) > 2 * LONGEST_VALUE or any(
            len(repr(value)) > LONGEST_VALUE for value in changed if not callable(value)
        ):
            return False
    except Exception:  # noqa: BLE001 - a repr that fails
        return False
    state.space = space
    state.imports.update(needed)
    state.steps.append(Step(surface(words, whole, state), whole))
    return True
