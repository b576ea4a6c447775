"""A session as a Python file of `# %%` cells, and whether a re-run of that file gave what the session recorded.

The file prints what the session printed and showed: where a turn ended with a bare expression that had a value, the expression
stands in a print. Pure functions; who calls them runs the file in a fresh sandbox and asks `mismatch` before it says "verified".
"""

from __future__ import annotations

import ast
import re
import unicodedata
import warnings
from collections.abc import Sequence

from codegen_chat.turn import Execution, Turn

SETUP = "import numpy as np"
"""What a session's namespace has from the start (the prompt's header)."""

_SHOWN_BY_STR = {"int", "float", "bool", "complex", "list", "tuple", "dict", "set", "frozenset", "range", "bytes"}
"""Types whose str is their repr, so that `print(x)` prints what the session showed."""

_BIDI = {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}
_CELL = re.compile(r"^\s*(?=%%|<codecell>|In\[)")  # what editors look for after a `#`
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")


def render_py(turns: Sequence[Turn], title_facts: Sequence[str], *, verified: bool) -> str:
    """Write turns as a Python file.

    `title_facts` fill its first line ("codegen-chat session 7f3a", "MODEL@REV", "seed 7"). Turns that were not accepted, failed
    or are no Python are commented out (`History.transcript` gives the ones to tell of).
    """
    facts = [*title_facts, "verified"] if verified else title_facts
    title = " ".join(clean(" · ".join(facts))).replace("\\", "/").replace('"', "'")
    cells, futures = [], []
    for number, turn in enumerate(turns, 1):
        tree = live(turn)
        heading, *more = clean(turn.text) or [""]
        lines = [f"# %% [{number}] {heading}".rstrip(), *(_remark(line) for line in more)]
        if tree is None:
            lines += map(_remark, clean(f"({reason(turn)})\n{turn.code}"))
        else:
            futures += [ast.unparse(node) for node in tree.body if _is_future(node)]
            lines.append(_cell(turn, tree))
        cells.append("\n".join(lines).rstrip() + "\n")
    setup = [*dict.fromkeys(futures), *setup_lines(turns)]
    setup_cell = "\n".join(["# %% Setup", *(setup or ["# No turn uses numpy: nothing to import."])]) + "\n"
    return "\n".join([f'"""{title}"""\n', setup_cell, *cells])


def setup_lines(turns: Sequence[Turn]) -> list[str]:
    """Return what a program of these turns starts with: numpy, where it is used."""
    return [SETUP] if any(re.search(r"\bnp\b", turn.code) for turn in turns if live(turn) is not None) else []


def mismatch(turns: Sequence[Turn], rerun: Execution) -> str | None:
    """Compare what the turns recorded with a run of their exported file. Returns the first difference, in a line; None if none.

    Addresses in reprs (`<function f at 0x7f...>`) differ from run to run and do not count.
    """
    if rerun.status != "ok":
        failure = f": {rerun.failure.type}: {rerun.failure.message}" if rerun.failure else ""
        return f"the re-run ended with {rerun.status}{failure}"
    rest = _ADDRESS.sub("at 0x", rerun.stdout)
    for number, turn in enumerate(turns, 1):
        if live(turn) is None:
            continue
        execution = turn.execution
        if execution is None:
            return f"turn {number} was never executed: there is nothing to compare with"
        if execution.truncated or rerun.truncated:
            return f"turn {number} printed more than was kept: it cannot be compared"
        shown = "" if execution.value is None else f"{execution.value}\n"
        expected = _ADDRESS.sub("at 0x", execution.stdout + shown)
        if not rest.startswith(expected):
            return f"turn {number} gave {_short(expected)}, the re-run {_short(rest)}"
        rest = rest[len(expected) :]
    return f"the re-run printed {_short(rest)} beyond what was recorded" if rest else None


def live(turn: Turn) -> ast.Module | None:
    """Parse a turn's code if a program is to run it: it was accepted, did not fail, and is Python."""
    if not turn.accepted or (turn.execution is not None and turn.execution.status != "ok"):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(_code(turn))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _cell(turn: Turn, tree: ast.Module) -> str:
    """Return a turn's code, its last bare expression in a print, `from __future__` gone up to Setup."""
    source = _code(turn).encode()
    starts = [0, *(match.end() for match in re.finditer(rb"\n", source))]
    for node in reversed(tree.body):  # from the end on, so that offsets further up stay right
        opening = closing = None
        if node is tree.body[-1] and isinstance(node, ast.Expr) and _shows(turn, node):
            opening, closing = (b"print(", b")") if _shown_by_str(turn) else (b"print(repr(", b"))")
            if isinstance(node.value, ast.Tuple):  # its items would be arguments
                opening, closing = opening + b"(", b")" + closing
        elif not _is_future(node):
            continue
        # Offsets of ast count bytes of UTF-8.
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        kept = b"pass" if opening is None or closing is None else opening + source[start:end] + closing
        source = source[:start] + kept + source[end:]
    return source.decode()


def _code(turn: Turn) -> str:
    """Return a turn's code with the line ends that Python's parser sees."""
    return re.sub(r"\r\n?", "\n", turn.code).strip("\n")


def _shows(turn: Turn, node: ast.Expr) -> bool:
    """Whether the session showed the expression's value. Of code that never ran one cannot know what its calls return."""
    if turn.execution is None:
        return not isinstance(node.value, ast.Call)
    return turn.execution.value is not None


def _shown_by_str(turn: Turn) -> bool:
    typed = turn.execution and turn.execution.typed_value
    return bool(typed and typed.kind in _SHOWN_BY_STR)


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def reason(turn: Turn) -> str:
    """Say why a program is not to run a turn."""
    execution = turn.execution
    if execution is None or execution.status == "ok":
        return "no Python" if turn.accepted else "not accepted"
    if execution.failure is None:
        return f"failed: {execution.status}"
    return f"failed: {execution.failure.type}: {' '.join(execution.failure.message.split())}"


def clean(text: str) -> list[str]:
    """Return a text's lines, with escapes for what would end a comment, hide in it or not be encoded."""
    return [
        "".join(
            c.encode("unicode_escape").decode() if c in _BIDI or (c != "\t" and unicodedata.category(c) in {"Cc", "Cs"}) else c
            for c in line
        )
        for line in text.splitlines()
    ]


def _remark(line: str) -> str:
    """Return a line as a comment that no editor takes for the head of a cell."""
    return ("# " + _CELL.sub(r"\\", line)).rstrip()


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
