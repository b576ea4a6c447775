"""A session as a Markdown page: words as headings, code and results below."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from codegen_chat.session.export import clean, live, reason
from codegen_chat.session.table import Table, table
from codegen_chat.turn import Execution, Turn

_MARKUP = re.compile(r"([\\`*_\[\]<>#|~$&])")
_LINE_START = re.compile(r"^(\s*)([-+=]|\d+(?=[.)]))")


def render_md(turns: Sequence[Turn], facts: Sequence[str], pictures: Mapping[str, Sequence[str]]) -> str:
    """Write turns as Markdown. `pictures` has, by a turn's id, the paths of those that it drew, relative to the page."""
    parts = [f"# {title(turns)}", " · ".join(map(escaped, facts))]
    for number, turn in enumerate(turns, 1):
        heading, *more = clean(turn.text) or ["Own code"]
        parts.append(f"## {number}. {escaped(heading)}")
        parts += ["\n".join(map(escaped, more))] * bool(more)
        if live(turn) is None:
            parts.append(f"*{escaped(reason(turn))}*")
        parts.append(fenced(turn.code, "python"))
        if turn.execution:
            parts += _results(turn.execution)
        parts += [f"![{escaped(path.rpartition('/')[2])}](<{path}>)" for path in pictures.get(turn.id, ())]
    return "\n\n".join(parts) + "\n"


def title(turns: Sequence[Turn]) -> str:
    """Return what to call a session: its first words."""
    return next((escaped(line) for turn in turns for line in clean(turn.text) if line.strip()), "A session")


def escaped(line: str) -> str:
    """Return a line of plain text as Markdown that shows it as it is."""
    return _LINE_START.sub(
        lambda found: f"{found[1]}{found[2]}\\" if found[2].isdigit() else f"{found[1]}\\{found[2]}", _inline(line)
    )


def _inline(text: str) -> str:
    return _MARKUP.sub(r"\\\1", text.strip())


def fenced(text: str, language: str = "text") -> str:
    """Return a text in a fence that none of its lines ends."""
    text = "\n".join(clean(text)).rstrip()
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _results(execution: Execution) -> list[str]:
    shown = [fenced(text) for text in (execution.stdout, execution.stderr) if text.strip()]
    found = table(execution.typed_value)
    if found is not None:
        shown.append(_table(found))
    elif execution.value is not None:
        shown.append(fenced(execution.value))
    if execution.failure:
        shown.append(fenced(execution.failure.traceback or f"{execution.failure.type}: {execution.failure.message}"))
    return shown


def _table(found: Table) -> str:
    rows = [map(_inline, found.names), ("--:" if numeric else "---" for numeric in found.numeric)]
    rows += [map(_inline, row) for row in found.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
