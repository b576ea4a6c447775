"""`sessions`: list, show and delete what was kept."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from codegen_chat import settings as preferences
from codegen_chat.cli.options import Plain
from codegen_chat.errors import SessionError


def list_sessions() -> int:
    """List the saved sessions, the newest first."""
    from codegen_chat.session import history
    from codegen_chat.terminal.screen import Screen

    screen = Screen(sys.stdout, plain=True)
    for summary in history.sessions(preferences.sessions_folder(os.environ)):
        damage = f"  ({len(summary.dropped)} lines lost)" if summary.dropped else ""
        turns = f"{summary.turns} turn{'' if summary.turns == 1 else 's'}"
        screen.say(
            f"{summary.id}  {summary.changed[:16].replace('T', ' ')}  {turns:>8}  {summary.model}  {summary.title}{damage}"
        )
    return 0


def show_session(
    name: Annotated[str, typer.Argument(metavar="ID|FILE", help="The start of a session's id, or its file.")],
    plain: Plain = None,
) -> int:
    """Show a session: words, code, results; failed turns too."""
    from codegen_chat.session import history
    from codegen_chat.terminal.screen import Screen

    session = history.History.read(history.find(preferences.sessions_folder(os.environ), name))
    screen = Screen(sys.stdout, plain=bool(plain))
    for line in session.dropped:
        screen.error(line)
    for number, turn in enumerate(session.transcript, 1):
        screen.turn(number, turn)
    return 0


def remove_sessions(
    names: Annotated[list[str], typer.Argument(metavar="ID|FILE...", help="The start of a session's id, or its file.")],
) -> int:
    """Delete sessions. One that is in use is not deleted."""
    from codegen_chat.session import history

    folder = preferences.sessions_folder(os.environ)
    for path in [history.find(folder, name) for name in names]:
        with history.History.open(path):
            try:
                path.unlink()
            except OSError as error:
                raise SessionError(f"{path} cannot be deleted: {error.strerror}") from None
    return 0
