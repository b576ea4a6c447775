from __future__ import annotations

import io
import re

import numpy as np
import pytest

from codegen_chat.attention.record import Attention, Part
from codegen_chat.terminal.attention import COLOURS, draw
from codegen_chat.terminal.screen import Screen
from tests.terminal.conftest import Open
from tests.terminal.test_screen import Terminal


def made(count: int) -> Attention:
    """Token i gives nine tenths to token 0 and a tenth to itself."""
    weights = np.eye(count, dtype=np.float32) * np.float32(0.1)
    weights[:, 0] += np.float32(0.9)
    tokens = tuple("ab \n\x1b" * count)[:count]
    return Attention("made", tokens, (Part(1, "words", 0, 2), Part(1, "code", 2, count)), weights[None, None])


def drawn(count: int, *, plain: bool = False) -> str:
    stream = io.StringIO()
    draw(Screen(stream, plain=plain), made(count))
    return stream.getvalue()


def test_a_row_a_token_and_nothing_beyond_the_mask() -> None:
    text = drawn(5)
    assert re.search(r"^   1 b               █░    a \(0\) 90%$", text, re.MULTILINE)
    assert re.search(r"^   3 ⏎               █··░  a \(0\) 90%$", text, re.MULTILINE)
    assert "\x1b" not in text
    assert re.search(r"looks back, while it is written:\n  \[1\] words +93\.3% █+\n  \[1\] code +6\.7% ███$", text, re.MULTILINE)


def test_a_long_text_keeps_to_the_line_and_to_the_last_turn() -> None:
    text = drawn(300)
    rows = re.findall(r"^ +\d+ .*$", text, re.MULTILINE)
    assert len(rows) == 48
    assert max(map(len, text.splitlines())) <= 80
    assert "a cell is the strongest of 9 tokens" in text


def test_plain_says_it_in_words() -> None:
    assert re.search(r"^3 ⏎: a \(0\) 90%, ⏎ \(3\) 10%$", drawn(5, plain=True), re.MULTILINE)


def test_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    stream = Terminal()
    draw(Screen(stream), made(5))
    most = [int(COLOURS[-1][place : place + 2], 16) for place in (1, 3, 5)]
    assert f"\x1b[48;2;{most[0]};{most[1]};{most[2]}m " in stream.getvalue()


def test_the_command(terminal: Open) -> None:
    screen = terminal()
    screen.type("/attention\r")
    screen.until(r"^! there are no turns")
    screen.type(">>> a = 1\r")
    screen.until(r"\+ a: ")
    screen.type(">>> b = a\r")
    screen.until(r"\+ b: ")
    screen.type("/attention\r")
    screen.until(r"^  \[1\] code +\d")
    screen.type("/attention 1 page.html\r")
    screen.until(r"^· wrote page\.html$")
    screen.type("/attention 1 page.exe\r")
    screen.until(r"^! page\.exe: ")
