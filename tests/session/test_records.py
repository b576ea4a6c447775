from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codegen_chat.session.records import plain, turn_from_json, turn_to_json, unplain
from codegen_chat.turn import Change, Completion, Execution, Failure, Turn, Typed, Usage

# Lone surrogates too; a high one before a low one is a single character to JSON.
text = st.text() | st.text(st.sampled_from('a\ud800 \x00\x1b\u2028\u202e\U0001f600\r\n"\\'))
numbers = st.floats() | st.integers() | st.integers(-(1 << 200), 1 << 200)
data = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(text | st.sampled_from(["$int", "$dict", "$"]), inner, max_size=3)
    ),
    max_leaves=8,
)
typed = st.builds(Typed, text, data)
counts = st.integers(0, 1 << 40)
completions = st.builds(
    Completion,
    text,
    st.sampled_from(["stop", "eos", "length", "interrupted"]),
    st.builds(Usage, counts, counts, counts, st.floats(), st.floats()),
    st.floats(),
    st.lists(counts, max_size=4).map(tuple),
    st.lists(st.floats(), max_size=4).map(tuple),
    st.integers(0, 1 << 70),
    counts,
)
executions = st.builds(
    Execution,
    st.sampled_from(["ok", "error", "timeout", "memory", "output", "killed", "interrupted"]),
    text,
    text,
    st.none() | text,
    st.none() | typed,
    st.lists(typed, max_size=2).map(tuple),
    st.none() | st.builds(Failure, text, text, counts, text),
    st.floats(),
    st.lists(st.builds(Change, st.sampled_from("+~-"), text, text), max_size=2).map(tuple),
    st.lists(text, max_size=2).map(tuple),
    counts,
    text,
)
turns = st.builds(Turn, text, st.none() | text, text, text, st.none() | completions, st.none() | executions, st.booleans())


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(turns)
def test_a_turn_comes_back_as_it_was(turn: Turn) -> None:
    line = json.dumps(turn_to_json(turn), allow_nan=False)
    # repr, because nan is not equal to itself
    assert repr(turn_from_json(turn.id, turn.parent, json.loads(line))) == repr(turn)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data)
def test_what_json_cannot_say_comes_back(value: object) -> None:
    assert repr(unplain(json.loads(json.dumps(plain(value), allow_nan=False)))) == repr(value)


def test_an_integer_that_python_would_not_print_comes_back() -> None:
    for value in (7**9000, -(7**9000), 1 << 63, -(1 << 63)):
        assert unplain(json.loads(json.dumps(plain({"x": [value]})))) == {"x": [value]}


def test_what_is_nested_too_deeply_is_cut() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    written = json.dumps(plain(deep))
    assert written.count("[") == 100
    assert json.dumps(unplain(json.loads(written))) == written


def test_a_tuple_becomes_a_list_and_a_key_that_is_no_string_survives() -> None:
    assert unplain(plain({1: (2, 3), None: "x"})) == {1: [2, 3], None: "x"}


def test_data_that_looks_like_our_own_notation_is_left_as_it_is() -> None:
    for data in ({"$int": "0xff"}, {"$float": "nan"}, {"$dict": [[1, 2]]}, {"$": {"$int": 1}, "x": None}):
        assert unplain(json.loads(json.dumps(plain(data)))) == data


def test_a_record_of_an_older_edition_gets_defaults_and_one_of_a_newer_is_read() -> None:
    old = {"text": "words", "code": "x = 1", "accepted": True, "execution": {"status": "ok"}}
    assert turn_from_json("t", None, old) == Turn("t", None, "words", "x = 1", None, Execution("ok"))
    new = {**old, "mood": "good", "execution": {"status": "ok", "colour": "blue"}}
    assert turn_from_json("t", None, new) == turn_from_json("t", None, old)
    assert turn_from_json("t", None, {**old, "completion": {"text": "x", "finish_reason": "eos"}}).completion == Completion(
        "x", "eos"
    )
