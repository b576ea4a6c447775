"""The command line: flags to settings, sessions to the screen, errors to exit codes. Nothing is decided here.

A command is a function of one of the modules beside this one; here they get their names.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress

import typer

from codegen_chat.cli import bench, learn, look, machine, models, once, play, sessions
from codegen_chat.cli.options import INTERRUPTED
from codegen_chat.cli.repl import repl
from codegen_chat.cli.watch import watch
from codegen_chat.errors import CodegenChatError, UsageError

app = typer.Typer(
    name="codegen-chat",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback(invoke_without_command=True)(repl)
app.command()(play.run)
app.command()(play.export)
app.command()(watch)
app.command()(once.complete)
app.command("exec")(once.execute)
app.command()(look.attention)
app.command()(machine.doctor)
app.command()(machine.config)
app.command()(learn.train)

saved = typer.Typer(help="List, show, delete and check saved sessions.", rich_markup_mode=None, no_args_is_help=True)
saved.command("ls")(sessions.list_sessions)
saved.command("show")(sessions.show_session)
saved.command("rm")(sessions.remove_sessions)
saved.command("fsck")(sessions.check_sessions)
app.add_typer(saved, name="sessions")

shelf = typer.Typer(
    help="List, fetch, add, convert, measure, verify and delete models.", rich_markup_mode=None, no_args_is_help=True
)
shelf.command("ls")(models.list_models)
shelf.command()(models.pull)
shelf.command()(models.add)
shelf.command()(models.convert)
shelf.command()(models.report)
shelf.command()(models.verify)
shelf.command("rm")(models.remove)
app.add_typer(shelf, name="models")

measuring = typer.Typer(help="Measure a model: how well it does, how fast it is.", rich_markup_mode=None, no_args_is_help=True)
measuring.command()(bench.humaneval)
measuring.command()(bench.mtpb)
measuring.command()(bench.speed)
measuring.command()(bench.perplexity)
measuring.command()(bench.compare)
app.add_typer(measuring, name="bench")


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
        code = _misused(error.format_message())
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


def _misused(message: str) -> int:
    """Say what cannot be understood on the command line, and what may have been meant."""
    file = re.match(r"No such command '(.*\.(?:py|txt|jsonl))'", message)
    if message.startswith("Usage:"):  # a group of commands, called without one
        sys.stdout.write(f"{message}\n")
        return UsageError.exit_code
    if file:
        advice = (
            "`codegen-chat exec` runs Python, `codegen-chat run` plays a spec or a session, `codegen-chat watch` answers in it"
        )
        return _failed(f"{file[1]} is no command: {advice}", UsageError.exit_code)
    return _failed(f"{message} (--help lists what there is)", UsageError.exit_code)


def _failed(message: str, code: int) -> int:
    from codegen_chat.terminal.printing import visible

    with suppress(OSError):
        sys.stderr.write(f"codegen-chat: {visible(message)}\n")
    return code
