"""The keyboard between prompts, and the prompt's sign: what a start needs first, so it imports next to nothing."""

from __future__ import annotations

import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

PROMPT = "> "


@contextmanager
def quiet_keyboard() -> Iterator[None]:
    """Between prompts, keep what is typed ahead as it is for the next one, and echo neither it nor Ctrl-C's ^C into a turn.

    A Ctrl-C flushes nothing: the kernel would drop output too that has not reached the screen yet.
    """
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    modes = before[3] & ~(termios.ECHO | termios.ICANON) | termios.NOFLSH
    quiet = [before[0] & ~termios.ICRNL, *before[1:3], modes, *before[4:]]
    termios.tcsetattr(keyboard, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
