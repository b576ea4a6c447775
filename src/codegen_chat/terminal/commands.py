"""The slash commands of the REPL: what a typed line means. Nothing here acts; repl.py does."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from codegen_chat.errors import UsageError


@dataclass(frozen=True, slots=True)
class Command:
    """One slash command: its name, what may follow it (empty: nothing may), what it does."""

    name: str
    argument: str
    help: str


COMMANDS = (
    Command("/undo", "", "take back the last turn: its words, code and variables"),
    Command("/redo", "", "do again what was undone"),
    Command("/retry", "[N]", "answer the last words again with a new seed; N answers, the best is kept"),
    Command("/show", "[all]", "the program so far; all: the failed turns too"),
    Command("/vars", "", "the variables alive in the sandbox"),
    Command("/prompt", "", "the exact text that the model would continue, and its tokens"),
    Command("/attention", "[K] [FILE]", "what the model looked at while it wrote turn K; to a FILE.html or FILE.png"),
    Command("/export", "FILE.py", "write the program to a file, after running it once more from nothing"),
    Command("/demo", "", "play a short conversation"),
    Command("/help", "", "this list"),
    Command("/exit", "", "leave; the session is saved (also Ctrl-D)"),
)

KEYS = (
    ("Enter", "send"),
    ("Alt-Enter, Ctrl-J", "a new line"),
    ("Ctrl-C", "clear the line; stop the model; interrupt running code"),
    ("Ctrl-R", "search what was typed before"),
    ("Ctrl-X Ctrl-E", "write in $EDITOR"),
    ("Tab", "complete commands and variables"),
)

DEMO = (
    'Assign the list [3, 1, 4, 1, 5, 9, 2, 6] to a variable named "nums".',
    'Sort the list and save it as "ordered".',
    "Print the sum of the list.",
)
"""What `/demo` says, one turn each."""


@dataclass(frozen=True, slots=True)
class Said:
    """Words: a turn for the model."""

    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """The person's own code: a turn that runs as it is."""

    code: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A slash command and what follows it."""

    name: str
    argument: str = ""


def read(line: str) -> Said | Code | Asked:
    """Tell words, code and commands apart.

    `>>> ` starts code, as in a spec; further lines may begin with `>>> ` or `... ` or stand as they are. `//` starts words that
    begin with a slash. Raises UsageError for a command that does not exist or does not take what follows it.
    """
    text = line.strip()
    if text.startswith(">>>"):
        return Code("\n".join(_unprompted(row) for row in text.splitlines()))
    if not text.startswith("/"):
        return Said(text)
    if text.startswith("//"):
        return Said(text[1:])
    name, _, argument = text.partition(" ")
    command = next((command for command in COMMANDS if command.name == name), None)
    if command is None:
        near = difflib.get_close_matches(name, [command.name for command in COMMANDS], n=1)
        raise UsageError(f"there is no command {name}; {f'did you mean {near[0]}?' if near else '/help lists them'}")
    if argument.strip() and not command.argument:
        raise UsageError(f"{name} takes nothing after it")
    return Asked(name, argument.strip())


def _unprompted(row: str) -> str:
    for prompt in (">>>", "..."):
        if row == prompt or row.startswith(f"{prompt} "):
            return row[len(prompt) + 1 :]
    return row
