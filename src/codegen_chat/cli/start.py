"""From the shell to a prompt: what a person types at comes first; all else is imported and started behind it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from codegen_chat import settings as preferences
from codegen_chat.errors import UsageError
from codegen_chat.settings import Settings
from codegen_chat.terminal.keyboard import PROMPT, quiet_keyboard

if TYPE_CHECKING:
    from codegen_chat.api import Session
    from codegen_chat.terminal.repl import Repl


def start(settings: Settings | None = None, *, resume: Path | None = None, unsafe_exec: bool = False) -> int:
    """Read turns from a terminal until the person leaves. Raises UsageError for a pipe, and what opening a session does."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("the prompt needs a terminal: `codegen-chat run -` reads turns from a pipe, --help lists the commands")
    chosen = settings or preferences.read(os.environ, Path.cwd())
    plain = preferences.is_plain(chosen, os.environ)
    at_once = not (resume or unsafe_exec or chosen.allow_read or chosen.allow_write)  # else there is more to be said first
    with ExitStack() as opened, quiet_keyboard():
        if not plain:
            sys.stdout.write("\r\x1b[K")  # the echo of what was typed before this program ran; the prompt will show it
        if chosen.model == Settings().model:
            _say("nano, a small model trained here, no published checkpoint: keep steps plain.")
        _say("/demo plays an example, /help lists the rest.")
        if at_once and not plain:
            sys.stdout.write(PROMPT)  # who types now is read once prompt-toolkit is there; it draws its own prompt over this one
            sys.stdout.flush()
        from codegen_chat.loading import Loading
        from codegen_chat.terminal.line import Line

        line = Line(
            sys.stdout,
            chosen.keys,
            plain=plain,
            typed=preferences.history_file(os.environ) if chosen.save else None,
            session=resume.stem if resume else "",
            bar=f" {chosen.model} is loading",
        )
        if at_once and not plain:
            sys.stdout.write("\r")

        def make() -> Repl:
            from codegen_chat.api import Session
            from codegen_chat.terminal.repl import Repl

            session = opened.enter_context(Session.open(chosen, resume=resume, unsafe_exec=unsafe_exec))
            return Repl(session, sys.stdout, line, _facts(session, resumed=resume is not None), plain=plain)

        opening = Loading(make)
        if not at_once:
            opening.begin()
        stays = not at_once or line.first(opening)
        repl = opening.value
        if stays:
            repl.run()
    if not repl.ready:
        # The model is still being imported in a thread: an orderly end of the interpreter would pull it from under its feet.
        sys.stdout.flush()
        os._exit(0)
    return 0


def _say(text: str) -> None:
    """Print a line as the screen does, which is not there yet."""
    sys.stdout.write(f"{'·' if sys.stdout.encoding.lower().startswith('utf') else '-'} {text}\n")
    sys.stdout.flush()


def _facts(session: Session, *, resumed: bool) -> Iterator[str]:
    """Say what is known once a session is open."""
    header = session.history.header
    if header["model"] != Settings().model:
        yield f"{header['model']}, revision {header['revision']}"
    yield from [f"Code is shown and not executed: {session.unsafe}"] if session.unsafe else session.walls
    if resumed:
        turns = "1 turn" if len(session.turns) == 1 else f"{len(session.turns)} turns"
        yield f"Session {session.history.id} goes on: {turns}, variables rebuilt; /show shows them."
        yield from session.notes
