"""The commands: each a function of one of the modules beside this one; here they get their names."""

from __future__ import annotations

import re
import sys

import typer

from codegen_chat.cli import bench, learn, look, machine, models, once, play, sessions
from codegen_chat.cli.repl import repl
from codegen_chat.cli.watch import watch
from codegen_chat.errors import UsageError

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


def call() -> int:
    """Run the command that the arguments name; return its exit code. Raises UsageError for what cannot be understood."""
    try:
        return app(prog_name="codegen-chat", standalone_mode=False) or 0
    except typer.TyperException as error:
        message = error.format_message()
    except typer.Abort:
        raise KeyboardInterrupt from None
    if message.startswith("Usage:"):  # a group of commands, called without one
        sys.stdout.write(f"{message}\n")
        return UsageError.exit_code
    file = re.match(r"No such command '(.*\.(?:py|txt|jsonl))'", message)
    if file:
        advice = (
            "`codegen-chat exec` runs Python, `codegen-chat run` plays a spec or a session, `codegen-chat watch` answers in it"
        )
        raise UsageError(f"{file[1]} is no command: {advice}")
    raise UsageError(f"{message} (--help lists what there is)")
