"""Values as plain data: exact where they are compared, short where they are shown."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections import Counter, namedtuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_chat.sandbox.values import fingerprint, shown, summary, typed

Point = namedtuple("Point", "x y")  # noqa: PYI024  what people write


def rows(n: int) -> list[int]:
    return [n]


@pytest.mark.parametrize(
    ("value", "kind", "data"),
    [
        (None, "NoneType", None),
        (True, "bool", True),
        (3, "int", 3),
        (2.5, "float", 2.5),
        (math.nan, "float", "nan"),
        (-math.inf, "float", "-inf"),
        (1 + 2j, "complex", [1.0, 2.0]),
        ("a\x1b", "str", "a\x1b"),
        ((1, 2), "tuple", [1, 2]),
        ([(1, "a")], "list", [{"kind": "tuple", "data": [1, "a"]}]),
        ([math.inf, 1.0], "list", [{"kind": "float", "data": "inf"}, 1.0]),
        ({2, 1}, "set", [1, 2]),
        ({"a": 1, 2: None}, "dict", [["a", 1], [2, None]]),
        (b"x", "bytes", "b'x'"),
        (np.int64(3), "numpy.int64", 3),
        (np.float64("nan"), "numpy.float64", {"kind": "float", "data": "nan"}),
        (np.bool_(True), "numpy.bool", True),
        (np.array([[1, 2]]), "numpy.ndarray", [{"kind": "list", "data": [1, 2]}]),
        (np.array(5), "numpy.ndarray", 5),
        (pd.Series([1.5, 2.0]), "pandas.Series", [1.5, 2.0]),
        (pd.DataFrame({"a": [1], "b": ["x"]}), "pandas.DataFrame", {"columns": ["a", "b"], "rows": [[1, "x"]]}),
        (
            pd.DataFrame({"a": [1, 3]}, index=pd.Index(["x", "y"], name="key")),
            "pandas.DataFrame",
            {"columns": ["a"], "rows": [[1], [3]], "index": {"name": "key", "labels": ["x", "y"]}},
        ),
        (Point(1, 2), f"{__name__}.Point", [1, 2]),
        (Counter("aab"), "collections.Counter", [["a", 2], ["b", 1]]),
    ],
)
def test_typed(value: object, kind: str, data: object) -> None:
    assert typed(value) == (kind, data)
    json.dumps(typed(value), allow_nan=False)


def test_what_is_too_large_or_too_deep_or_goes_round_is_a_repr() -> None:
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    loop: list[object] = []
    loop.append(loop)
    for value in ([0] * 100_000, deep, loop, np.zeros((1000, 1000)), "x" * 1_000_000):
        kind, data = typed(value)
        assert kind in {"list", "numpy.ndarray", "str"}
        assert isinstance(data, str)
        assert len(data) < 10_000
    assert typed(10**100_000)[0] == "int"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.tuples(inner)
    )
)
def test_any_plain_value_is_strict_json(value: object) -> None:
    json.dumps(typed(value), allow_nan=False)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([0] * 10, "list[10]"),
        ("abc", "str 'abc'"),
        (5, "int 5"),
        (10**1000, "int of 3322 bits"),
        ({"a": 1}, "dict[1]"),
        (np.zeros((3, 2)), "ndarray 3x2 float64"),
        (np.float64(2.5), "float64 2.5"),
        (pd.DataFrame({"a": [1, 2, 3], "b": [1, 2, 3]}), "DataFrame 3x2"),
        (pd.Series([1, 2]), "Series[2] int64"),
        (rows, "function rows(n: 'int') -> 'list[int]'"),
        (Counter, "class Counter"),
        (math, "module math"),
        ((n for n in [1]), "generator <genexpr>"),
        (object(), "object"),
    ],
)
def test_summary(value: object, words: str) -> None:
    assert summary(value) == words


def test_a_fingerprint_shows_a_change_in_place() -> None:
    nested = {"a": [1, {2}]}
    array = np.zeros(10)
    frame = pd.DataFrame({"a": [1, 2]})
    thing = type("Thing", (), {})()
    for value, change in [
        (nested, lambda: nested["a"].append(3)),
        (array, lambda: array.__setitem__(3, 1.0)),
        (frame, lambda: frame.__setitem__("b", [1, 2])),
        (thing, lambda: setattr(thing, "x", 1)),
    ]:
        before = fingerprint(value)
        assert fingerprint(value) == before
        change()
        assert fingerprint(value) != before


@pytest.mark.parametrize("large", [[1] * 10**6, dict.fromkeys(range(10**6)), set(range(10**6))], ids=["list", "dict", "set"])
def test_a_large_value_is_looked_at_in_little_memory(large: object) -> None:
    tracemalloc.start()
    fingerprint(large)
    summary(large)
    if isinstance(large, list):  # of the others the repr is taken whole
        shown(large)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 << 20


def test_what_raises_while_it_is_looked_at_is_named_by_its_type() -> None:
    class Odd:
        def __len__(self) -> int:
            raise RuntimeError

    assert summary(Odd()) == "Odd"
    fingerprint(Odd())
    assert len(shown("x" * 10**6)) < 10_000
