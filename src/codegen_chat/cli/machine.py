"""`doctor`: what holds on this machine."""

from __future__ import annotations

import os
import sys
from importlib import metadata

import typer

from codegen_chat import settings as preferences
from codegen_chat.cli.options import SANDBOX_UNAVAILABLE, Device, Dtype, Model, settled
from codegen_chat.errors import ModelUnavailable, SessionError


def doctor(ctx: typer.Context, model: Model = None, device: Device = None, dtype: Dtype = None) -> int:
    """Say what holds on this machine.

    Python, torch, the model, the sandbox's walls, the folders.
    """
    settings = settled(ctx)

    from codegen_chat.sandbox.kernel import probe
    from codegen_chat.terminal.screen import Screen

    screen = Screen(sys.stdout, plain=True)
    code = 0

    def report(*, holds: bool, what: str) -> None:
        screen.say(f"{'ok' if holds else 'NO':<3} {what}", "" if holds else "red")

    report(holds=True, what=f"codegen-chat {metadata.version('codegen-chat')}, python {sys.version.split()[0]}, {sys.platform}")
    for layer in probe():
        report(holds=layer.holds, what=f"sandbox, {layer.name}: {layer.detail}")
        code = 0 if layer.holds else SANDBOX_UNAVAILABLE  # the last one is all of them together
    try:
        from codegen_chat.api import load
        from codegen_chat.lm import native

        loaded = load(settings.model, dtype=settings.dtype, device=settings.device)
        report(holds=True, what=f"model {loaded.name}, revision {loaded.revision}, {loaded.dtype} on {loaded.device}")
        report(holds=True, what=f"it computes with {loaded.backend}; the native step {native.state()}")
    except ModelUnavailable as error:
        report(holds=False, what=f"model: {error}")
        code = code or error.exit_code
    folder = preferences.sessions_folder(os.environ)
    above = next(path for path in (folder, *folder.parents) if path.exists())
    writable = above.is_dir() and os.access(above, os.W_OK)
    report(holds=writable, what=f"sessions are kept in {folder}" + ("" if writable else ": not writable"))
    report(holds=True, what=f"settings: {preferences.config_file(os.environ)}, {preferences.PROJECT_FILE} here, CODEGEN_CHAT_*")
    return code or (0 if writable else SessionError.exit_code)
