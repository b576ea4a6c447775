"""`watch`: answers in a file that is open in an editor."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

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
    Seed,
    Temperature,
    Timeout,
    TopK,
    TopP,
    UnsafeExec,
    settled,
)
from codegen_chat.errors import INTERRUPTED, UsageError
from codegen_chat.settings import is_plain


def watch(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.py", help="A Python file; it stays yours to edit.")],
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
    plain: Plain = None,
) -> int:
    """Answer comments in a file from your own editor.

    End a comment in ?! and save: the code that it asks for is written below it, with what it printed as #> comments, after it ran
    in the sandbox on top of what stands above. Asked again, it answers otherwise. Ctrl-C ends.
    """
    settings = replace(settled(ctx), save=False)  # the file is the record
    if settings.exec == "ask":
        raise UsageError("nobody is asked here before code runs: give --exec auto or --exec off")
    if not file.is_file():
        raise UsageError(f"there is no file {file}: make it, with a comment that ends in ?!")

    from codegen_chat.api import Session
    from codegen_chat.terminal.screen import Screen
    from codegen_chat.terminal.watch import Watch

    screen = Screen(sys.stdout, plain=is_plain(settings, os.environ))
    with Session.open(settings, unsafe_exec=unsafe_exec) as session:
        for line in [f"Code is not executed: {session.unsafe}"] if session.unsafe else session.walls:
            screen.note(line)
        broken_off = Watch(file, session.conversation, screen).run()
    return INTERRUPTED if broken_off else 0
