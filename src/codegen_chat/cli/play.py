"""`run` and `export`: specs played, sessions written as programs."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codegen_chat import settings as preferences
from codegen_chat.cli.options import (
    CODE_FAILED,
    EXPECTATION_FAILED,
    SANDBOX_UNAVAILABLE,
    AllowRead,
    AllowWrite,
    Device,
    Draft,
    Dtype,
    Exec,
    Fallback,
    Guard,
    Json,
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
    called,
    pair,
    settled,
    source,
)
from codegen_chat.cli.sessions import Name as SessionName
from codegen_chat.errors import INTERRUPTED, CodegenChatError, UsageError
from codegen_chat.settings import is_plain

if TYPE_CHECKING:
    from codegen_chat.models import Model as Loaded

OUTPUT = "OUT.{py,ipynb,md,html}"


def run(
    ctx: typer.Context,
    specs: Annotated[
        list[str] | None, typer.Argument(metavar="SPEC...", help="Specs or saved sessions; - is standard input.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar=OUTPUT, help="Write the session to a file of this kind.")
    ] = None,
    var: Annotated[list[str] | None, typer.Option(metavar="K=V", help="Give {K} of the spec a value.")] = None,
    replay: Annotated[
        str, typer.Option(metavar="recorded|resample", help="Of a saved session: run its code, or ask the model again.")
    ] = "recorded",
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress on standard error.")] = False,
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
) -> int:
    """Play specs and check what they expect.

    A spec is a text file: a turn a line, an indented line continues it, # comments; @set seed=7, @var NAME="text" for {NAME},
    @expect EXPRESSION after a turn; >>> code runs as it is. A turn whose code fails ends its spec.
    """
    from codegen_chat.session import spec

    if not specs:
        if sys.stdin.isatty():
            sys.stdout.write(ctx.get_help() + "\n")
            raise typer.Exit(UsageError.exit_code)
        specs = ["-"]
    _check(specs, output, replay)
    variables = dict(pair(item) for item in var or ())
    read = [(name, spec.read(source(name), called(name), variables, resample=replay == "resample")) for name in specs]
    ready = [(name, parsed, settled(ctx, parsed.settings, name)) for name, parsed in read]
    if any(settings.exec == "ask" for _, _, settings in ready):
        raise UsageError("nobody is asked here before code runs: give --exec auto or --exec off")

    from codegen_chat.api import Session
    from codegen_chat.loading import Loading

    first = Loading(lambda: Session.open(ready[0][2], unsafe_exec=unsafe_exec))
    first.begin()  # its sandbox starts while what shows its turns is imported
    try:
        from codegen_chat.terminal.play import JsonPlayer, Player, ScreenPlayer, play
        from codegen_chat.terminal.screen import Screen

        opened = first.value
    except KeyboardInterrupt:
        with suppress(CodegenChatError):
            first.value.close()  # else what its sandbox has of the host's folders would stay
        raise
    progress = Screen(sys.stderr, plain=True)
    loading: Loading[Loaded] | None = None
    codes = set()
    for name, parsed, settings in ready:
        with Session.open(settings, model=loading, unsafe_exec=unsafe_exec) if loading else opened as session:
            loading = session.model
            if settings.allow_read or settings.allow_write or unsafe_exec:
                for line in session.walls:
                    progress.note(line)
            player: Player = (
                JsonPlayer(sys.stdout) if as_json else ScreenPlayer(Screen(sys.stdout, plain=is_plain(settings, os.environ)))
            )
            facts = {
                "spec": called(name),
                "model": session.history.header["model"],
                "revision": session.history.header["revision"],
                "session": session.history.id,
            }
            player.begin(facts)
            for note in parsed.notes if not quiet else ():
                progress.note(note)
            tally = play(session.conversation, parsed.steps, player)
            if tally.interrupted:
                if session.turns and settings.save:
                    progress.error(f"interrupted; `codegen-chat --resume {session.history.id}` goes on")
                return INTERRUPTED
            codes |= {CODE_FAILED} if tally.failed else {EXPECTATION_FAILED} if tally.missed else set()
            if output:
                doubt = session.export(output)
                if not quiet:
                    progress.note(f"wrote {output}, {f'not verified: {doubt}' if doubt else 'verified'}")
            if session.unsafe and settings.exec == "auto":
                progress.error(f"nothing was executed: {session.unsafe}")
                codes.add(SANDBOX_UNAVAILABLE)
            if session.history.trouble:
                progress.error(session.history.trouble)
    return next((code for code in (SANDBOX_UNAVAILABLE, CODE_FAILED, EXPECTATION_FAILED) if code in codes), 0)


def _check(specs: list[str], output: Path | None, replay: str) -> None:
    """Raise UsageError for arguments of `run` that do not go together."""
    python = next((name for name in specs if name.endswith(".py")), None)
    if python:
        raise UsageError(f"{python} is Python, not words: `codegen-chat exec {python}` runs it")
    if output and len(specs) > 1:
        raise UsageError("-o takes the program of one spec: give one")
    if output:
        from codegen_chat.publish import kind

        kind(output)
    if replay not in {"recorded", "resample"}:
        raise UsageError(f"--replay is recorded or resample, not {replay}")


def export(
    name: SessionName,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar=OUTPUT, help="Where to, and which kind of file; a program on standard output."),
    ] = None,
) -> int:
    """Write a saved session as a Python program, a Jupyter notebook, a Markdown or an HTML page.

    The program is run once more from nothing, and the file says "verified" only if that gave what the session recorded. Pictures
    are in the notebook and in the HTML page; those of OUT.md stand in OUT_files.
    """
    from codegen_chat.publish import kind, publish
    from codegen_chat.sandbox.by_settings import sandbox
    from codegen_chat.session import history
    from codegen_chat.terminal.screen import Screen

    settings = preferences.read(os.environ, Path.cwd())
    target = Path("-.py") if output is None or str(output) == "-" else output
    kind(target)
    path = history.find(preferences.sessions_folder(os.environ), name)
    kernel, unsafe = sandbox(settings)
    try:
        written = publish(history.History.read(path), kernel, settings.timeout, target)
    finally:
        if kernel:
            kernel.close()
    progress = Screen(sys.stderr, plain=True)
    if output is None or str(output) == "-":
        sys.stdout.write(written.text)
    else:
        written.write(output)
    progress.note(f"not verified: {unsafe or written.doubt}" if written.doubt else "verified")
    return 0
