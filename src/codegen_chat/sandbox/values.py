"""Live objects as plain data, behind the wall: typed values, one-line summaries, fingerprints that show what a turn changed.

Typed data is JSON. Inside it a scalar that JSON has (a finite float, an int, a str, a bool, None) stands for itself;
everything else is `{"kind": ..., "data": ...}`. Sequences and sets are lists, mappings lists of pairs, arrays nested lists,
`nan` and the infinities strings. What is too large or has no such form is its repr, a string. numpy and pandas are
recognised, never imported.
"""

from __future__ import annotations

import math
import sys
import types
import zlib
from collections import deque
from collections.abc import ItemsView, Iterable, KeysView, ValuesView
from itertools import islice

TYPE_CHECKING = False  # from typing it would cost every start of a sandbox the import
if TYPE_CHECKING:
    from typing import Any

_NODES = 10_000
_DEPTH = 16
_REPR = 8192
_SHORT = 60
_FINGERPRINT_NODES = 5000
_FINGERPRINT_DEPTH = 6
_FINGERPRINT_BYTES = 1 << 20
_LONG_INT = 12_000  # bits: well under what int() and JSON readers take in decimal

# Any: these functions take whatever a person's code has made.
Kinded = tuple[str, object]


class _TooLargeError(Exception):
    """More nodes or characters than a typed value may have."""


def typed(value: Any) -> Kinded:
    """Return the kind of a value and its data."""
    try:
        return _typed(value, _Budget(_NODES), 0)
    except Exception:  # noqa: BLE001  too large, or it lies about its class: so do dead proxies
        return _kind(value), shown(value)


def printed(value: Any = None) -> Kinded:
    """Return the same of what `print` is given first: where there is no JSON for it, its str, which is what it writes."""
    kind, data = typed(value)
    as_it_is = type(value) in {list, tuple} or isinstance(value, (str, int, float))
    return kind, _long(str(value)) if isinstance(data, str) and not as_it_is else data


def shown(value: Any) -> str:
    """Return a repr, cut where it is too long for a screen. No item takes less than a character of it."""
    return _long(repr(value[:_REPR] if type(value) in {list, tuple} else value))


def _long(text: str) -> str:
    return text if len(text) <= _REPR else text[:_REPR] + "…"


def summary(value: Any) -> str:
    """Say in a few words what a name stands for."""
    try:
        return _summary(value)[:120]
    except BaseException:  # noqa: BLE001  the person's own __len__ or __repr__ may raise anything
        return type(value).__name__


def fingerprint(value: Any) -> object:
    """Return something comparable that differs when the value was rebound or, as far as is cheap to see, changed in place."""
    try:
        return _fingerprint(value, _Budget(_FINGERPRINT_NODES), 0)
    except BaseException:  # noqa: BLE001  the same
        return id(value)


class _Budget:
    """Counts down nodes and characters."""

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, count: int = 1) -> None:
        self.left -= count
        if self.left < 0:
            raise _TooLargeError


def _kind(value: Any) -> str:
    cls = type(value)
    if cls.__module__ == "builtins":
        return str(cls.__qualname__)
    root = cls.__module__.partition(".")[0]
    # pandas.core.series.Series is known to people as pandas.Series.
    return f"{root if root in {'numpy', 'pandas'} else cls.__module__}.{cls.__qualname__}"


def _is(value: object, library: str, *names: str) -> bool:
    """Whether a value is of a library's class. Where nobody has imported the library, it is not."""
    classes = [getattr(sys.modules.get(library), name, None) for name in names]
    return any(isinstance(cls, type) and isinstance(value, cls) for cls in classes)


def _typed(value: Any, budget: _Budget, depth: int) -> Kinded:  # noqa: PLR0911
    budget.spend()
    if depth > _DEPTH:
        raise _TooLargeError
    kind = _kind(value)
    if value is None or isinstance(value, bool):
        return kind, value
    if _is(value, "numpy", "generic"):
        return kind, _inner(value.item(), budget, depth) if not isinstance(value.item(), type(value)) else repr(value)
    if _is(value, "numpy", "ndarray"):
        budget.spend(value.size)
        return kind, _inner_list(value.tolist(), budget, depth) if value.ndim else _inner(value.item(), budget, depth)
    if _is(value, "pandas", "Series", "Index"):
        return kind, _inner_list(value.tolist(), budget, depth)
    if _is(value, "pandas", "DataFrame"):
        columns = _inner_list(value.columns.tolist(), budget, depth)
        budget.spend(value.size)
        data = {"columns": columns, "rows": [_inner_list(row, budget, depth) for row in value.to_numpy().tolist()]}
        index = value.index
        if len(index) and (index.inferred_type != "integer" or index.name is not None):  # it says more than a row's number
            data["index"] = {"name": str(index.name or ""), "labels": _inner_list(index.tolist(), budget, depth)}
        return kind, data
    if isinstance(value, int):
        return kind, int(value) if value.bit_length() <= _LONG_INT else hex(value)[:_REPR]
    if isinstance(value, float):
        return kind, float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, str):
        budget.spend(len(value) // 8)
        return kind, str.__str__(value)
    if isinstance(value, complex):
        return kind, [_inner(value.real, budget, depth), _inner(value.imag, budget, depth)]
    if isinstance(value, (list, tuple, range, deque, KeysView, ValuesView, ItemsView)):
        return kind, _inner_list(value, budget, depth)
    if isinstance(value, (set, frozenset)):
        budget.spend(len(value))  # before they are sorted
        return kind, _inner_list(sorted(value, key=repr), budget, depth)
    if isinstance(value, dict):
        return kind, [[_inner(key, budget, depth), _inner(item, budget, depth)] for key, item in value.items()]
    text = shown(value)
    budget.spend(len(text) // 8)
    return kind, text


def _inner_list(values: Iterable[object], budget: _Budget, depth: int) -> list[object]:
    return [_inner(item, budget, depth) for item in values]


def _inner(value: Any, budget: _Budget, depth: int) -> object:
    """The same below the top: a plain scalar stands for itself."""
    kind, data = _typed(value, budget, depth + 1)
    plain = type(value) in {type(None), bool, int, float, str} and type(data) is type(value)
    return data if plain else {"kind": kind, "data": data}


def _summary(value: Any) -> str:  # noqa: PLR0911
    name = type(value).__name__
    if value is None:
        return "None"
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType)):
        return f"function {value.__name__}{_signature(value)}"
    if isinstance(value, type):
        return f"class {value.__name__}"
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if _is(value, "numpy", "generic"):
        return f"{name} {_cut(str(value))}"
    if isinstance(value, (str, bytes, bool, float, complex)):
        return f"{name} {_cut(repr(value[:_SHORT] if isinstance(value, (str, bytes)) else value))}"
    if isinstance(value, int):
        return f"{name} {_cut(repr(value))}" if value.bit_length() < 1000 else f"{name} of {value.bit_length()} bits"
    if _is(value, "numpy", "ndarray"):
        return f"ndarray {'x'.join(map(str, value.shape)) or 'scalar'} {value.dtype}"
    if _is(value, "pandas", "DataFrame"):
        return f"DataFrame {value.shape[0]}x{value.shape[1]}"
    if _is(value, "pandas", "Series"):
        return f"Series[{len(value)}] {value.dtype}"
    if hasattr(type(value), "__len__"):
        return f"{name}[{len(value)}]"
    if isinstance(value, types.GeneratorType):
        return f"generator {value.__name__}"
    return name


def _signature(function: object) -> str:
    import inspect  # here and no sooner: it costs 5 ms, and not every turn has a function

    try:
        return str(inspect.signature(function))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "(...)"


def _cut(text: str) -> str:
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


def _fingerprint(value: Any, budget: _Budget, depth: int) -> object:  # noqa: PLR0911
    kind = type(value)
    budget.left -= 1
    if kind in {int, float, complex, bool, type(None), str, bytes}:
        return (kind, value)
    address = id(value)
    if budget.left < 0 or depth > _FINGERPRINT_DEPTH:
        return address
    if kind in {list, tuple, set, frozenset}:
        return address, len(value), _fingerprints(value, budget, depth)
    if kind is dict:
        return address, len(value), _fingerprints(value, budget, depth), _fingerprints(value.values(), budget, depth)
    if _is(value, "numpy", "ndarray"):
        return address, value.shape, str(value.dtype), _checksum(value)
    if _is(value, "pandas", "DataFrame"):
        return (
            address,
            value.shape,
            tuple(map(str, value.columns)),
            tuple(_checksum(value[name].to_numpy()) for name in value.columns),
        )
    if _is(value, "pandas", "Series"):
        return address, value.shape, _checksum(value.to_numpy())
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)):
        return address
    attributes = getattr(value, "__dict__", None)
    if type(attributes) is dict:
        return address, _fingerprint(attributes, budget, depth + 1)
    if hasattr(kind, "__len__") and kind.__module__ == "collections":
        return address, len(value), _fingerprints(value, budget, depth)
    return address


def _fingerprints(values: Iterable[object], budget: _Budget, depth: int) -> tuple[object, ...]:
    """The same of as many items as there is room for: a list may have millions."""
    return tuple(_fingerprint(item, budget, depth + 1) for item in islice(values, max(0, budget.left)))


def _checksum(array: Any) -> object:
    """A checksum of the first mebibyte of an array's bytes; of what holds objects, their addresses."""
    flat = array.reshape(-1)[: max(1, _FINGERPRINT_BYTES // max(1, array.itemsize))]
    return zlib.crc32(flat.tobytes())
