"""`codegen-chat` without a command: a prompt to type turns at."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from codegen_chat import settings as preferences
from codegen_chat.cli.options import (
    AllowRead,
    AllowWrite,
    Device,
    Draft,
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
    settled,
)
from codegen_chat.cli.sessions import names as session_names
from codegen_chat.cli.start import start
from codegen_chat.errors import UsageError


def repl(
    ctx: typer.Context,
    go_on: Annotated[bool, typer.Option("-c", "--continue", help="Go on with the newest session.")] = False,
    resume: Annotated[
        str | None, typer.Option(metavar="ID|N", help="Go on with a session of `sessions ls`.", autocompletion=session_names)
    ] = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    draft: Draft = None,
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
    from codegen_chat.session import history

    folder = preferences.sessions_folder(os.environ)
    path = history.find(folder, resume) if resume else history.newest(folder) if go_on else None
    return start(settled(ctx), resume=path, unsafe_exec=unsafe_exec)
