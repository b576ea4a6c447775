"""A report is checked before it is believed to be one: any bytes give a report of the right types, or an error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_chat.sandbox.report import BrokenReportError, Report, parse

GOOD = {
    "value": "1",
    "typed": ["int", 1],
    "prints": [["str", "a"]],
    "failure": {"type": "E", "message": "m", "line": 2, "traceback": "t"},
    "changes": [["+", "x", "int 1"]],
    "names": {"x": "int 1"},
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def read(data: object) -> Report:
    return parse(json.dumps(data).encode())


def test_a_good_report_is_read() -> None:
    report = read(GOOD)
    assert report.failure is not None
    assert (report.value, report.failure.line, report.changes[0].name, report.names) == ("1", 2, "x", {"x": "int 1"})


@given(st.sampled_from(sorted(GOOD)), json_values)
def test_a_field_of_another_shape_is_refused_or_of_the_right_type(name: str, value: object) -> None:
    try:
        report = read({**GOOD, name: value})
    except BrokenReportError:
        return
    assert isinstance(report.value, str | None)
    assert set(map(type, [*report.names, *report.names.values()])) <= {str}
    assert all(change.kind in "+~-" for change in report.changes)
    assert all(isinstance(item.kind, str) for item in report.prints)


@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(BrokenReportError):
        parse(noise)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"names": ' * 50_000,
        b'{"names": {}, "prints": [], "changes": [], "value": ' + b"9" * 10_000 + b"}",
        json.dumps({**GOOD, "typed": ["\x1b[31m", 1]}).encode(),
        json.dumps({**GOOD, "failure": {**GOOD["failure"], "line": True}}).encode(),  # type: ignore[dict-item]
        json.dumps({**GOOD, "changes": [["+", "x"]]}).encode(),
        b"\x80\x04\x95pickle",
    ],
)
def test_hostile_reports(body: bytes) -> None:
    with pytest.raises(BrokenReportError):
        parse(body)


def test_what_is_shown_is_clean_and_what_is_compared_is_exact() -> None:
    report = read({**GOOD, "value": "\x1b[2J", "typed": ["str", "\x1b[2J"], "names": {"\x9b": "\u202e"}})
    assert report.value == "␛[2J"
    assert report.typed_value is not None
    assert report.typed_value.data == "\x1b[2J"
    assert report.names == {"\ufffd": "\ufffd"}
