"""`attention`: what the model looks at."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codegen_chat import settings as preferences
from codegen_chat.cli.options import Device, Dtype, Json, Model, Plain, decoded, settled, source
from codegen_chat.errors import UsageError
from codegen_chat.settings import is_plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from codegen_chat.attention.record import Attention


def attention(
    ctx: typer.Context,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT|-", help="What the model reads, as it is; - is standard input.")
    ] = None,
    session: Annotated[str | None, typer.Option(metavar="ID|FILE", help="Instead of a text: a saved session.")] = None,
    turn: Annotated[int | None, typer.Option(metavar="K", help="Its turn to look at; the last one by default.")] = None,
    layer: Annotated[int | None, typer.Option(help="Show one layer, from 0; the average of all by default.")] = None,
    head: Annotated[int | None, typer.Option(help="Show one head, from 0; the average of all by default.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write FILE.html, a page to explore, or FILE.png.")
    ] = None,
    as_json: Json = False,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    plain: Plain = None,
) -> int:
    """Show what each token of a text looks at.

    A heat map, a page or a picture of the attention weights. Comment lines of the text are taken for a turn's words, what follows
    them for its code; with several turns it also says how far the last one's code looks back. With --json a line for the text,
    then one for each token: the weights that it gives to the tokens up to itself.
    """
    settings = settled(ctx)
    if (text is None) == (session is None):
        raise UsageError("attention needs a text, or - for standard input, or --session ID")
    if turn is not None and session is None:
        raise UsageError("--turn is for --session")
    read = decoded(source("-"), "standard input") if text == "-" else text

    from codegen_chat.api import look
    from codegen_chat.attention import files
    from codegen_chat.models import load
    from codegen_chat.session import history
    from codegen_chat.terminal.attention import draw
    from codegen_chat.terminal.screen import Screen

    turns = history.History.read(history.find(preferences.sessions_folder(os.environ), session)).turns if session else ()
    loaded = load(settings.model, dtype=settings.dtype, device=settings.device)
    seen = look(loaded, turns, turn, settings.max_new_tokens) if read is None else loaded.attention(read)
    if output is not None:
        files.write(seen, output, layer, head)
        Screen(sys.stderr, plain=True).note(f"wrote {output}")
    elif as_json:
        sys.stdout.writelines(json.dumps(line) + "\n" for line in _lines(seen, layer, head))
    else:
        draw(Screen(sys.stdout, plain=is_plain(settings, os.environ)), seen, layer, head)
    return 0


def _lines(seen: Attention, layer: int | None, head: int | None) -> Iterator[dict[str, object]]:
    """Return what --json prints."""
    weights = seen.mean(layer, head)
    layers, heads = seen.weights.shape[:2]
    parts = [asdict(part) | {"name": part.name} for part in seen.parts]
    chosen = {"layers": layers, "heads": heads, "layer": layer, "head": head}
    back = seen.back(seen.parts[-1], weights).tolist()
    yield {"event": "attention", "model": seen.model, **chosen, "tokens": seen.tokens, "parts": parts, "back": back}
    for token, row in enumerate(weights):
        yield {"event": "row", "token": token, "weights": row[: token + 1].tolist()}
