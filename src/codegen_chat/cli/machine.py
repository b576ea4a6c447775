"""`doctor` and `train`: what holds on this machine, and the embedded model made anew."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from codegen_chat import settings as preferences
from codegen_chat.cli.options import Device, Dtype, Model, settled


def doctor(ctx: typer.Context, model: Model = None, device: Device = None, dtype: Dtype = None) -> int:
    """Say what holds on this machine.

    Python, torch, the model, the sandbox's walls, the folders.
    """
    settings = settled(ctx)

    from codegen_chat.api import examine
    from codegen_chat.terminal.screen import Screen

    screen = Screen(sys.stdout, plain=True)
    codes = []
    for finding in examine(settings):
        screen.findings([finding])
        codes.append(finding.code)
    return next(filter(None, codes), 0)


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
