"""`sessions`: list, show, delete and check what was kept."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from codegen_chat import settings as preferences
from codegen_chat.cli.options import Json, Plain
from codegen_chat.errors import SessionError

if TYPE_CHECKING:
    from codegen_chat.session.history import Summary

NAME_HELP = "A number of `sessions ls`, the start of an id, or a session's file."


def names(incomplete: str) -> list[str]:
    """Return the ids that begin so, for the shell's completion."""
    folder = preferences.sessions_folder(os.environ)
    return sorted(path.stem for path in folder.glob("*.jsonl") if path.name.startswith(incomplete))


Name = Annotated[str, typer.Argument(metavar="ID|N|FILE", help=NAME_HELP, autocompletion=names)]


def list_sessions(as_json: Json = False) -> int:
    """List the saved sessions, the newest first.

    Number, id, last change, turns, size, model, first words. With --json: id, path, created, changed, turns, title, model, size
    (bytes), dropped (what is damaged), empty.
    """
    from codegen_chat.session import history
    from codegen_chat.terminal.screen import Screen

    folder = preferences.sessions_folder(os.environ)
    found = history.sessions(folder)
    if as_json:
        for summary in found:
            sys.stdout.write(json.dumps({**asdict(summary), "path": str(summary.path)}) + "\n")
        return 0
    screen = Screen(sys.stdout, plain=True)
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    digits = _digits([summary.id for summary in found])
    for number, summary in enumerate(found, 1):
        line = _line(number, summary, digits)
        screen.say(line if room is None or len(line) <= room else f"{line[: room - 1]}…")
    if not found:
        Screen(sys.stderr, plain=True).note(f"no session in {folder} yet: `codegen-chat` starts one")
    return 0


def _digits(ids: list[str]) -> int:
    """Return how many characters tell all ids apart, 6 at least."""
    return next((count for count in range(6, 12) if len({each[:count] for each in ids}) == len(ids)), 12)


def _line(number: int, summary: Summary, digits: int) -> str:
    damage = "(damaged: see `sessions fsck`) " if summary.dropped else ""
    model = summary.model.rpartition("/")[2] or "?"
    return (
        f"{number:>3}  {summary.id[:digits]}  {_when(summary.changed)}  {_turns(summary.turns):>8}  {_size(summary.size):>5}"
        f"  {model}  {damage}{summary.title}"
    ).rstrip()


def _turns(count: int) -> str:
    return f"{count} turn{'' if count == 1 else 's'}"


def _when(time: str) -> str:
    """Return a time of the log as the person's clock shows it."""
    try:
        return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return "?" * 16


def _size(count: int) -> str:
    return f"{count} B" if count < 1000 else f"{count / 1000:.0f} kB" if count < 1_000_000 else f"{count / 1_000_000:.0f} MB"


def show_session(name: Name, plain: Plain = None) -> int:
    """Show a session: words, code, results; failed turns too."""
    from codegen_chat.session import history
    from codegen_chat.terminal.screen import Screen

    session = history.History.read(history.find(preferences.sessions_folder(os.environ), name))
    screen = Screen(sys.stdout, plain=bool(plain))
    for line in session.dropped:
        screen.error(line)
    screen.turns(session.transcript)
    return 0


def remove_sessions(
    names: Annotated[
        list[str], typer.Argument(metavar="ID|FILE...", help="The start of a session's id, or its file.", autocompletion=names)
    ],
) -> int:
    """Delete sessions. One that is in use is not deleted."""
    from codegen_chat.session import history
    from codegen_chat.terminal.screen import Screen

    folder = preferences.sessions_folder(os.environ)
    paths = [history.find(folder, name) for name in names]
    for name, path in zip(names, paths, strict=True):
        if history.is_number(name) and not path.stem.startswith(name):
            raise SessionError(f"{name} may be another session by now: to delete it, give its id, {path.stem}")
    screen = Screen(sys.stderr, plain=True)
    for path in paths:
        history.remove(path)
        screen.note(f"deleted {path.stem}")
    return 0


def check_sessions(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="ID|N|FILE...", help=f"{NAME_HELP} All by default.", autocompletion=names)
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be; the file as it was is kept beside it.")] = False,
) -> int:
    """Check sessions: each line's checksum, the chain of lines, the tree of turns.

    Says what is damaged, and exits with 2 where something is. --repair sets a flipped bit right, leaves out what is lost, and
    lets turns that built on it go on from what is left.
    """
    from codegen_chat.session import history
    from codegen_chat.session import repair as repairs
    from codegen_chat.terminal.screen import Screen

    folder = preferences.sessions_folder(os.environ)
    paths = [history.find(folder, name) for name in names] if names else [each.path for each in history.sessions(folder)]
    screen = Screen(sys.stdout, plain=True)
    damaged = 0
    for path in paths:
        try:
            wrong = repairs.repair(path) if repair else repairs.examine(path)
        except SessionError as error:
            screen.error(str(error))
            damaged += 1
            continue
        for line in wrong:
            screen.say(f"{path.stem}: {line}")
        if repair and wrong:
            screen.note(f"{path.stem} is whole: {_turns(len(history.History.read(path).turns))}")
        damaged += bool(wrong) and not repair
    advice = "" if repair else ": --repair mends what can be"
    screen.note(f"{len(paths)} checked, {damaged} damaged{advice if damaged else ''}")
    return SessionError.exit_code if damaged else 0
