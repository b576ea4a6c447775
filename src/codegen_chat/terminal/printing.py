"""Text on a stream as it comes: code highlighted, output by its head and tail; nothing is drawn twice or harms a terminal."""

from __future__ import annotations

import re
from collections import deque

from pygments.lexers.python import PythonLexer
from pygments.token import Comment, String
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style
from rich.syntax import Syntax

HEAD_LINES, TAIL_LINES = 40, 10
"""What is shown of a long output."""

LONG_LINE = 2000
"""Characters shown of one line of output, and of a value."""

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Return a text in which control, bidi and surrogate characters are spelt out; newline and tab stay."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class Code:
    """Prints code as it grows. A lexeme is printed once it can no longer change, so nothing is drawn twice."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lexer = PythonLexer(stripnl=False, ensurenl=False)
        self._theme = Syntax.get_theme("ansi_dark" if console.color_system else "bw")
        self._text = ""
        self._shown = 0

    def feed(self, piece: str) -> None:
        """Take a piece of the code."""
        self._text += visible(piece)
        if not self._text.strip():
            self._text = ""  # no empty lines between the words and the code
            return
        self._show(final=False)

    def end(self) -> None:
        """Print what was held back and end the line; be ready for other code."""
        if self._text:
            self._text = self._text.rstrip() + "\n"
            self._show(final=True)
        self._text, self._shown = "", 0

    def _show(self, *, final: bool) -> None:
        text = self._text if final else self._text.rstrip()  # empty lines at its end are not part of the code
        for start, kind, lexeme in self._lexer.get_tokens_unprocessed(text):
            end = start + len(lexeme)
            if end <= self._shown:
                continue
            grows = end == len(text) and not final and lexeme[-1:] != "\n"
            if grows and kind not in String and kind not in Comment:
                break
            style = self._theme.get_style_for_token(kind)
            put(self._console, text[max(start, self._shown) : end], style)
            self._shown = end


class Printed:
    """Prints output as it comes: the first lines at once, of the rest the last ones at the end.

    `whole`: every line. `rest` says where those that are left out can be seen.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self.whole = False
        self.rest = ""
        self._reset()

    def _reset(self) -> None:
        self._lines = 0
        self._column = 0
        self._tail: deque[tuple[str, str]] = deque(maxlen=TAIL_LINES)

    def feed(self, text: str, style: str = "") -> None:
        """Take a piece of the output."""
        for line in visible(text).splitlines(keepends=True):
            if self._lines >= HEAD_LINES and not self.whole:
                if self._column and self._tail:
                    before, style = self._tail.pop()
                    line = before + line  # noqa: PLW2901
                else:
                    self._lines += 1
                self._tail.append((line, style))
            else:
                self._print(line, style)
                self._lines += line.endswith("\n")
            self._column = 0 if line.endswith("\n") else self._column + len(line)

    def end(self) -> None:
        """Print the tail and end the line; be ready for other output."""
        if self._column and not self._tail:
            put(self._console, "\n")
        self._column = 0
        left_out = self._lines - HEAD_LINES - len(self._tail)
        if left_out > 0 and not self.whole:
            put(self._console, f"· {left_out} lines left out{self.rest}\n", "dim")
        for line, style in self._tail:
            self._column = 0
            self._print(line.removesuffix("\n") + "\n", style)
        self._reset()

    def _print(self, line: str, style: str) -> None:
        room = max(LONG_LINE - self._column, 0)
        body = line.removesuffix("\n")
        shown = body[:room] + ("…" if len(body) > room > 0 else "")
        put(self._console, shown + line[len(body) :], style)


def put(console: Console, text: str, style: str | Style = "") -> None:
    """Print text as it is: no wrapping, and tabs stay tabs."""
    console.print(Segments([Segment(text, console.get_style(style))]), end="")
