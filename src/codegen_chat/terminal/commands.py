"""The slash commands of the REPL: what a typed line means. Nothing here acts; repl.py does."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from codegen_chat.errors import UsageError


@dataclass(frozen=True, slots=True)
class Command:
    """One slash command: its name, what may follow it (empty: nothing may), what it does."""

    name: str
    argument: str
    help: str


COMMANDS = (
    Command("/retry", "[N] [t=T]", "answer again with a new seed; N answers side by side, temperature T"),
    Command("/pick", "[K]", "take candidate K of the last turn, with its variables; shows them all"),
    Command("/fix", "", "after an error: tell the model what it was, run some answers, keep the best"),
    Command("/edit", "[N]", "change turn N (or the last) and run again what follows"),
    Command("/undo", "", "take back the last turn: words, code and variables"),
    Command("/redo", "", "do again what was undone"),
    Command("/fork", "[N]", "go back to after turn N (0: the beginning); the rest stays a branch"),
    Command("/branches", "[K]", "the branches as a tree; K goes to the end of branch K"),
    Command("/hide", "N", "leave turn N out of the prompt, or take it in again; its variables live"),
    Command("/pin", "N", "never let turn N fall out of the window, or let it"),
    Command("/vars", "", "the variables alive in the sandbox"),
    Command("/show", "[N|all]", "the program so far; turn N with all its output; all: failed turns too"),
    Command("/prompt", "", "the exact text the model sees, its window, and what goes next"),
    Command("/probs", "", "the last answer, shaded by how sure the model was of each token"),
    Command("/attention", "[K] [FILE]", "what the model looked at while it wrote turn K; to a FILE.html or FILE.png"),
    Command("/set", "[NAME=VALUE]", "the settings, or change them for the turns to come"),
    Command("/model", "[NAME]", "the model; NAME goes on with another"),
    Command("/export", "FILE", "write a program (.py), a notebook (.ipynb) or a page (.md, .html)"),
    Command("/doctor", "", "what holds on this machine: sandbox, model, folders"),
    Command("/demo", "", "play a short conversation"),
    Command("/help", "[COMMAND]", "this page, or what one command does"),
    Command("/exit", "", "leave; the session is saved (also Ctrl-D)"),
)

NAMES = frozenset(command.name for command in COMMANDS)

HELP = """\
Say in words what the next lines of the program should do. Also:
  >>> x = 1        your own code: it runs as it is   //word  words with a slash
  >>? def f(x):    first lines: the model goes on    @name   tells its value
  words, and a line >>> or >>? below them: code for these words
/retry [N] [t=0.8]  answer again; N side by side     /pick [K]  take candidate K
/fix  /edit [N]     mend an error; change turn N and run again what follows
/undo  /redo        words, code and variables together
/fork [N]           go back to after turn N          /branches [K]  go to one
/hide N  /pin N     out of the prompt; always in it  /vars   what is alive
/show [N|all]       the program; turn N in full      /probs  how sure it was
/prompt             the exact prompt, its window     /attention [K]  its looks
/set [NAME=VALUE]   the settings                     /model [NAME]  the model
/export FILE        .py .ipynb .md or .html          /doctor  this machine
/demo  /help [COMMAND]  /exit
Enter sends, Alt-Enter or Ctrl-J makes a new line, Ctrl-X Ctrl-E opens $EDITOR,
Tab completes, Ctrl-R searches, Ctrl-C clears the line, stops the model or
interrupts the code, Ctrl-D leaves. The session is saved."""
"""What `/help` prints: it fits a screen of 24 lines of 80 columns."""

DEMO = (
    'Assign the list [3, 1, 4, 1, 5, 9, 2, 6] to a variable named "nums".',
    'Sort the list and save it as "ordered".',
    "Print the sum of the list.",
)
"""What `/demo` says, one turn each."""


@dataclass(frozen=True, slots=True)
class Said:
    """Words: a turn for the model; `given` are first lines of the code, which it goes on with."""

    text: str
    given: str = ""


@dataclass(frozen=True, slots=True)
class Code:
    """The person's own code, perhaps below words: a turn that runs as it is."""

    code: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A slash command and what follows it."""

    name: str
    argument: str = ""


def read(line: str) -> Said | Code | Asked:
    """Tell words, code and commands apart.

    `>>> ` starts code and `>>? ` first lines of code, alone or below words, as in a spec; further lines may begin with the same
    or with `... ` or stand as they are. `//` starts words that begin with a slash. Raises UsageError for a command that does not
    exist or does not take what follows it, and for code without its space.
    """
    text = line.strip()
    if text.startswith("/") and not text.startswith("//"):
        return _command(text)
    rows = text.removeprefix("/" if text.startswith("//") else "").splitlines()
    start = next((place for place, row in enumerate(rows) if _CODE.match(row.strip())), None)
    if start is None:
        if text.lower() in _LEAVING:
            raise UsageError(f"`{text}` alone is not sent: /exit or Ctrl-D leaves, /help says what there is")
        return Said("\n".join(rows).strip())
    if rows[start].strip()[3:4].strip():
        raise UsageError(f"code stands after `{rows[start].strip()[:3]} `, with a space")
    words = "\n".join(rows[:start]).strip()
    margin = len(rows[start]) - len(rows[start].lstrip())
    code = "\n".join(_unprompted(row, margin) for row in rows[start:])
    return Said(words, code) if rows[start].strip().startswith(">>?") else Code(code, words)


def written(text: str, code: str) -> str:
    """Write words and code as `read` takes them."""
    first, *more = code.split("\n")
    return "\n".join([*([text] if text else []), f">>> {first}", *(f"... {row}".rstrip() for row in more)])


_CODE = re.compile(r">>[>?]")
_LEAVING = {"exit", "exit()", "quit", "quit()", "bye", "help", "help()", "?", ":q"}
"""What people type who look for the way out, or for help: no turn."""


def _command(text: str) -> Asked:
    name, _, argument = text.partition(" ")
    command = next((command for command in COMMANDS if command.name == name), None)
    if command is None:
        near = difflib.get_close_matches(name, NAMES, n=1)
        raise UsageError(f"there is no command {name}; {f'did you mean {near[0]}?' if near else '/help lists them'}")
    if argument.strip() and not command.argument:
        raise UsageError(f"{name} takes nothing after it")
    if not argument.strip() and command.argument and not command.argument.startswith("["):
        raise UsageError(f"{name} needs {command.argument} after it: it would {command.help}")
    return Asked(name, argument.strip())


def _unprompted(row: str, margin: int) -> str:
    inner = row[margin:] if not row[:margin].strip() else row.lstrip()
    for prompt in (">>>", ">>?", "..."):
        if inner == prompt or inner.startswith(f"{prompt} "):
            return inner[len(prompt) + 1 :]
    return inner


# ---------------------------------------------------------------- what follows a command


def number(argument: str, what: str, most: int = 10**6, least: int = 1) -> int:
    """Return the number that follows a command. Raises UsageError, where `what` says what was wanted."""
    if not (argument.isdecimal() and least <= int(argument) <= most):
        raise UsageError(f"{what}, not {argument!r}")
    return int(argument)


def retry(argument: str, most: int) -> tuple[int | None, float | None]:
    """Read what follows /retry: how many answers, how warm. Raises UsageError."""
    samples, temperature = None, None
    for word in argument.split():
        if word.startswith("t="):
            try:
                temperature = float(word[2:])
            except ValueError:
                temperature = -1.0
            if not 0 <= temperature <= 10:
                raise UsageError(f"/retry takes a temperature from 0 to 10, such as t=0.8, not {word!r}")
        else:
            samples = number(word, f"/retry takes how many answers to draw, from 1 to {most}, and t=TEMPERATURE", most)
    return samples, temperature


def settings(argument: str) -> dict[str, str]:
    """Read what follows /set: `name=value ...` or `name value`. Raises UsageError."""
    words = argument.split()
    if len(words) == 2 and not any("=" in word for word in words):
        return {words[0]: words[1]}
    pairs = [word.partition("=") for word in words]
    if not all(name and equals and value for name, equals, value in pairs):
        raise UsageError("/set takes NAME=VALUE, such as /set temperature=0.8; without them it lists the settings")
    return {name.replace("-", "_"): value for name, _, value in pairs}
