"""`doctor` and `train`: what holds on this machine, and the embedded model made anew."""

from __future__ import annotations

import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

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
        from codegen_chat.lm import native
        from codegen_chat.models import load

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


def train(
    recipe: Annotated[Path | None, typer.Argument(help="What to train; the embedded model's by default.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="Where the run lives and goes on.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Stop after so long; the same command goes on.")] = float("inf"),
) -> int:
    """Train the embedded model anew.

    From its committed recipe; a run that was broken off goes on.
    """
    from codegen_chat.train import trainer

    folder = output or preferences.training_folder(os.environ)
    for event in trainer.train(recipe or Path(trainer.__file__).with_name("nano.toml"), folder, minutes=minutes):
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()
    return 0
