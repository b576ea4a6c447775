"""`doctor` and `config`: what holds on this machine, and what is set."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from codegen_chat import settings as preferences
from codegen_chat.cli.options import Device, Draft, Dtype, Json, Model, flags, settled
from codegen_chat.errors import SettingsError


def doctor(ctx: typer.Context, model: Model = None, device: Device = None, dtype: Dtype = None, draft: Draft = None) -> int:
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


def config(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Only this setting.",
            autocompletion=lambda: [setting.name for setting in fields(preferences.Settings)],
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Show each setting, its value and where it comes from.

    Flags in front of the command count: `codegen-chat --seed 3 config seed`. With --json: name, value, from, wanted.
    """
    settings = preferences.Settings()
    came_from: dict[str, str] = {}
    for layer in [*preferences.layers(os.environ, Path.cwd()), preferences.Layer(flags(ctx), "command line")]:
        settings = settings.updated(layer.values, layer.where, trusted=layer.trusted)
        came_from.update(dict.fromkeys(layer.values, layer.where))
    known = {setting.name: setting for setting in fields(settings)}
    if name is not None and name not in known:
        raise SettingsError(preferences.unknown(name))

    from codegen_chat.terminal.screen import Screen

    screen = Screen(sys.stdout, plain=True)
    for key in [name] if name else known:
        value, source = getattr(settings, key), came_from.get(key, "default")
        if as_json:
            wanted = known[key].metadata["wanted"]
            sys.stdout.write(json.dumps({"name": key, "value": value, "from": source, "wanted": wanted}) + "\n")
        else:
            screen.say(f"{key:<14}  {_written(value):<24}  {source}")
    if not (name or as_json):
        file = preferences.config_file(os.environ)
        screen.note(f"to set one: `seed = 7` in {file} or in {preferences.PROJECT_FILE} here,")
        screen.note(f"{preferences.PREFIX}SEED=7 in the environment, or --seed 7; --help says what each one does")
    return 0


def _written(value: object) -> str:
    """Return a value as a settings file has it; None is what the checkpoint says."""
    return "the checkpoint's own" if value is None else json.dumps(value, ensure_ascii=False)
