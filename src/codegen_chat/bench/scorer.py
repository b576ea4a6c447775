"""The scoring rules of MTPB, as its authors' scorer has them, odd ones too. What is compared never enters the sandbox.

The answer of a program is the first argument of its last `print`. It is compared with the expected value so:

1. pandas Series and numpy arrays and scalars become Python's lists and scalars, a list of tuples becomes a list of lists;
2. where the types differ still, the answer is cast to the type of what is expected: 3.7 passes for 3, {1, 2} for [1, 2], True
   for 1, "5" for 5; where a bool is expected, both are compared as strings;
3. floats may be off by 1e-6, all else must be equal, floats inside of lists too;
4. where a dict or None is expected, nothing passes: that is the scorer's error, and `corrected` is without it.

A correct print before a later exception or timeout passes.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from codegen_chat.turn import Typed

_NEAR = 1e-6
_DICTS = {"dict", "collections.Counter", "collections.defaultdict", "collections.OrderedDict"}
_PLAIN = (type(None), bool, int, float, str)


def showing(program: str) -> str:
    """Return a program whose last line, where it is a bare expression and no call of `print`, is printed."""
    try:
        body = ast.parse(program).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return program
    last = body[-1] if body else None
    if not isinstance(last, ast.Expr) or last.end_lineno is None or last.end_col_offset is None:
        return program
    if isinstance(last.value, ast.Call) and isinstance(last.value.func, ast.Name) and last.value.func.id == "print":
        return program
    lines = [line.encode() for line in program.split("\n")]  # columns are counted in bytes

    def place(line: int, column: int) -> int:
        return sum(len(each) + 1 for each in lines[: line - 1]) + column

    data = program.encode()
    start, end = place(last.lineno, last.col_offset), place(last.end_lineno, last.end_col_offset)
    return (data[:start] + b"print((" + data[start:end] + b"))" + data[end:]).decode()


def passes(prints: Sequence[Typed], wanted: object, *, corrected: bool = False) -> bool:
    """Tell whether what a program printed last is what is expected, a value of JSON."""
    return bool(prints) and equal(python(prints[-1]), wanted, corrected=corrected)


def equal(given: Any, wanted: Any, *, corrected: bool = False) -> bool:
    """Compare an answer with what is expected; see above."""
    if wanted is None or isinstance(wanted, dict):
        return corrected and _same(given, wanted)
    if isinstance(given, list):
        given = [list(item) if isinstance(item, tuple) else item for item in given]
    if type(given) is not type(wanted):
        try:
            if isinstance(wanted, bool):
                return str(given) == str(wanted)
            given = type(wanted)(given)
        except (TypeError, ValueError, OverflowError):
            return False
    return abs(given - wanted) < _NEAR if isinstance(wanted, float) else bool(given == wanted)


def _same(given: object, wanted: object) -> bool:
    """Compare where the reference compares nothing: JSON has strings for keys, and lists for tuples."""
    if isinstance(wanted, dict):
        if not isinstance(given, dict) or len(given) != len(wanted):
            return False
        by_text = {str(key): value for key, value in given.items()}
        return all(key in by_text and _same(by_text[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(given, list | tuple) and len(given) == len(wanted) and all(map(_same, given, wanted))
    if isinstance(wanted, float) and isinstance(given, int | float):
        return abs(given - wanted) < _NEAR
    return given == wanted


class Other:
    """A value of a type that is not rebuilt here: what `print` wrote of it, which also numbers can be read from."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __float__(self) -> float:
        return float(self._text)

    def __int__(self) -> int:
        return int(float(self._text))


def python(typed: Typed) -> Any:
    """Rebuild a value that the sandbox described. Arrays and Series become lists, views of dicts and other sequences tuples."""
    return _built(typed.kind, typed.data)


def _built(kind: str, data: object) -> Any:  # noqa: PLR0911  a line a kind
    if isinstance(data, dict) and data.keys() == {"kind", "data"}:  # a numpy scalar of another kind, say
        return _inner(data)
    if isinstance(data, list):
        if kind in _DICTS:
            return {_hashable(_inner(key)): _inner(value) for key, value in data}
        items = [_inner(item) for item in data]
        if kind in {"set", "frozenset"}:
            return {_hashable(item) for item in items}
        if kind == "complex":
            return complex(*items)
        return items if kind == "list" or kind.startswith(("numpy.", "pandas.")) else tuple(items)
    if isinstance(data, str):
        if kind == "int":  # too long for JSON: in hexadecimal
            return int(data, 16)
        if kind.startswith("numpy.float") or kind == "float":
            return float(data)
        return data if kind in {"str", "numpy.str_"} else Other(data)
    return data if isinstance(data, _PLAIN) else Other(str(data))


def _inner(data: object) -> Any:
    return _built(str(data["kind"]), data["data"]) if isinstance(data, dict) else data


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else frozenset(value) if isinstance(value, set) else value
