"""`train`: the embedded model made anew, or any model taught further."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from codegen_chat import settings as preferences
from codegen_chat.errors import UsageError


def train(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RECIPE|DATA]", help="A recipe (the embedded model's by default); with --init what to learn from."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="Where the run lives and goes on.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Stop after so long; the same command goes on.")] = float("inf"),
    init: Annotated[str | None, typer.Option(metavar="MODEL", help="Fine-tune this model, named as for -m.")] = None,
    lora: Annotated[int | None, typer.Option(metavar="RANK", help="Learn low-rank matrices beside the frozen ones.")] = None,
    epochs: Annotated[int | None, typer.Option(help="How often each example is seen; 3 by default.")] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate; 0.0002 by default, 0.001 for LoRA.")] = None,
    batch: Annotated[int | None, typer.Option(help="Tokens of a step, over all processes; 4096 by default.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of an example at most; 512 by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of what is held out, and of the order; 0 by default.")] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Products in bfloat16: for machines that have units for it.")] = False,
    accumulate: Annotated[int | None, typer.Option(help="Compute a step in so many parts, to save memory.")] = None,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Compute inner states twice instead of keeping them.")
    ] = False,
    shard: Annotated[
        bool, typer.Option("--shard", help="Under torchrun: FSDP, each process holds a part of the weights.")
    ] = False,
    every: Annotated[int | None, typer.Option(help="Evaluate and save after so many steps; 20 by default.")] = None,
) -> int:
    """Train the embedded model anew, or with --init fine-tune any model.

    Without --init: from a committed recipe. With it: on a folder of Python files, or of saved sessions (the code of their
    accepted turns). A tenth of them is held out to evaluate on. The result is FOLDER/model, for -m. A run that was broken off
    goes on.
    """
    lesson: dict[str, Any] = {"lora": lora, "epochs": epochs, "rate": rate, "batch": batch, "longest": length, "seed": seed}
    means: dict[str, Any] = {"bf16": bf16, "accumulate": accumulate, "recompute": checkpointing, "shard": shard, "every": every}
    given = [name for name, value in (lesson | means).items() if value]
    if init is None and given:
        raise UsageError("a recipe says all of this itself: those flags are for --init")
    if init is not None and (source is None or output is None):
        raise UsageError("--init needs what to learn from and where to: codegen-chat train --init MODEL DATA -o FOLDER")
    for name, value in (("accumulate", accumulate), ("every", every)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} is a number from 1 on")

    from codegen_chat.train import finetune, trainer

    if init is not None and source is not None and output is not None:
        events = finetune.tune(
            init,
            source,
            output,
            finetune.Lesson(**{name: value for name, value in lesson.items() if value is not None}),
            finetune.Means(minutes=minutes, **{name: value for name, value in means.items() if value}),
        )
    else:
        recipe = source or Path(trainer.__file__).with_name("nano.toml")
        events = trainer.train(recipe, output or preferences.training_folder(os.environ), minutes=minutes)
    for event in events:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()
    return 0
