"""How far long work is: a bar that is drawn in place on a terminal, and nothing where nobody looks; and tables of words."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Meter:
    """A bar with its rate, the time that remains, and a few words. A context manager; the bar goes when it ends."""

    def __init__(self, stream: TextIO, total: int, done: int = 0, *, plain: bool = False) -> None:
        self._progress = Progress(
            BarColumn(30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("elapsed,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(file=stream, highlight=False, markup=False, emoji=False),
            transient=True,
            disable=plain or not stream.isatty(),
        )
        self._task = self._progress.add_task("", total=total, completed=done, words="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def advance(self, by: int, words: str) -> None:
        """Show that so much more is done."""
        task = self._progress.tasks[self._task]
        rate = f"{task.speed:.1f}/s, " if task.speed else ""
        self._progress.update(self._task, advance=by, words=rate + words)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
