"""A picture in the terminal, where it can: by kitty's protocol, iTerm2's, sixels, or half blocks of colour.

Which one is read from the environment. The terminal is not asked: its answer would come in between what a person types ahead.
"""

from __future__ import annotations

import base64
import io
import os
import re
import struct
from collections.abc import Mapping
from fcntl import ioctl
from termios import TIOCGWINSZ
from typing import TYPE_CHECKING

import numpy as np
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from codegen_chat.session.picture import LARGEST

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 1 << 25
ROWS, COLUMNS = 20, 76

CELL = (10, 20)
"""Pixels of a character, where the terminal does not say: those of the VT340, which brought sixels."""

SIXEL_COLOURS = 64
_RUN = re.compile(r"(.)\1{3,}")


def protocol(environment: Mapping[str, str]) -> str:
    """Return how this terminal draws pictures: kitty, iterm, sixel or blocks."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if term.startswith(("tmux", "screen")):  # it passes on none of them unasked
        return "blocks"
    if term in {"xterm-kitty", "xterm-ghostty"} or "KITTY_WINDOW_ID" in environment:
        return "kitty"
    if program in {"iTerm.app", "WezTerm"}:
        return "iterm"
    return "sixel" if term.startswith(("foot", "mlterm", "contour")) else "blocks"


def draw(console: Console, data: bytes, how: str) -> bool:
    """Draw a picture at most ROWS high; `how` as the setting `plots` says. Returns whether that was possible."""
    if console.color_system is None or len(data) > LARGEST or how == "off":
        return False
    # The picture comes from code that nobody has read: it is decoded, and what is sent on is our own encoding of its pixels.
    from PIL import Image as pillow  # noqa: N813, PLC0415  only who plots waits for it
    from PIL import UnidentifiedImageError  # noqa: PLC0415

    try:
        with pillow.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                return False
            picture = opened.convert("RGBA")
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, pillow.DecompressionBombError):
        return False
    paper = pillow.new("RGBA", picture.size, "white")
    picture = pillow.alpha_composite(paper, picture).convert("RGB")
    wide, high = _cell()
    room = min(COLUMNS, console.width)
    scale = min(room * wide / picture.width, ROWS * high / picture.height)
    columns, rows = (max(1, round(side * scale / cell)) for side, cell in ((picture.width, wide), (picture.height, high)))
    match protocol(os.environ) if how == "auto" else how:
        case "kitty":
            picture.thumbnail((1600, 1200))
            written = kitty(picture, columns, rows)
        case "iterm":
            picture.thumbnail((1600, 1200))
            written = f"\x1b]1337;File=inline=1;width={columns};height={rows};preserveAspectRatio=1:{_png(picture)}\x07"
        case "sixel":
            written = sixels(picture.resize((columns * wide, rows * high)))
        case _:
            console.print(half_blocks(picture.resize((columns, 2 * rows))))
            return True
    console.file.write(f"{written}\n")
    console.file.flush()
    return True


def kitty(picture: Image, columns: int, rows: int) -> str:
    """Return a picture in kitty's protocol, so many cells large: PNG in pieces of 4 KiB. Nothing is answered (q=2)."""
    payload = _png(picture)
    keys, text = f"a=T,f=100,q=2,c={columns},r={rows},", ""
    for start in range(0, len(payload), 4096):
        text += f"\x1b_G{keys}m={int(start + 4096 < len(payload))};{payload[start : start + 4096]}\x1b\\"
        keys = ""
    return text


def sixels(picture: Image) -> str:
    """Return a picture as sixels: bands of six rows, in each one line for each colour, a bit for each row."""
    flat = picture.quantize(SIXEL_COLOURS)
    palette = np.array(flat.getpalette()).reshape(-1, 3) * 100 // 255
    pixels = np.frombuffer(flat.tobytes(), np.uint8).reshape(flat.height, flat.width)
    parts = [f'\x1bPq"1;1;{flat.width};{flat.height}', *(f"#{n};2;{r};{g};{b}" for n, (r, g, b) in enumerate(palette))]
    for top in range(0, flat.height, 6):
        band = pixels[top : top + 6]
        weights = 1 << np.arange(len(band))
        for colour in np.unique(band):
            signs = bytes((63 + weights @ (band == colour)).tolist()).decode()
            parts.append(f"#{colour}{_RUN.sub(lambda run: f'!{len(run[0])}{run[1]}', signs)}$")
        parts.append("-")
    return "".join(parts) + "\x1b\\"


def half_blocks(picture: Image) -> Text:
    """Return a picture as characters, each two pixels one above the other: ink and paper."""
    text = Text()
    pixels = picture.tobytes()
    at = [Color.from_rgb(*pixels[start : start + 3]) for start in range(0, len(pixels), 3)]
    for top in range(0, picture.height - 1, 2):
        for column in range(picture.width):
            upper, lower = at[top * picture.width + column], at[(top + 1) * picture.width + column]
            text.append("▀", Style(color=upper, bgcolor=lower))
        text.append("\n" if top + 2 < picture.height else "")
    return text


def _png(picture: Image) -> str:
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return base64.b64encode(encoded.getvalue()).decode()


def _cell() -> tuple[int, int]:
    """Return the width and height of a character in pixels."""
    try:
        rows, columns, width, height = struct.unpack("HHHH", ioctl(1, TIOCGWINSZ, bytes(8)))
        return (width // columns, height // rows) if columns and rows and width >= columns and height >= rows else CELL
    except OSError:
        return CELL
