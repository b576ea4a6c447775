"""The command line: flags to settings, sessions to the screen, errors to exit codes. Nothing is decided here."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codegen_chat import settings as preferences
from codegen_chat.errors import CodegenChatError, ModelUnavailable, SandboxUnavailable, SessionError, UsageError
from codegen_chat.settings import Settings

if TYPE_CHECKING:
    from codegen_chat.api import Loading, Session
    from codegen_chat.turn import Execution

CODE_FAILED, EXPECTATION_FAILED, SANDBOX_UNAVAILABLE, INTERRUPTED = 4, 5, SandboxUnavailable.exit_code, 130

app = typer.Typer(
    name="codegen-chat",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
saved = typer.Typer(help="List, show and delete saved sessions.", rich_markup_mode=None, no_args_is_help=True)
app.add_typer(saved, name="sessions")

Model = Annotated[
    str | None, typer.Option("-m", "--model", help="nano (embedded), a checkpoint's folder, or a name in the hub's cache.")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, ...")]
Dtype = Annotated[str | None, typer.Option(help="auto, fp32, bf16, fp16, int8 or int4.")]
Samples = Annotated[
    int | None, typer.Option("-n", "--samples", help="How many answers to draw; what they do decides which one is kept.")
]
Fallback = Annotated[int | None, typer.Option(help="How many more to draw where one answer's code fails; 0 is none.")]
Guard = Annotated[bool | None, typer.Option("--guard/--no-guard", help="Draw a line again that cannot be Python, or not.")]
Temperature = Annotated[
    float | None, typer.Option(help="0 is greedy. By default what the checkpoint says, as for top-p and top-k.")
]
TopP = Annotated[float | None, typer.Option(help="Draw from the likeliest tokens of this much probability.")]
TopK = Annotated[int | None, typer.Option(help="Draw from this many tokens; 0 is all.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="The most tokens of one answer.")]
Seed = Annotated[int | None, typer.Option(help="The same seed, the same answers.")]
Exec = Annotated[str | None, typer.Option(help="auto runs the code in the sandbox, off only shows it.")]
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


# ---------------------------------------------------------------- the REPL


@app.callback(invoke_without_command=True)
def repl(
    ctx: typer.Context,
    go_on: Annotated[bool, typer.Option("-c", "--continue", help="Go on with the newest session.")] = False,
    resume: Annotated[str | None, typer.Option(metavar="ID", help="Go on with a session.")] = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
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
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> int:
    """Say in words what a program should do; a CodeGen model writes it, a sandbox runs it.

    Without a command: a prompt to type turns at. Exit codes: 0 fine, 1 internal, 2 usage, 3 no model, 4 a turn's code failed,
    5 an expectation failed, 6 the window is too small, 7 no sandbox, 130 interrupted.
    """
    if version:
        sys.stdout.write(f"codegen-chat {metadata.version('codegen-chat')}\n")
        raise typer.Exit
    if ctx.invoked_subcommand is not None:
        if go_on or resume:
            raise UsageError(f"-c and --resume are for the prompt, not for {ctx.invoked_subcommand}")
        return 0
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("the prompt needs a terminal: `codegen-chat run -` reads turns from a pipe, --help lists the commands")
    from codegen_chat.session import history

    settings = _settings(ctx)
    folder = preferences.sessions_folder(os.environ)
    path = history.find(folder, resume) if resume else history.newest(folder) if go_on else None

    from codegen_chat.api import Session
    from codegen_chat.terminal.repl import Repl

    with Session.open(settings, resume=path, unsafe_exec=unsafe_exec) as session:
        typed = preferences.history_file(os.environ) if settings.save else None
        Repl(session, sys.stdout, history=typed, plain=_plain(settings)).run(_banner(session, resumed=path is not None))
        ready = session.ready
    if not ready:
        # torch is still being imported in a thread: an orderly end of the interpreter would pull it from under its feet.
        sys.stdout.flush()
        os._exit(0)
    return 0


def _banner(session: Session, *, resumed: bool) -> Iterator[str]:
    from codegen_chat.lm.hub import EMBEDDED

    name = session.history.header["model"]
    if name == EMBEDDED:
        yield "nano: a small model trained by this repository, no published checkpoint. It suits short, plain steps."
    else:
        yield f"{name}, revision {session.history.header['revision']}"
    yield from [f"Code is shown and not executed: {session.unsafe}"] if session.unsafe else session.walls
    if resumed:
        turns = "1 turn" if len(session.turns) == 1 else f"{len(session.turns)} turns"
        yield f"Session {session.history.id} goes on: {turns}, variables rebuilt; /show shows them."
        yield from session.notes
    yield "/demo plays an example, /help lists the rest."


# ---------------------------------------------------------------- specs


@app.command()
def run(
    ctx: typer.Context,
    specs: Annotated[
        list[str] | None, typer.Argument(metavar="SPEC...", help="Specs or saved sessions; - is standard input.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="OUT.py", help="Write the program to a file.")] = None,
    var: Annotated[list[str] | None, typer.Option(metavar="K=V", help="Give {K} of the spec a value.")] = None,
    replay: Annotated[
        str, typer.Option(metavar="recorded|resample", help="Of a saved session: run its code, or ask the model again.")
    ] = "recorded",
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress on standard error.")] = False,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
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
    if output and len(specs) > 1:
        raise UsageError("-o takes the program of one spec: give one")
    if replay not in {"recorded", "resample"}:
        raise UsageError(f"--replay is recorded or resample, not {replay}")
    variables = dict(_pair(item) for item in var or ())
    read = [(name, spec.read(_source(name), _called(name), variables, resample=replay == "resample")) for name in specs]
    settled = [(name, parsed, _settings(ctx, parsed.settings, name)) for name, parsed in read]

    from codegen_chat.api import Session
    from codegen_chat.terminal.play import JsonPlayer, Player, ScreenPlayer, play
    from codegen_chat.terminal.screen import Screen

    progress = Screen(sys.stderr, plain=True)
    loading: Loading | None = None
    codes = set()
    for name, parsed, settings in settled:
        with Session.open(settings, model=loading, unsafe_exec=unsafe_exec) as session:
            loading = session.model
            if settings.allow_read or settings.allow_write or unsafe_exec:
                for line in session.walls:
                    progress.note(line)
            player: Player = JsonPlayer(sys.stdout) if as_json else ScreenPlayer(Screen(sys.stdout, plain=_plain(settings)))
            header = session.history.header
            facts = {
                "spec": _called(name),
                "model": header["model"],
                "revision": header["revision"],
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


# ---------------------------------------------------------------- sessions


@app.command()
def export(
    name: Annotated[str, typer.Argument(metavar="ID|FILE", help="The start of a session's id, or its file.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT.py", help="Where to; standard output by default.")
    ] = None,
) -> int:
    """Write a saved session as a Python program.

    The program is run once more from nothing, and says "verified" only if it gave what the session recorded.
    """
    from codegen_chat.api import program, sandbox
    from codegen_chat.session import history
    from codegen_chat.terminal.screen import Screen

    settings = preferences.read(os.environ, Path.cwd())
    path = history.find(preferences.sessions_folder(os.environ), name)
    kernel, unsafe = sandbox(settings)
    try:
        written = program(history.History.read(path), kernel, settings.timeout)
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


@saved.command("ls")
def list_sessions() -> int:
    """List the saved sessions, the newest first."""
    from codegen_chat.session import history
    from codegen_chat.terminal.screen import Screen

    screen = Screen(sys.stdout, plain=True)
    for summary in history.sessions(preferences.sessions_folder(os.environ)):
        damage = f"  ({len(summary.dropped)} lines lost)" if summary.dropped else ""
        turns = f"{summary.turns} turn{'' if summary.turns == 1 else 's'}"
        screen.say(
            f"{summary.id}  {summary.changed[:16].replace('T', ' ')}  {turns:>8}  {summary.model}  {summary.title}{damage}"
        )
    return 0


@saved.command("show")
def show_session(
    name: Annotated[str, typer.Argument(metavar="ID|FILE", help="The start of a session's id, or its file.")],
    plain: Plain = None,
) -> int:
    """Show a session: words, code, results; failed turns too."""
    from codegen_chat.session import history
    from codegen_chat.terminal.screen import Screen

    session = history.History.read(history.find(preferences.sessions_folder(os.environ), name))
    screen = Screen(sys.stdout, plain=bool(plain))
    for line in session.dropped:
        screen.error(line)
    for number, turn in enumerate(session.transcript, 1):
        screen.turn(number, turn)
    return 0


@saved.command("rm")
def remove_sessions(
    names: Annotated[list[str], typer.Argument(metavar="ID|FILE...", help="The start of a session's id, or its file.")],
) -> int:
    """Delete sessions. One that is in use is not deleted."""
    from codegen_chat.session import history

    folder = preferences.sessions_folder(os.environ)
    for path in [history.find(folder, name) for name in names]:
        with history.History.open(path):
            try:
                path.unlink()
            except OSError as error:
                raise SessionError(f"{path} cannot be deleted: {error.strerror}") from None
    return 0


# ---------------------------------------------------------------- one completion, one file


@app.command()
def complete(
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(metavar="TEXT|-", help="What the model continues, as it is; - is standard input.")],
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given several times.")] = None,
    as_json: Json = False,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    samples: Samples = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = None,
) -> int:
    """Let the model continue a text as it is.

    No session, no sandbox, no conversation format.
    """
    settings = _settings(ctx)
    prompt = _decoded(_source("-"), "standard input") if text == "-" else text

    from codegen_chat.api import load
    from codegen_chat.session.records import completion_to_json
    from codegen_chat.terminal.screen import visible
    from codegen_chat.turn import Completion

    loaded = load(settings.model, dtype=settings.dtype, device=settings.device)
    show = visible if sys.stdout.isatty() else str
    for index in range(settings.samples):
        for event in loaded.stream(
            prompt,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            stop=stop or (),
            seed=settings.seed + index,
        ):
            if not isinstance(event, Completion):
                sys.stdout.write("" if as_json else show(event.text))
            else:
                sys.stdout.write((json.dumps(completion_to_json(event)) if as_json else "") + "\n")
                if event.finish_reason == "interrupted":
                    return INTERRUPTED
            sys.stdout.flush()
    return 0


@app.command("exec")
def execute(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A Python file; - is standard input.")],
    as_json: Json = False,
    files: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Copy the files that it wrote into this folder, which is new or empty.")
    ] = None,
    timeout: Timeout = None,
    memory: Memory = None,
    allow_read: AllowRead = None,
    allow_write: AllowWrite = None,
    unsafe_exec: UnsafeExec = False,
) -> int:
    """Run one Python file in the sandbox.

    No model. With --json one line: status, stdout, stderr, value, error, duration, tier. The status is one of ok, error, timeout,
    memory, output, killed, interrupted, refused (no sandbox holds here, and nothing was executed).
    """
    settings = _settings(ctx)
    code = _decoded(_source(file), file)

    from codegen_chat.api import sandbox, walls
    from codegen_chat.terminal.screen import Screen
    from codegen_chat.turn import Execution

    progress = Screen(sys.stderr, plain=True)
    result = Execution("interrupted")
    kernel, refusal = sandbox(settings, unsafe=unsafe_exec)
    if kernel is None:
        if as_json:
            sys.stdout.write(_told(result, None, refusal) + "\n")
        raise SandboxUnavailable(f"nothing was executed: {refusal}")
    with kernel:
        if unsafe_exec:
            for line in walls(kernel):
                progress.error(line)
        for event in kernel.execute(code, parent=None, turn=None):
            if isinstance(event, Execution):
                result = event
            elif not as_json:
                stream = sys.stdout if event.stream == "stdout" else sys.stderr
                stream.write(event.text)
                stream.flush()
        if files is not None:
            for name in kernel.save_files(result.files, files):
                progress.error(f"{name} was left out: it is no ordinary file")
        tier = kernel.tier
    if as_json:
        sys.stdout.write(_told(result, tier) + "\n")
    else:
        if result.value is not None:
            sys.stdout.write(result.value + "\n")
        if result.failure:
            sys.stderr.write(result.failure.traceback.rstrip() + "\n")
        elif result.status != "ok":
            sys.stderr.write(f"codegen-chat: {result.status} after {result.duration:.1f} s {result.note}".rstrip() + "\n")
    if result.status == "interrupted":
        return INTERRUPTED
    return 0 if result.status == "ok" else CODE_FAILED


def _told(result: Execution, tier: str | None, refusal: str | None = None) -> str:
    """Return what came of a file as a line of JSON."""
    from codegen_chat.session.records import execution_to_json

    data = execution_to_json(result)
    status, error = data["status"], data["failure"]
    if refusal is not None:
        status, error = "refused", {"type": "SandboxUnavailable", "message": refusal, "line": 0, "traceback": ""}
    elif status not in {"ok", "error"}:  # the code's own exception then says where it was, and not what was the matter
        said = result.note or f"{status} after {result.duration:.1f} s"
        error = {"line": 0, "traceback": "", **(error or {}), "type": status, "message": said}
    told = {key: data[key] for key in ("stdout", "stderr", "value")}
    return json.dumps({"status": status, **told, "error": error, "duration": data["duration"], "tier": tier})


# ---------------------------------------------------------------- the machine


@app.command()
def doctor(ctx: typer.Context, model: Model = None, device: Device = None, dtype: Dtype = None) -> int:
    """Say what holds on this machine.

    Python, torch, the model, the sandbox's walls, the folders.
    """
    settings = _settings(ctx)

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


@app.command()
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


# ---------------------------------------------------------------- from flags and files


def _settings(ctx: typer.Context, spec: Mapping[str, object] | None = None, name: str = "") -> Settings:
    """Return the settings of files and environment, then of a spec, then of the flags, also those in front of the command."""
    settings = preferences.read(os.environ, Path.cwd()).updated(spec or {}, f"@set of {_called(name)}", trusted=False)
    known = {setting.name for setting in fields(Settings)}
    flags = {
        **(ctx.parent.params if ctx.parent else {}),
        **{key: value for key, value in ctx.params.items() if value is not None},
    }
    given = {key: flags[key] for key in flags.keys() & known if flags[key] not in (None, [])}
    return settings.updated(given, "command line")


def _plain(settings: Settings) -> bool:
    return settings.plain or os.environ.get("ACCESSIBLE", "0") not in {"", "0"} or os.environ.get("TERM") == "dumb"


def _called(name: str) -> str:
    return "<stdin>" if name == "-" else name


def _source(name: str) -> bytes:
    """Read a file, or standard input for "-"."""
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"{_called(name)} cannot be read: {error.strerror}") from None


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{_called(name)} is not UTF-8 text: byte {error.start} cannot be read") from None


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise UsageError(f"--var takes NAME=VALUE, not {text!r}")
    return name, value


# ---------------------------------------------------------------- the process


def main() -> None:
    """Run the command line; the exit code is its own, and a line on standard error says what went wrong."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(prog_name="codegen-chat", standalone_mode=False) or 0
        sys.stdout.flush()
    except CodegenChatError as error:
        code = _failed(str(error), error.exit_code)
    except typer.TyperException as error:
        code = _failed(f"{error.format_message()} (--help lists what there is)", UsageError.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except (OSError, SystemExit) as error:
        # A reader that went away (`| head`) is no error; typer and rich turn it into an exit of their own.
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            if isinstance(error, SystemExit):
                raise
            code = _failed(str(error), CodegenChatError.exit_code)
        else:
            code = 0
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _failed(message: str, code: int) -> int:
    from codegen_chat.terminal.screen import visible

    with suppress(OSError):
        sys.stderr.write(f"codegen-chat: {visible(message)}\n")
    return code


if __name__ == "__main__":
    main()
