"""`models`: which there are and which fit, fetched, added, converted, measured, verified, deleted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from codegen_chat.cli.options import Json, Model, decoded, settled, source
from codegen_chat.errors import ModelUnavailable
from codegen_chat.lm.hub import amount

if TYPE_CHECKING:
    from codegen_chat.terminal.screen import Screen

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name that `models ls` shows, or any other of the hub.")]


def list_models(as_json: Json = False) -> int:
    """List the models that are here or could be had.

    With what they take of disk and memory at each precision, and whether this machine has it.
    """
    from codegen_chat.lm import fit, hub, shelf

    free, room = fit.free_memory(), fit.free_disk(hub.cache())
    models = list(shelf.listing())
    wide = max(len(model.name) for model in models)
    screen = _screen()
    if not as_json:
        screen.say(f"{'model':<{wide}}  {'disk':>9} {'':<8}" + "".join(f"{dtype:>9} " for dtype in fit.DTYPES) + " licence")
    for model in models:
        needs = {dtype: fit.memory(model.config, dtype) for dtype in fit.DTYPES} if model.config else {}
        state = "damaged" if not needs else "here" if model.folder else "to pull" if model.bytes < room else "too big"
        if as_json:
            told = {"name": model.name, "state": state, "folder": model.folder and str(model.folder), "bytes": model.bytes}
            fits = {dtype: need < free for dtype, need in needs.items()}
            sys.stdout.write(json.dumps(told | {"memory": needs, "fits": fits, "licence": model.licence}) + "\n")
            continue
        cells = "".join(f"{amount(need):>9}{' ' if need < free else '!'}" for need in needs.values())
        screen.say(f"{model.name:<{wide}}  {amount(model.bytes):>9} {state:<8}{cells} {model.licence or 'see its card'}")
    if not as_json:
        screen.say(
            f"The columns are memory by --dtype: {amount(free)} are free, and ! does not fit. {amount(room)} of disk are free."
        )
    return 0


def pull(
    name: Name,
    revision: Annotated[str, typer.Option(help="A branch, a tag or a commit of its repository.")] = "main",
) -> int:
    """Fetch a model from the Hugging Face hub into its cache.

    Only this command asks the network. A download that was broken off goes on where it was, and what came is checked. HF_HOME,
    HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured.
    """
    from codegen_chat.lm import fetch, hub

    if not hub.HUB_NAME.fullmatch(name) or "@" in name:
        raise ModelUnavailable(f"{name!r} is no name of the hub: {hub.meant(name)}they are like {next(iter(hub.FAMILY))}")
    progress = _Progress(name)
    folder = fetch.pull(name, revision, progress)
    progress.end()
    called = name if revision == "main" else f"{name}@{revision}"
    _screen().say(f"{called}, revision {hub.revision(folder)}, is in {folder}: use it with -m {called}")
    return 0


def add(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A checkpoint's folder.")],
    name: Annotated[str | None, typer.Option(help="What to call it; by default as its folder.")] = None,
) -> int:
    """Take a checkpoint's folder in under a name.

    Its files are linked where that is possible, or else copied. For a model that was fetched elsewhere.
    """
    from codegen_chat.lm import shelf

    called = shelf.add(folder.expanduser(), name)
    _screen().say(f"use it with -m {called}")
    return 0


def convert(
    ctx: typer.Context,
    to: Annotated[str, typer.Option(help="transformers (floating point, for AutoModelForCausalLM), int8 or int4.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="The new folder; by default NAME-TO among the models.")
    ] = None,
    model: Model = None,
) -> int:
    """Write a model anew, for another program or smaller.

    Tensor by tensor: memory does not grow with the model. The folder has model.safetensors, whatever layout there was.
    """
    settings = settled(ctx)

    from codegen_chat.lm import convert, hub, shelf

    source = hub.locate(settings.model)
    name = f"{hub.name(source)}-{to}".replace("@", "-")
    target = output.expanduser() if output else hub.shelf() / name
    progress = _Progress(hub.name(source))
    for done, total in convert.convert(source, target, to):
        progress(done, total)
    progress.end()
    use = f"use it with -m {target if output else name}"
    if to == "transformers":
        use = f"AutoModelForCausalLM.from_pretrained({str(target)!r}) loads it"
    _screen().say(f"wrote {target}, {amount(shelf.size(target))} from {amount(shelf.size(source))}: {use}")
    return 0


def report(
    ctx: typer.Context,
    text: Annotated[
        str | None, typer.Option(metavar="FILE", help="What to measure on; by default a source file of this package.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="How many of its tokens.", min=2)] = 512,
    as_json: Json = False,
    model: Model = None,
) -> int:
    """Measure size, speed and loss of quality at each precision.

    On a text: its perplexity, how often the likeliest token is that of the first row, and how far the predictions are from it.
    """
    settings = settled(ctx)
    name = text or str(Path(__file__).parents[1] / "guard.py")
    words = decoded(source(name), name)

    from codegen_chat.lm import hub, report
    from codegen_chat.lm.tokenizer import Tokenizer

    folder = hub.locate(settings.model)
    tokenizer = Tokenizer.load(folder)
    words = tokenizer.decode(tokenizer.encode(words)[:tokens])
    screen = _screen()
    if not as_json:
        screen.say("dtype    weights    memory    prompt    decode  perplexity  same token  divergence")
        screen.say("                            tokens/s  tokens/s                              nats")
    for cost in report.costs(folder, words):
        if as_json:
            sys.stdout.write(json.dumps(cost._asdict()) + "\n")
        else:
            sizes = f"{amount(cost.weights):>9} {amount(cost.memory):>9}"
            speeds = f"{cost.prompt_speed:>9.0f} {cost.speed:>9.1f}"
            losses = f"{cost.perplexity:>11.3f} {cost.same:>11.2%} {cost.divergence:>11.1e}"
            screen.say(f"{cost.dtype:<6} {sizes} {speeds} {losses}")
    return 0


def verify(name: Annotated[str, typer.Argument(metavar="NAME|DIR", help="A model that is here.")]) -> int:
    """Check that a model is whole and computes.

    Checksums where the hub gave them, layout, tokenizer, finite and repeatable logits, and the published text where there is one.
    """
    from codegen_chat.lm import hub, report

    screen = _screen()
    code = 0
    for holds, what in report.checks(hub.locate(name)):
        screen.say(f"{'ok' if holds else 'NO':<3} {what}", "" if holds else "red")
        code = code if holds else ModelUnavailable.exit_code
    return code


def remove(names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names that `models ls` shows as here.")]) -> int:
    """Delete models from this machine.

    Added and converted ones, and those in the hub's cache, with all their revisions.
    """
    from codegen_chat.lm import packed, shelf

    for name in names:
        _screen().say(f"{name}: {amount(shelf.remove(name) + packed.sweep())} freed")
    return 0


class _Progress:
    """Says on standard error how far something is: on a terminal in one line that is written over, else every ten seconds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = self._told = monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        """Tell how many bytes are done, of how many."""
        self._first = done if self._first is None else self._first
        now = monotonic()
        if now - self._told < (0.2 if sys.stderr.isatty() else 10):
            return
        self._told = now
        rate = (done - self._first) / max(now - self._began, 0.1)
        line = f"{self._what}: {amount(done)} of {amount(total)}, {amount(rate)}/s"
        sys.stderr.write(f"\r{line:<78}" if sys.stderr.isatty() else f"{line}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Clear the line."""
        if sys.stderr.isatty():
            sys.stderr.write("\r" + " " * 78 + "\r")


def _screen() -> Screen:
    from codegen_chat.terminal.screen import Screen

    return Screen(sys.stdout, plain=True)
