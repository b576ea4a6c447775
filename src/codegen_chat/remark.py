"""What stands in the prompt above a turn's words: a variable's value that they ask for, an error that they are to mend.

One comment line each, short: the model has a window.
"""

from __future__ import annotations

from codegen_chat.turn import Execution, Turn

_LONG = 120
"""Characters of a value or a message that the model is told."""


def value(name: str, summary: str, shown: Execution) -> str:
    """Say what a name stands for: its summary (type, shape), and its first values where the summary does not have them."""
    typed = shown.typed_value
    if typed and typed.kind == "pandas.DataFrame" and isinstance(typed.data, dict):
        columns = ", ".join(map(str, typed.data["columns"]))
        rows = typed.data["rows"]
        first = f"; first row {_short(', '.join(map(repr, rows[0])))}" if rows else ""
        return f"{name}: {summary}, columns {_short(columns)}{first}"
    text = " ".join((shown.value or "").split())
    if not text or text.startswith("<") or text in summary:
        return f"{name}: {summary}"
    return f"{name}: {summary} = {_short(text)}"


def error(turn: Turn) -> tuple[str, ...]:
    """Say how a turn failed; where the person wrote it, its code comes first, since no words tell what it was to do."""
    execution = turn.execution
    failure = execution and execution.failure
    what = f"{failure.type}: {failure.message}" if failure else execution.status if execution else "nothing"
    lines = turn.code.splitlines()
    at = f", at: {lines[failure.line - 1].strip()}" if failure and 0 < failure.line <= len(lines) else ""
    own = () if turn.text else tuple(lines)
    return (*own, f"It failed with {_short(' '.join(what.split()))}{at}")


def _short(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."
