"""What is more than a line of text: candidates side by side, the window, branches as a tree, tokens by probability, tables.

Each view is made of whole lines, printed once, so that a screen reader and a log can follow; none is wider than it is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from rich.cells import cell_len, set_cell_size
from rich.syntax import Syntax
from rich.text import Text

from codegen_chat.prompt import Fate, Window
from codegen_chat.session import table as tables
from codegen_chat.terminal.printing import visible
from codegen_chat.turn import Execution, Turn, Typed

NARROWEST = 34
"""Columns that a candidate needs to stand beside another."""

CODE_LINES = 12
"""Lines of a candidate's code that are shown beside others."""

TABLE_ROWS = 20
"""Rows of a table that are shown."""


def shorten(text: str, width: int) -> str:
    """Cut a text to so many columns of the screen; wide letters take two."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(width - 1, 0)).rstrip() + "…"


def broken(line: Text, width: int) -> list[Text]:
    """Break a line between words where it is wider; what follows stands two columns in. A longer word (a path) stays whole."""
    starts, column = [], 0
    for word in re.finditer(r"\s*\S+\s*", line.plain):
        if column and column + cell_len(word[0].rstrip()) > width:
            starts.append(word.start())
            column = 2
        column += cell_len(word[0])
    first, *more = line.divide(starts)
    parts = [first, *(Text("  ").append_text(part) for part in more)]
    for part in parts if more else ():
        part.rstrip()
    return parts


def title(turn: Turn, width: int = 60) -> str:
    """Return the first line of a turn's words, or of its code where it has none."""
    return shorten(visible((turn.text or turn.code).strip().partition("\n")[0]), width)


def took(execution: Execution) -> str:
    """Say how an execution ended, and how long it took."""
    seconds = execution.duration
    return f"{execution.status}, " + (f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s")


def said(execution: Execution) -> str:
    """Say in a line what an execution wrote or gave, or why it failed."""
    if execution.failure and execution.status not in {"timeout", "interrupted"}:  # which end it by a KeyboardInterrupt
        return visible(f"{execution.failure.type}: {execution.failure.message}".partition("\n")[0].rstrip(": "))
    lines = execution.stdout.strip().splitlines()
    text = lines[-1] if lines else execution.value if execution.status == "ok" else execution.status
    changes = [f"{change.kind} {change.name}" + (f": {change.summary}" if change.summary else "") for change in execution.changes]
    return visible(", ".join([*([text] if text else []), *changes[:3]]).replace("\n", " "))


# ---------------------------------------------------------------- candidates


def side_by_side(candidates: Sequence[Turn], kept: str | None, width: int, theme: str) -> Iterator[Text]:
    """Draw candidates with what came of them, as many beside one another as fit; those alike share a place."""
    alike: dict[tuple[str, str], list[int]] = {}
    for number, turn in enumerate(candidates, 1):
        result = said(turn.execution) if turn.execution else ""
        alike.setdefault((turn.code, result), []).append(number)
    across = max(1, min(len(alike), (width + 2) // (NARROWEST + 2)))
    column = (width - 2 * (across - 1)) // across
    places = list(alike.values())
    for start in range(0, len(places), across):
        cells = [_cell(candidates, numbers, kept, column, theme) for numbers in places[start : start + across]]
        for index in range(max(map(len, cells))):
            line = Text()
            for cell in cells:
                part = cell[index].copy() if index < len(cell) else Text()
                part.truncate(column, overflow="ellipsis", pad=True)
                line += part + Text("  ")
            line.rstrip()
            yield line


def _cell(candidates: Sequence[Turn], numbers: list[int], kept: str | None, width: int, theme: str) -> list[Text]:
    turn = candidates[numbers[0] - 1]
    is_kept = any(candidates[number - 1].id == kept for number in numbers)
    head = "candidate " if len(numbers) == 1 else "candidates "
    execution = turn.execution
    state = "not run" if execution is None else took(execution)
    style = "red" if execution and execution.status != "ok" else "green" if is_kept else "bold"
    lines = [Text(f"{head}{', '.join(map(str, numbers))}: {state}" + (", kept" if is_kept else ""), style)]
    code = Syntax("", "python", theme=theme, background_color="default").highlight(visible(turn.code).expandtabs(4)).split("\n")
    lines += code[:CODE_LINES]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    if len(code) > CODE_LINES + 1:
        lines.append(Text(f"… {len(code) - CODE_LINES} more lines", "dim"))
    result = said(execution) if execution else ""
    if result:
        style = "red" if execution and execution.failure else ""
        lines += broken(Text(f"-> {shorten(result, 2 * width - 8)}", style), width)
    return [*lines, Text()]


# ---------------------------------------------------------------- the window


_SIGNS: Mapping[Fate, tuple[str, str]] = {"seen": ("#", ""), "next": ("x", "yellow"), "pinned": ("P", "green")}


def window(drawn: Window, width: int) -> Iterator[Text]:
    """Draw how the window is filled, then a line for each turn, then what goes next."""
    columns = max(20, min(width - 4, 100))
    parts = [("h", "dim", drawn.header)]
    parts += [(*_SIGNS[fate], tokens) for _, tokens, fate in drawn.turns if fate in _SIGNS]
    free = max(drawn.size - drawn.answer - drawn.used, 0)
    parts += [(".", "dim", free), ("a", "cyan", drawn.answer)]
    bar, filled, done = Text("["), 0, 0
    for sign, style, tokens in parts:
        done += tokens
        end = min(round(done * columns / max(drawn.size, 1)), columns)
        bar.append(sign * (end - filled), style)
        filled = end
    yield bar + Text("]")
    yield Text(f"{drawn.used} of {drawn.size} tokens used, {drawn.answer} kept for an answer (a), {free} free", "dim")
    yield Text("# seen  x goes first when it is full  P pinned  h header", "dim")
    for number, (turn, tokens, fate) in enumerate(drawn.turns, 1):
        yield Text(f"{number:>4}  {fate:<7} {tokens:>5}  ").append(title(turn, max(width - 24, 10)))
    going = [number for number, (_, _, fate) in enumerate(drawn.turns, 1) if fate == "next"]
    if going:
        last = going.index(going[-1])
        run = going[last] - going[0] == last  # no pinned one between
        which = f"{going[0]} to {going[-1]}" if run and last else ", ".join(map(str, going))
        yield Text(f"When it is full, turn{'s' if last else ''} {which} will go first; /pin N keeps one.", "dim")


# ---------------------------------------------------------------- branches


def tree(branches: Sequence[Sequence[Turn]], head: str | None, width: int) -> Iterator[Text]:
    """Draw the branches of a conversation as a tree; the ends are numbered as `/branches N` takes them."""
    ends = {branch[-1].id: number for number, branch in enumerate(branches, 1)}
    children: dict[str | None, list[Turn]] = {}
    for branch in branches:
        for turn, parent in zip(branch, [None, *(turn.id for turn in branch)], strict=False):
            if turn not in children.setdefault(parent, []):
                children[parent].append(turn)

    def below(parent: str | None, depth: int, prefix: str) -> Iterator[Text]:
        while len(found := children.get(parent, [])) == 1:
            yield line(found[0], depth, prefix)
            parent, depth = found[0].id, depth + 1
        for turn in found:
            last = turn is found[-1]
            yield line(turn, depth, prefix + ("└─ " if last else "├─ "))
            yield from below(turn.id, depth + 1, prefix + ("   " if last else "│  "))

    def line(turn: Turn, depth: int, prefix: str) -> Text:
        end = f"  · branch {ends[turn.id]}" if turn.id in ends else ""
        here = "  <- you are here" if turn.id == head else ""
        room = max(width - cell_len(prefix) - len(end) - len(here) - 6, 10)
        return Text(f"{prefix}[{depth}] {title(turn, room)}").append(end, "dim").append(here, "green")

    if head is None:
        yield Text("the beginning  <- you are here", "green")
    yield from below(None, 1, "")


# ---------------------------------------------------------------- tokens


def probabilities(pieces: Sequence[tuple[str, float]], *, plain: bool) -> Iterator[Text]:
    """Shade tokens by how sure the model was of each; plain: a line for each. The least sure ones are named at the end."""
    if plain:
        for piece, probability in pieces:
            yield Text(f"{probability:5.0%}  {piece!r}")
    else:
        text = Text()
        for piece, probability in pieces:
            text.append(visible(piece), _shade(probability))
        text.rstrip()
        yield from text.split("\n")
        yield (
            Text("sure ", "dim")
            .append(" 90 % ", _shade(1))
            .append(" 50 % ", _shade(0.6))
            .append(" 20 % ", _shade(0.3))
            .append(" less ", _shade(0))
        )
    least = sorted(pieces, key=lambda pair: pair[1])[:3]
    yield Text("least sure: " + ", ".join(f"{piece!r} {probability:.0%}" for piece, probability in least), "dim")


def _shade(probability: float) -> str:
    """Return a style, readable on light and on dark: the less sure, the more it stands out."""
    for least, style in ((0.9, ""), (0.5, "cyan"), (0.2, "bold magenta")):
        if probability >= least:
            return style
    return "bold reverse red"


# ---------------------------------------------------------------- tables


def table(typed: Typed | None, width: int) -> list[str] | None:
    """Draw a DataFrame or a list of dictionaries as a table; None for any other value."""
    found = tables.table(typed)
    if found is None:
        return None
    names = [visible(name) for name in found.names]
    shown = [[visible(cell) for cell in row] for row in found.rows[:TABLE_ROWS]]
    columns = [[name, *(row[index] for row in shown)] for index, name in enumerate(names)]
    widths = [min(max(map(cell_len, column), default=0), 40) for column in columns]
    fit = len(widths)
    while fit > 1 and sum(widths[:fit]) + 2 * (fit - 1) + (3 if fit < len(widths) else 0) > width:
        fit -= 1
    lines = []
    for cells in [names, ["-" * size for size in widths], *shown]:
        parts = []
        for index, cell in enumerate(cells[:fit]):
            cut = shorten(cell, min(widths[index], width))
            room = " " * (min(widths[index], width) - cell_len(cut))
            parts.append(room + cut if found.numeric[index] else cut + room)
        lines.append("  ".join(parts + (["…"] if fit < len(names) else [])).rstrip())
    more = f", {TABLE_ROWS} shown" if len(found.rows) > TABLE_ROWS else ""
    columns_shown = f", {fit - found.labelled} shown" if fit < len(names) else ""
    return [*lines, f"({len(found.rows)} rows{more}, {len(names) - found.labelled} columns{columns_shown})"]
