"""The commands by name: each a function of one of the modules beside this one, imported and given its flags when it is asked for.

Building all of them would cost each a quarter of its start.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any, cast

import typer
from typer.core import TyperGroup
from typer.main import get_command

from codegen_chat.cli.repl import repl
from codegen_chat.errors import UsageError

COMMANDS = {
    "run": "play.run",
    "export": "play.export",
    "watch": "watch.watch",
    "complete": "once.complete",
    "exec": "once.execute",
    "attention": "look.attention",
    "doctor": "machine.doctor",
    "config": "machine.config",
    "train": "learn.train",
}
GROUPS = {
    "sessions": (
        "List, show, delete and check saved sessions.",
        {
            "ls": "sessions.list_sessions",
            "show": "sessions.show_session",
            "rm": "sessions.remove_sessions",
            "fsck": "sessions.check_sessions",
        },
    ),
    "models": (
        "List, fetch, add, convert, measure, verify and delete models.",
        {
            "ls": "models.list_models",
            "pull": "models.pull",
            "add": "models.add",
            "convert": "models.convert",
            "report": "models.report",
            "verify": "models.verify",
            "rm": "models.remove",
        },
    ),
    "bench": (
        "Measure a model: how well it does, how fast it is.",
        {name: f"bench.{name}" for name in ("humaneval", "mtpb", "speed", "perplexity", "compare")},
    ),
}


class _Built(Mapping[str, Any]):
    """Typer's commands, each built when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        if name in COMMANDS:
            one = typer.Typer(rich_markup_mode=None, add_completion=False)
            one.command(name)(_function(COMMANDS[name]))
            return get_command(one)
        text, places = GROUPS[name]
        group = typer.Typer(name=name, help=text, rich_markup_mode=None, no_args_is_help=True, add_completion=False)
        for below, place in places.items():
            group.command(below)(_function(place))
        return get_command(group)

    def __iter__(self) -> Iterator[str]:
        yield from COMMANDS
        yield from GROUPS

    def __len__(self) -> int:
        return len(COMMANDS) + len(GROUPS)


class _Commands(TyperGroup):
    """All of them; listing them builds none."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = cast("MutableMapping[str, Any]", _Built())

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  typer calls it so
        """Return their names."""
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  the same
        """Write what each does, from its docstring."""
        with formatter.section("Commands"):
            told = {name: (_function(place).__doc__ or "").partition("\n")[0] for name, place in COMMANDS.items()}
            formatter.write_dl([*told.items(), *((name, text) for name, (text, _) in GROUPS.items())])


app = typer.Typer(
    name="codegen-chat",
    cls=_Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback(invoke_without_command=True)(repl)


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


def _function(place: str) -> Callable[..., int]:
    module, _, name = place.partition(".")
    return cast("Callable[..., int]", getattr(import_module(f"codegen_chat.cli.{module}"), name))
