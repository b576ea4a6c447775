"""A session as a Jupyter notebook (nbformat 4.5): a cell of words and one of code for each turn, with what was recorded.

What the notebook runs from top to bottom is what the session kept; a turn that failed stands in it as text. The JSON is written
here, so that nobody needs Jupyter to export.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from codegen_chat.session.export import clean, live, reason, setup_lines
from codegen_chat.session.markdown import escaped, fenced, title
from codegen_chat.session.picture import Picture
from codegen_chat.session.table import html_table, table
from codegen_chat.turn import Execution, Turn

Cell = dict[str, Any]


def render_ipynb(turns: Sequence[Turn], facts: Sequence[str], pictures: Mapping[str, Sequence[Picture]]) -> str:
    """Write turns as a notebook. `pictures` has, by a turn's id, those that it drew."""
    cells = [_words("title", f"# {title(turns)}\n\n{' · '.join(map(escaped, facts))}")]
    count = 0
    setup = setup_lines(turns)
    if setup:
        count += 1
        cells.append(_code("setup", "\n".join(setup), count, []))
    for number, turn in enumerate(turns, 1):
        words = "\n".join(map(escaped, clean(turn.text)))
        if live(turn) is None:
            cells.append(
                _words(f"turn-{number}", f"{words}\n\n*{escaped(reason(turn))}*\n\n{fenced(turn.code, 'python')}".strip())
            )
            continue
        if words:
            cells.append(_words(f"words-{number}", words))
        count += 1
        outputs = _outputs(turn.execution, count) if turn.execution else []
        outputs += [_drawn(picture) for picture in pictures.get(turn.id, ())]
        cells.append(_code(f"turn-{number}", turn.code.strip("\n"), count, outputs))
    notebook = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1) + "\n"


def _words(identity: str, text: str) -> Cell:
    return {"cell_type": "markdown", "id": identity, "metadata": {}, "source": _lines(text)}


def _code(identity: str, code: str, count: int, outputs: list[Cell]) -> Cell:
    return {
        "cell_type": "code",
        "execution_count": count,
        "id": identity,
        "metadata": {},
        "outputs": outputs,
        "source": _lines(code),
    }


def _outputs(execution: Execution, count: int) -> list[Cell]:
    streams = (("stdout", execution.stdout), ("stderr", execution.stderr))
    shown: list[Cell] = [{"output_type": "stream", "name": name, "text": _lines(text)} for name, text in streams if text]
    if execution.value is not None:
        data: dict[str, Any] = {"text/plain": _lines(execution.value)}
        found = table(execution.typed_value)
        if found is not None:
            data["text/html"] = _lines(html_table(found))
        shown.append({"output_type": "execute_result", "execution_count": count, "data": data, "metadata": {}})
    return shown


def _drawn(picture: Picture) -> Cell:
    data = {picture.kind: base64.b64encode(picture.data).decode(), "text/plain": [picture.name]}
    return {"output_type": "display_data", "data": data, "metadata": {}}


def _lines(text: str) -> list[str]:
    """Return a text as notebooks keep it: its lines, with their ends. Lone surrogates, which no file can hold, become "?"."""
    return text.encode("utf-8", "replace").decode().splitlines(keepends=True)
