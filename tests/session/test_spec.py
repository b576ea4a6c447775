from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codegen_chat.errors import SessionError, SpecError
from codegen_chat.session.history import History
from codegen_chat.session.spec import Expectation, Spec, Step, parse, read
from codegen_chat.turn import Completion, Turn

SURFACE = """\
@spec 1
@set seed=7 samples=4
@var A="abcde"
Assign the string "{A}" to a variable named "my_string".
Reverse it into "out" and print it.
@expect out == "edcba"
"""


def test_the_example_of_the_surface() -> None:
    assert parse(SURFACE, "spec.txt", {}) == Spec(
        {"seed": 7, "samples": 4},
        (
            Step('Assign the string "abcde" to a variable named "my_string".', "spec.txt:4:1"),
            Step(
                'Reverse it into "out" and print it.',
                "spec.txt:5:1",
                expectations=(Expectation('out == "edcba"', "spec.txt:6:9"),),
            ),
        ),
    )


def texts(spec: str, **variables: str) -> list[str]:
    return [step.text for step in parse(spec, "s", variables).steps]


def codes(spec: str) -> list[str | None]:
    return [step.code for step in parse(spec, "s", {}).steps]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("one\ntwo", ["one", "two"]),
        ("one\n\n\ntwo\n", ["one", "two"]),
        ("one\n  more\n\tand more\ntwo", ["one\nmore\nand more", "two"]),
        ("one\n\n  more after an empty line", ["one\nmore after an empty line"]),
        ("# comment\none\n# comment\n  more\n  # comment\ntwo # no comment", ["one\nmore", "two # no comment"]),
        ("\ufeff# a byte order mark\none", ["one"]),
        ("one\r\n  more\r\ntwo\r\n", ["one\nmore", "two"]),
        ("one\rtwo", ["one", "two"]),
        ("one  \t\n", ["one"]),
        (
            "@@set is a word\n@#1 is a word\n@>>> is a word\n@... too",
            ["@set is a word", "#1 is a word", ">>> is a word", "... too"],
        ),
        ("one\n  @@expect\n  @# more", ["one\n@expect\n# more"]),
        ("...and then?", ["...and then?"]),
        ("größer als 3 → 数 😀\u2028same line", ["größer als 3 → 数 😀\u2028same line"]),
        ("one\n\u3000indented the Chinese way", ["one\nindented the Chinese way"]),
        ("mail me@home at 5 > 3", ["mail me@home at 5 > 3"]),
        ("{A} {{A}} {B} { A } {} {0}\n@var A=3", ["3 {3} {B} { A } {} {0}"]),
        ("{A}{B}\n@var A='{B}'\n@var B = [1,\n  'x']", ["{B}[1, 'x']"]),
        ("{größe}\n@var größe=1.50", ["1.5"]),
    ],
)
def test_words(spec: str, expected: list[str]) -> None:
    assert texts(spec) == expected


def test_the_command_line_replaces_and_declares_variables() -> None:
    assert texts('@var A="x"\n{A} and {B}', A="1\n2", B="{A}") == ["1\n2 and {A}"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (">>> x = 1\n>>> y = 2", ["x = 1", "y = 2"]),
        (">>> for n in x:\n...     print(n)\n", ["for n in x:\n    print(n)"]),
        (">>> def f():\n        return 1\n", ["def f():\n        return 1"]),
        (">>> def f():\n    # kept\n\n    return 1\n\n\nwords", ["def f():\n    # kept\n\n    return 1", None]),
        ('>>> s = """\n...\n... }"""', ['s = """\n\n}"""']),
        (">>> ...\n... ...", ["...\n..."]),
        (">>> x = {A}\n# comment\n>>> y = {B}\n@var A=[1]", ["x = [1]", "y = {B}"]),
        (r">>> x = '\d'", [r"x = '\d'"]),
    ],
)
def test_own_code(spec: str, expected: list[str | None]) -> None:
    assert codes(spec) == expected
    assert all(step.text == "" for step in parse(spec, "s", {}).steps if step.code is not None)


def test_expectations_belong_to_the_turn_above() -> None:
    spec = parse("@var A=3\none\n@expect x == {A}\n# comment\n@expect y\n  and z  # really\n>>> t = 1\n@expect t", "s", {})
    assert [[(e.expression, e.where) for e in step.expectations] for step in spec.steps] == [
        [("x == 3", "s:3:9"), ("y and z  # really", "s:5:9")],
        [("t", "s:8:9")],
    ]


def test_all_settings() -> None:
    spec = parse(
        "@spec 1\n@set seed=0 samples=2\n@set temperature=0.6\n  top_p=0.9 top_k=40\n@set max_new_tokens=64 timeout=2.5\none",
        "s",
        {},
    )
    assert spec.settings == {
        "seed": 0,
        "samples": 2,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 40,
        "max_new_tokens": 64,
        "timeout": 2.5,
    }
    assert [type(value) for value in spec.settings.values()] == [int, int, float, float, int, int, float]


MARGIN = "a directive starts at the margin (write @@ for words that start with @)"
KEYS = "seed, samples, temperature, top_p, top_k, max_new_tokens, timeout"


def test_code_and_first_lines_stand_below_words() -> None:
    text = """\
Write a mean.
    >>? def mean(xs):
    ...     "The mean."
Set x.
    >>> x = [1,
         2]
    ...
    ... y = 1
>>? z = x +
"""
    steps = parse(text, "s", {}).steps
    assert [(step.text, step.given, step.code) for step in steps] == [
        ("Write a mean.", 'def mean(xs):\n    "The mean."', None),
        ("Set x.", "", "x = [1,\n     2]\n\ny = 1"),
        ("", "z = x +", None),
    ]
    assert [step.where for step in steps] == ["s:1:1", "s:4:1", "s:9:1"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "s:1:1: there is no turn in it: write one a line"),
        ("# only\n@spec 1\n", "s:1:1: there is no turn in it: write one a line"),
        ("@spec 2\none", "s:1:7: @spec 2 is unknown: this codegen-chat reads @spec 1"),
        ("@spec\none", "s:1:6: @spec  is unknown: this codegen-chat reads @spec 1"),
        ("one\n@spec 1", "s:2:7: @spec stands once, above all else"),
        ("@spec 1\n@spec 1\none", "s:2:7: @spec stands once, above all else"),
        ("@expct x\none", "s:1:1: unknown directive @expct: did you mean @expect? (write @@ for words that start with @)"),
        ("@expect(x)", "s:1:1: unknown directive @expect(x): did you mean @expect? (write @@ for words that start with @)"),
        (
            "@home is here",
            "s:1:1: unknown directive @home: there are @spec, @set, @var, @expect (write @@ for words that start with @)",
        ),
        ("@ one", "s:1:1: unknown directive @: there are @spec, @set, @var, @expect (write @@ for words that start with @)"),
        ("@set temprature=1\none", "s:1:6: unknown setting 'temprature': did you mean temperature?"),
        ("@set seed=1 zz=2\none", f"s:1:13: unknown setting 'zz': there are {KEYS}"),
        ("@set model=x\none", f"s:1:6: unknown setting 'model': there are {KEYS}"),
        ("@set seed=-1\none", "s:1:11: @set: seed is '-1', wanted is a whole number from 0 on"),
        ("@set seed=1.5\none", "s:1:11: @set: seed is '1.5', wanted is a whole number from 0 on"),
        ("@set seed=1\n  top_p=0\none", "s:2:9: @set: top_p is '0', wanted is a number above 0, up to 1"),
        ("@set temperature=nan\none", "s:1:18: @set: temperature is 'nan', wanted is a number from 0 to 10"),
        ("@set samples=0\none", "s:1:14: @set: samples is '0', wanted is a whole number from 1 on"),
        ("@set seed = 1\none", "s:1:6: 'seed' is no setting: write key=value, without spaces"),
        ("@set\none", "s:1:5: @set needs key=value"),
        ("@set seed=1 seed=2\none", "s:1:13: seed is set twice"),
        ("one\n@set seed=1", "s:2:6: @set stands above the first turn: it holds for all of them"),
        ("@var A\none", 's:1:6: @var needs NAME=literal, such as @var A="abc"'),
        ("@var 1A=2\none", 's:1:6: @var needs NAME=literal, such as @var A="abc"'),
        ("@var A = abc\none", "s:1:10: @var needs a Python literal: put text in quotes"),
        ("@var A=1+\none {A}", "s:1:8: @var needs a Python literal: put text in quotes"),
        ("@var A=1\n@var A=2\none", "s:2:6: A is declared twice"),
        ('@var A="\\x1b[2J"\none {A}', "s:1:8: A holds a control character: a turn is text"),
        ("@expect x\none", "s:1:9: @expect stands below the turn that it judges: there is none above"),
        ("one\n@expect", "s:2:8: @expect needs a Python expression"),
        (
            "one\n@expect x = 1",
            "s:2:11: an expectation is one Python expression, such as x == 1: invalid syntax",
        ),
        ("one\n@expect (x ==\n   1", "s:2:9: an expectation is one Python expression, such as x == 1: '(' was never closed"),
        ("one\n@expect x ==\n   ) 1", "s:3:4: an expectation is one Python expression, such as x == 1: unmatched ')'"),
        ("one\n@expect a) + (b", "s:2:10: an expectation is one Python expression, such as x == 1: unmatched ')'"),
        ("  one", "s:1:1: an indented line continues the one above, and there is none: start it at the margin"),
        ("one\n  @expect x", f"s:2:3: {MARGIN}"),
        ("one\n@expect x\n  >>> x", "s:3:3: code starts at the margin, or below words (write @>>> for words)"),
        ("one\n... x", "s:2:1: `...` goes on with code: start it with `>>> `, or write `@...` for words"),
        (">>>x = 1", "s:1:4: code stands after `>>> ` with a space (write @>>> for words)"),
        (">>> x = [1,\n]", "s:1:9: this is no Python: '[' was never closed"),
        (">>> x = 1\n...   y = 2", "s:2:6: this is no Python: unexpected indent"),
        (">>> for x in y:\n        print(x) z\n\n", "s:2:18: this is no Python: invalid syntax"),
        (">>> long_name = {A}\n@var A=')'", "s:1:5: this is no Python: unmatched ')'"),
        (">>>", "s:1:5: an empty turn"),
        ("{A}\n@var A=' '", "s:1:1: an empty turn"),
        ("one\ntw\x00o", "s:2:3: U+0000 is no text: remove that character"),
        ("one\ud800", "s:1:4: U+D800 is no text: remove that character"),
        ("one\n\x1b[2J", "s:2:1: U+001B is no text: remove that character"),
    ],
)
def test_a_bad_line_is_named(spec: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(spec, "s", {})
    assert str(caught.value) == message
    assert message.startswith(caught.value.where)


def test_every_error_is_found_the_first_first() -> None:
    with pytest.raises(SpecError) as caught:
        parse("@set sed=1\none\n  @expect x\n@expect x y\n@wrong", "s", {})
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["s:1:6", "s:3:3", "s:4:11", "s:5:1"]
    assert caught.value.where == "s:1:6"
    with pytest.raises(SpecError) as caught:
        parse("@wrong\n" * 50, "s", {})
    assert len(str(caught.value).splitlines()) == 10


def test_a_variable_of_the_command_line_that_nothing_uses_is_an_error() -> None:
    with pytest.raises(SpecError, match=r"s:1:1: --var nmae: there is no \{nmae\} in it: did you mean name\?"):
        parse("@var name=1\n{name}", "s", {"nmae": "2"})
    with pytest.raises(SpecError, match="--var A holds a control character"):
        parse("{A}", "s", {"A": "\x00"})


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(), st.dictionaries(st.sampled_from(["A", "B"]), st.text(), max_size=1))
def test_any_text_is_read_or_refused_with_a_place(text: str, variables: dict[str, str]) -> None:
    try:
        spec = parse(text, "s", variables)
    except SpecError as error:
        for line in str(error).splitlines():
            assert line.startswith("s:")
    else:
        assert spec.steps
        assert all(step.text if step.code is None else step.code for step in spec.steps)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.sampled_from(["@spec 1", "@set seed=1", "@var A=1", "one {A}", "  more", ">>> x = 1", "...", "# c", "", "@expect x"])
    )
)
def test_any_order_of_lines_is_read_whole_or_refused(lines: list[str]) -> None:
    turns = sum(line in {"one {A}", ">>> x = 1"} for line in lines)
    with contextlib.suppress(SpecError):
        assert len(parse("\n".join(lines), "s", {}).steps) == turns


# ---------------------------------------------------------------- bytes of files


def test_bytes_are_utf_8_with_or_without_a_mark() -> None:
    assert read("größer\n".encode("utf-8-sig"), "s", {}) == parse("größer\n", "s", {})
    with pytest.raises(SpecError, match="s:2:4: byte 0xff is not UTF-8: save the file as UTF-8 text"):
        read("one\ngrö".encode() + b"\xff", "s", {})
    with pytest.raises(SpecError, match="s:1:1: byte 0xff is not UTF-8"):
        read("one".encode("utf-16"), "s", {})


def recorded(folder: Path) -> Path:
    with History.create(folder, {"model": "nano"}) as history:
        answer = Completion("x = 1\n", "stop", seed=3)
        history.append(Turn("a", None, "Make x one.", "x = 1", answer))
        history.append(Turn("b", "a", "Fail.", "1 / 0", answer, accepted=False))
        history.append(Turn("c", "a", "", "y = 2"))
        history.append(Turn("d", "c", "Undone.", "z = 3", answer))
        history.undo()
    assert history.path is not None
    return history.path


def test_a_saved_session_is_a_spec_of_its_accepted_branch(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    expected = (Step("Make x one.", "f: turn 1", "x = 1"), Step("", "f: turn 2", "y = 2"))
    assert read(path.read_bytes(), "f", {}) == Spec({}, expected)
    again = read(path.read_bytes(), "f", {}, resample=True)
    assert again.steps == (Step("Make x one.", "f: turn 1", None), Step("", "f: turn 2", "y = 2"))


def test_a_damaged_session_says_so_and_never_becomes_words(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    data = path.read_bytes()
    assert read(data[:-5], "f", {}).notes == (
        "f: the last line was cut off and is dropped (" + str(len(data.splitlines()[-1]) - 4) + " bytes)",
    )
    assert read(b"x" + data[1:], "f.jsonl", {}).notes == ("f.jsonl: line 1 is damaged and left out",)
    with pytest.raises(SessionError, match="is not a session"):
        read(b"words", "f.jsonl", {})
    with pytest.raises(SpecError, match="there is no accepted turn"):
        read(data.splitlines(keepends=True)[0], "f.jsonl", {})
    with pytest.raises(SpecError, match="a saved session has no variables"):
        read(data, "f.jsonl", {"A": "1"})
