"""A Python file in which a comment that ends in `?!` asks: the turns that stand above it, and the file with the answer.

    nums = [3, 1, 2]

    # Sort nums and print them. ?!

A question stands on lines of its own at the margin; comment lines right above it belong to it. What stands above is code of the
person's own: each paragraph is a turn, its first comments are the turn's words. Lines that start with `#>` are results that were
written here before, and no part of a turn. Pure functions on text; lines that are not asked about stay as they are, to the byte.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from dataclasses import dataclass

from codegen_chat.session.export import clean, reason
from codegen_chat.turn import Turn

ASKS = "?!"
RESULT = "#> "
MOST_LINES, LONGEST = 20, 200
"""Lines of a result that are written, and characters of one."""

_CELL = re.compile(r"^%%\s*(\[\d+\])?\s*")


@dataclass(frozen=True, slots=True)
class Question:
    """Words, and the lines (from 0) that they stand on."""

    words: str
    first: int
    last: int


def question(text: str) -> Question | None:
    """Return the first question of a file; of one that is no Python, the first above the place where it is none."""
    lines = text.split("\n")
    alone = _comments(text)
    for last in sorted(alone):
        if not lines[last].rstrip().endswith(ASKS) or _goes_on(lines[last + 1 :]):
            continue
        first = last
        while first - 1 in alone and not lines[first - 1].startswith((RESULT, "#!", "# %%")):
            first -= 1
        words = "\n".join(_words(line) for line in lines[first : last + 1]).removesuffix(ASKS).strip()
        if words:
            return Question(words, first, last)
    return None


def turns(text: str, end: int) -> list[tuple[str, str]]:
    """Return words and code of each paragraph above a line. Raises SyntaxError where that is no Python."""
    lines = [line.rstrip("\r") for line in text.removeprefix("\ufeff").split("\n")[:end]]
    with warnings.catch_warnings(action="ignore"):
        tree = ast.parse("\n".join(lines))
    inside: set[int] = set()
    for node in tree.body:
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
        inside.update(range(first - 1, node.end_lineno or node.lineno))
    paragraphs: list[tuple[list[str], list[str]]] = [([], [])]
    for number, line in enumerate(lines):
        words, code = paragraphs[-1]
        if number in inside:
            code.append(line)
        elif not line.strip():
            paragraphs.append(([], []))
        elif not line.startswith((RESULT.rstrip(), "#!")):
            (code or words).append(line if code else _words(line))
    return [("\n".join(words).strip(), "\n".join(code)) for words, code in paragraphs if code]


def answered(text: str, asked: str, turn: Turn) -> str | None:
    """Return the file with a turn below the question that it answers; None where nobody asks it (any more)."""
    found = question(text)
    if found is None or found.words != asked:
        return None
    lines = text.split("\n")
    ending = "\r" if lines[found.last].endswith("\r") else ""
    kept = lines[found.last].rstrip().removesuffix(ASKS).rstrip()
    below = lines[found.last + 1 :]
    written = [line + ending for line in ([kept] if kept.strip("#") else []) + _answer(turn)]
    if below and below[0].strip():
        written.append(ending)
    elif not below:
        written.append("")
    return "\n".join([*lines[: found.last], *written, *below])


def _answer(turn: Turn) -> list[str]:
    """Return the lines that go below a question: code and what came of it, or, where it failed, both as comments."""
    code = turn.code.strip("\n").split("\n") if turn.code.strip() else []
    if not turn.accepted:
        why = reason(turn) if code else "the model wrote no code: say it in other words"
        return [*(f"# {line}".rstrip() for line in code), RESULT + why, f"{RESULT}end the comment in {ASKS} to ask again"]
    if turn.execution is None:
        return code
    execution = turn.execution
    shown = [*clean(execution.stdout), *clean(execution.stderr), *clean(execution.value or "")]
    more = len(shown) - MOST_LINES
    shown = [line if len(line) <= LONGEST else f"{line[:LONGEST]}…" for line in shown[:MOST_LINES]]
    if more > 0:
        shown.append(f"… and {more} more lines")
    if execution.files:
        shown.append(f"wrote {', '.join(execution.files)}, in the sandbox")
    return code + [(RESULT + line).rstrip() for line in shown]


def _comments(text: str) -> set[int]:
    """Return the lines that hold a comment at the margin and nothing else, as far as the text can be read."""
    found: set[int] = set()
    try:
        for token in tokenize.generate_tokens(io.StringIO(text.removeprefix("\ufeff")).readline):
            if token.type == tokenize.COMMENT and token.start[1] == 0:
                found.add(token.start[0] - 1)
    except (SyntaxError, tokenize.TokenError):
        """What stands above is read."""
    return found


def _goes_on(below: list[str]) -> bool:
    """Whether a block goes on below: code at the margin would break it."""
    following = next((line for line in below if line.strip() and not line.startswith("#")), "")
    return following[:1] in {" ", "\t"}


def _words(line: str) -> str:
    """Return what a comment line says."""
    return _CELL.sub("", line.strip().removeprefix("#").strip())
