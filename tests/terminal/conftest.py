"""A terminal to type at: a real pty, drawn by pyte."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSCTTY, TIOCSWINSZ

import pyte
import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 240.0
"""Seconds until a test gives up; nothing waits this long unless it is broken (a crowded machine once stood still for one)."""


class Terminal:
    """A process on a pty and what its screen shows, with everything that scrolled away."""

    def __init__(
        self, command: list[str], *, columns: int = 100, rows: int = 40, environment: dict[str, str] | None = None
    ) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=5000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = bytearray()
        self._terminal, theirs = pty.openpty()
        ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        variables = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", **(environment or {})}
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=variables, start_new_session=True, cwd=os.environ["HOME"],
            preexec_fn=lambda: ioctl(0, TIOCSCTTY, 0),  # noqa: PLW1509  the terminal becomes its own: Ctrl-C is a signal
        )  # fmt: skip
        os.close(theirs)

    def type(self, keys: str) -> None:
        """Send keys as they come from a keyboard: Enter is \\r."""
        os.write(self._terminal, keys.encode())

    def paste(self, text: str) -> None:
        """Send a bracketed paste, as terminals do."""
        self.type(f"\x1b[200~{text.replace(chr(10), chr(13))}\x1b[201~")

    @property
    def text(self) -> str:
        """Everything that was shown, the lines that scrolled away first; the bottom bar last."""
        above = ["".join(row[column].data for column in range(self.screen.columns)) for row in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self.screen.display])

    def until(self, pattern: str, *, times: int = 1) -> str:
        """Wait until what is shown matches (MULTILINE) so many times; return it."""
        deadline = time.monotonic() + PATIENCE
        while len(re.findall(pattern, self.text, re.MULTILINE)) < times:
            left = deadline - time.monotonic()
            if not self.look(max(left, 0)):
                pytest.fail(f"{pattern!r} never came:\n{self.text}")
        return self.text

    def watch(self, seconds: float) -> None:
        """Look at the screen for so long."""
        deadline = time.monotonic() + seconds
        while self.look(max(deadline - time.monotonic(), 0)):
            """More may come."""

    def look(self, seconds: float) -> bool:
        """Draw what comes within so many seconds; return whether anything did."""
        ready, _, _ = select.select([self._terminal], [], [], seconds)
        data = b""
        if ready:
            with suppress(OSError):  # the other end is closed
                data = os.read(self._terminal, 1 << 16)
        self.raw += data
        self._stream.feed(data)
        if b"\x1b[6n" in self.raw[-len(data) - 3 :] and b"n" in data:  # where is the cursor?
            self.type(f"\x1b[{self.screen.cursor.y + 1};{self.screen.cursor.x + 1}R")
        return bool(data)

    def kill(self) -> None:
        """End the process as nothing can be prepared for."""
        self.process.kill()
        self.process.wait()

    def resize(self, columns: int, rows: int) -> None:
        """Give the window another size."""
        ioctl(self._terminal, TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def close(self) -> None:
        """Hang up."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._terminal)


Open = Callable[..., Terminal]


@pytest.fixture
def terminal(home: Path) -> Iterator[Open]:
    """Open a terminal with the REPL of child.py at its prompt."""
    opened: list[Terminal] = []

    def start(*flags: str, columns: int = 100, environment: dict[str, str] | None = None, prompt: str = r"^>$") -> Terminal:
        command = [sys.executable, str(Path(__file__).with_name("child.py")), str(home), *flags]
        opened.append(Terminal(command, columns=columns, environment=environment))
        opened[-1].until(prompt)
        return opened[-1]

    yield start
    for each in opened:
        each.close()
