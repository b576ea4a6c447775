"""`codegen-chat` without a command: a prompt to type turns at."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer

from codegen_chat import settings as preferences
from codegen_chat.cli.options import (
    AllowRead,
    AllowWrite,
    Device,
    Dtype,
    Exec,
    Fallback,
    Guard,
    MaxNewTokens,
    Memory,
    Model,
    Plain,
    Samples,
    Save,
    Seed,
    Temperature,
    Timeout,
    TopK,
    TopP,
    UnsafeExec,
    is_plain,
    settled,
)
from codegen_chat.cli.sessions import names as session_names
from codegen_chat.errors import UsageError

if TYPE_CHECKING:
    from codegen_chat.api import Session


def repl(
    ctx: typer.Context,
    go_on: Annotated[bool, typer.Option("-c", "--continue", help="Go on with the newest session.")] = False,
    resume: Annotated[
        str | None, typer.Option(metavar="ID|N", help="Go on with a session of `sessions ls`.", autocompletion=session_names)
    ] = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    samples: Samples = None,
    fallback: Fallback = None,
    guard: Guard = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = None,
    exec: Exec = None,
    timeout: Timeout = None,
    memory: Memory = None,
    allow_read: AllowRead = None,
    allow_write: AllowWrite = None,
    unsafe_exec: UnsafeExec = False,
    save: Save = None,
    plain: Plain = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> int:
    """Say in words what a program should do; a CodeGen model writes it, a sandbox runs it.

    Without a command: a prompt to type turns at. Exit codes: 0 fine, 1 internal, 2 usage, 3 no model, 4 a turn's code failed,
    5 an expectation failed, 6 the window is too small, 7 no sandbox, 130 interrupted.
    """
    if version:
        from importlib import metadata

        sys.stdout.write(f"codegen-chat {metadata.version('codegen-chat')}\n")
        raise typer.Exit
    if ctx.invoked_subcommand is not None:
        if go_on or resume:
            raise UsageError(f"-c and --resume are for the prompt, not for {ctx.invoked_subcommand}")
        return 0
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("the prompt needs a terminal: `codegen-chat run -` reads turns from a pipe, --help lists the commands")
    from codegen_chat.session import history

    settings = settled(ctx)
    folder = preferences.sessions_folder(os.environ)
    path = history.find(folder, resume) if resume else history.newest(folder) if go_on else None

    # While the sandbox starts, which is another process's work.
    Thread(target=import_module, args=["codegen_chat.terminal.repl"], daemon=True).start()
    from codegen_chat.api import Session

    with Session.open(settings, resume=path, unsafe_exec=unsafe_exec) as session:
        from codegen_chat.terminal.repl import Repl

        typed = preferences.history_file(os.environ) if settings.save else None
        Repl(session, sys.stdout, history=typed, plain=is_plain(settings)).run(_banner(session, resumed=path is not None))
        ready = session.ready
    if not ready:
        # torch is still being imported in a thread: an orderly end of the interpreter would pull it from under its feet.
        sys.stdout.flush()
        os._exit(0)
    return 0


def _banner(session: Session, *, resumed: bool) -> Iterator[str]:
    from codegen_chat.lm.hub import EMBEDDED

    name = session.history.header["model"]
    if name == EMBEDDED:
        yield "nano, a small model trained here, no published checkpoint: keep steps plain."
    else:
        yield f"{name}, revision {session.history.header['revision']}"
    yield from [f"Code is shown and not executed: {session.unsafe}"] if session.unsafe else session.walls
    if resumed:
        turns = "1 turn" if len(session.turns) == 1 else f"{len(session.turns)} turns"
        yield f"Session {session.history.id} goes on: {turns}, variables rebuilt; /show shows them."
        yield from session.notes
    yield "/demo plays an example, /help lists the rest."
