"""A value as a table: a DataFrame, or a list of dictionaries."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from codegen_chat.turn import Typed


@dataclass(frozen=True, slots=True)
class Table:
    """Names of C columns and R rows of C cells, each plain text; `numeric` says which columns hold numbers alone.

    `labelled`: the first column has the rows' labels (a DataFrame's index).
    """

    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    labelled: bool = False


def table(typed: Typed | None) -> Table | None:
    """Return the table that a value is; None for any other value."""
    match typed:
        case Typed("pandas.DataFrame", {"columns": list(columns), "rows": list(rows), **more}):
            match more.get("index"):
                case {"name": name, "labels": list(labels)} if len(labels) == len(rows):
                    labelled = [[label, *row] if isinstance(row, list) else row for label, row in zip(labels, rows, strict=True)]
                    return replace(_table(map(cell, [name, *columns]), labelled), labelled=True)
            return _table(map(cell, columns), rows)
        case Typed("list", list(items)) if items:
            records = [_record(item) for item in items]
            if all(records):
                names = list(dict.fromkeys(name for record in records for name in record))
                return _table(map(cell, names), [[record.get(name, "") for name in names] for record in records])
    return None


def cell(value: object) -> str:
    """Return a value as one line of text: of one that has no JSON its data."""
    if isinstance(value, dict) and value.keys() == {"kind", "data"}:
        value = value["data"]
    if isinstance(value, float):
        return f"{value:g}" if value == round(value, 6) else f"{value:.6g}"
    return " ".join(str(value).splitlines()).replace("\t", " ")


def html_table(found: Table) -> str:
    """Return a table as HTML, numbers to the right."""
    align = [' style="text-align:right"' if numeric else "" for numeric in found.numeric]

    def row(tag: str, cells: Sequence[str]) -> str:
        written = (f"<{tag}{how}>{html.escape(cell)}</{tag}>" for cell, how in zip(cells, align, strict=True))
        return f"<tr>{''.join(written)}</tr>"

    body = "\n".join(row("td", cells) for cells in found.rows)
    return f"<table>\n<thead>{row('th', found.names)}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _record(item: object) -> dict[str, object]:
    """Return a dictionary whose keys are strings; an empty one for anything else."""
    match item:
        case {"kind": "dict", "data": list(pairs)} if all(isinstance(key, str) for key, _ in pairs):
            return dict(pairs)
    return {}


def _table(columns: Iterable[str], rows: Sequence[object]) -> Table:
    names = tuple(columns)
    # Code that lies about its own value draws no crooked table.
    whole = [row for row in rows if isinstance(row, list) and len(row) == len(names)]
    return Table(
        names,
        tuple(tuple(map(cell, row)) for row in whole),
        tuple(bool(whole) and all(_is_number(row[index]) for row in whole) for index in range(len(names))),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
