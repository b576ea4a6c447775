from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_chat.errors import UsageError
from codegen_chat.session import spec
from codegen_chat.terminal.commands import COMMANDS, HELP, Asked, Code, Said, read, retry, settings, written


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("Sort it.", Said("Sort it.")),
        ("  Sort it,\nnow.  ", Said("Sort it,\nnow.")),
        ("//undo", Said("/undo")),
        ("/undo", Asked("/undo")),
        ("/retry 4", Asked("/retry", "4")),
        ("/export  a b.py ", Asked("/export", "a b.py")),
        (">>> x = 1", Code("x = 1")),
        (">>> for x in y:\n...     print(x)\n...\n... z", Code("for x in y:\n    print(x)\n\nz")),
        (">>> def f():\n    return 1", Code("def f():\n    return 1")),
        (">>> a = 1\n>>> b = 2", Code("a = 1\nb = 2")),
        ("1 >>> 2", Said("1 >>> 2")),
        (">>? def f(x):", Said("", "def f(x):")),
        ("A mean.\n>>? def f(x):\n...     'Doc.'\n", Said("A mean.", "def f(x):\n    'Doc.'")),
        ("A mean.\n    >>? def f(x):\n        'Doc.'", Said("A mean.", "def f(x):\n    'Doc.'")),
        ("Set x,\nnow.\n>>> x = 1\n>>> y = 2", Code("x = 1\ny = 2", "Set x,\nnow.")),
        ("//a\n>>> x = 1", Code("x = 1", "/a")),
    ],
)
def test_a_line_is_words_code_or_a_command(line: str, meaning: object) -> None:
    assert read(line) == meaning


@pytest.mark.parametrize(
    ("line", "said"), [("/und", "did you mean /undo?"), ("/Undo", "/undo"), ("/qqqq", "/help lists them"), ("/", "/help")]
)
def test_an_unknown_command_is_an_error(line: str, said: str) -> None:
    with pytest.raises(UsageError, match="there is no command") as caught:
        read(line)
    assert said in str(caught.value)


@pytest.mark.parametrize("line", ["exit", "quit()", " help ", "?", "Exit"])
def test_who_looks_for_the_way_out_is_told_it(line: str) -> None:
    with pytest.raises(UsageError, match="/exit or Ctrl-D leaves"):
        read(line)
    assert read("Exit the loop.") == Said("Exit the loop.")


def test_a_command_takes_nothing_that_it_does_not_take() -> None:
    with pytest.raises(UsageError, match="/undo takes nothing after it"):
        read("/undo 3")


@given(st.text())
def test_no_slash_line_becomes_words(text: str) -> None:
    line = "/" + text
    if text.startswith("/"):
        assert isinstance(read(line), Said)
        return
    try:
        assert isinstance(read(line), Asked)
        assert line.split()[0] in {command.name for command in COMMANDS}
    except UsageError:
        pass


@pytest.mark.parametrize("code", ["x = 1", "for x in y:\n    print(x)", "def f():\n\n    return 1"])
def test_code_is_written_as_in_a_spec(code: str) -> None:
    first, *more = code.split("\n")
    text = "\n".join([f">>> {first}", *(f"... {line}".rstrip() for line in more)])
    (step,) = spec.parse(text, "a.txt", {}).steps
    assert read(text) == read(written("", code)) == Code(step.code or "")
    assert read(written("Some words.", code)) == Code(code, "Some words.")


@pytest.mark.parametrize("line", [">>>x = 1", ">>?def f():", "words\n>>>x"])
def test_code_needs_its_space(line: str) -> None:
    with pytest.raises(UsageError, match="with a space"):
        read(line)


def test_a_command_that_needs_something_says_what() -> None:
    with pytest.raises(UsageError, match="/hide needs N after it: it would leave turn N out"):
        read("/hide")


def test_help_fits_a_screen_and_names_every_command() -> None:
    lines = HELP.splitlines()
    assert len(lines) <= 22  # and the prompt and the bar below it: 24
    assert max(map(len, lines)) <= 80
    assert all(re.search(rf"{command.name}\b", HELP) for command in COMMANDS)


@pytest.mark.parametrize(
    ("argument", "meaning"), [("", (None, None)), ("4", (4, None)), ("t=0.8", (None, 0.8)), ("4 t=1", (4, 1.0))]
)
def test_what_retry_takes(argument: str, meaning: object) -> None:
    assert retry(argument, 64) == meaning


@pytest.mark.parametrize("argument", ["0", "65", "t=hot", "t=11", "some"])
def test_what_retry_does_not_take(argument: str) -> None:
    with pytest.raises(UsageError, match="/retry takes"):
        retry(argument, 64)


def test_what_set_takes() -> None:
    assert settings("") == {}
    assert settings("seed 7") == {"seed": "7"}
    assert settings("seed=7 max-new-tokens=9") == {"seed": "7", "max_new_tokens": "9"}
    with pytest.raises(UsageError, match="NAME=VALUE"):
        settings("seed")
