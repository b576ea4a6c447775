from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_chat.errors import UsageError
from codegen_chat.session import spec
from codegen_chat.terminal.commands import COMMANDS, Asked, Code, Said, read


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
        (">>>x = 1", Code(">>>x = 1")),
        (">>> for x in y:\n...     print(x)\n...\n... z", Code("for x in y:\n    print(x)\n\nz")),
        (">>> def f():\n    return 1", Code("def f():\n    return 1")),
        (">>> a = 1\n>>> b = 2", Code("a = 1\nb = 2")),
        ("1 >>> 2", Said("1 >>> 2")),
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
    assert read(text) == Code(step.code or "")
