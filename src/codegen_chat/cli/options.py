"""The flags that commands share, and what becomes of them: settings, texts, exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from codegen_chat import settings as preferences
from codegen_chat.errors import SandboxUnavailable, UsageError
from codegen_chat.settings import Settings

CODE_FAILED, EXPECTATION_FAILED, SANDBOX_UNAVAILABLE = 4, 5, SandboxUnavailable.exit_code


def _models(incomplete: str) -> list[str]:
    """Return the models of this machine whose names begin so, for the shell's completion; a folder the shell completes itself."""
    from codegen_chat.lm import shelf

    return [name for name in dict(shelf.here()) if name.startswith(incomplete)]


def _one_of(*words: str) -> Callable[[str], list[str]]:
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


Model = Annotated[
    str | None,
    typer.Option(
        "-m", "--model", help="nano (embedded), a checkpoint's folder, or a name that models ls shows.", autocompletion=_models
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, ...", autocompletion=_one_of("auto", "cpu", "cuda"))]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="auto, fp32, bf16, fp16, int8 or int4.", autocompletion=_one_of("auto", "fp32", "bf16", "fp16", "int8", "int4")
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        help="off, or a smaller model of the same vocabulary, which proposes tokens: the same text, sooner or not.",
        autocompletion=_models,
    ),
]
Samples = Annotated[
    int | None, typer.Option("-n", "--samples", help="How many answers to draw; what they do decides which one is kept.")
]
Fallback = Annotated[int | None, typer.Option(help="How many more to draw where one answer's code fails; 0 is none.")]
Guard = Annotated[
    bool | None,
    typer.Option("--guard/--no-guard", help="Copy the words' literals whole, draw again what cannot be Python; or not."),
]
Temperature = Annotated[
    float | None, typer.Option(help="0 is greedy. By default what the checkpoint says, as for top-p and top-k.")
]
TopP = Annotated[float | None, typer.Option(help="Draw from the likeliest tokens of this much probability.")]
TopK = Annotated[int | None, typer.Option(help="Draw from this many tokens; 0 is all.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="The most tokens of one answer.")]
Seed = Annotated[int | None, typer.Option(help="The same seed, the same answers.")]
Exec = Annotated[
    str | None,
    typer.Option(
        autocompletion=_one_of("auto", "ask", "off"),
        help="auto runs the code in the sandbox, ask once you say so, off only shows it.",
    ),
]
Timeout = Annotated[float | None, typer.Option(help="Seconds that one turn's code may run.")]
Memory = Annotated[str | None, typer.Option(help="Memory that one turn's code may use, such as 512M or 2G.")]
AllowRead = Annotated[
    list[str] | None,
    typer.Option("--allow-read", metavar="DIR", help="Let code read this folder and import from it; may be given several times."),
]
AllowWrite = Annotated[
    list[str] | None, typer.Option("--allow-write", metavar="DIR", help="Let code read and write this folder, outside of undo.")
]
UnsafeExec = Annotated[
    bool, typer.Option("--unsafe-exec", help="Where no sandbox holds, run code all the same, with your rights. This time only.")
]
Save = Annotated[bool | None, typer.Option("--save/--no-save", help="Keep the session in a file, or not.")]
Plain = Annotated[bool | None, typer.Option("--plain/--no-plain", help="No colours and no bar: for screen readers and logs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


def settled(ctx: typer.Context, spec: Mapping[str, object] | None = None, name: str = "") -> Settings:
    """Return the settings of files and environment, then of a spec, then of the flags, also those in front of the command."""
    settings = preferences.read(os.environ, Path.cwd()).updated(spec or {}, f"@set of {called(name)}", trusted=False)
    return settings.updated(flags(ctx), "command line")


def flags(ctx: typer.Context) -> dict[str, object]:
    """Return the settings among the flags that were given."""
    known = {setting.name for setting in fields(Settings)}
    given = {**ctx.find_root().params, **{key: value for key, value in ctx.params.items() if value is not None}}
    return {key: given[key] for key in given.keys() & known if given[key] not in (None, [], ())}


def called(name: str) -> str:
    """Return how messages call a source of text."""
    return "<stdin>" if name == "-" else name


def source(name: str) -> bytes:
    """Read a file, or standard input for "-"."""
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"{called(name)} cannot be read: {error.strerror}") from None


def decoded(data: bytes, name: str) -> str:
    """Return UTF-8 text, or raise UsageError with the place that is none."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{called(name)} is not UTF-8 text: byte {error.start} cannot be read") from None


def pair(text: str) -> tuple[str, str]:
    """Return the name and the value of NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise UsageError(f"--var takes NAME=VALUE, not {text!r}")
    return name, value
