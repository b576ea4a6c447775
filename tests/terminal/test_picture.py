"""What a terminal is sent is decoded again, as that terminal would, and is the picture."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageStat
from rich.console import Console

from codegen_chat.terminal import picture


def plot() -> Image.Image:
    """Bars, as a plot has them; no alpha below the axis."""
    drawn = Image.new("RGBA", (320, 240), (255, 255, 255, 0))
    pen = ImageDraw.Draw(drawn)
    for place, (height, colour) in enumerate(((200, "red"), (80, "green"), (140, "blue"))):
        pen.rectangle((20 + 100 * place, 230 - height, 90 + 100 * place, 230), fill=colour)
    return drawn


def sent(how: str) -> str:
    """Return what is written for the plot."""
    data = io.BytesIO()
    plot().save(data, "PNG")
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=100)
    assert picture.draw(console, data.getvalue(), how)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def alike(found: Image.Image) -> bool:
    """Tell whether a picture is the plot on paper, but for its size and some colour."""
    wanted = Image.alpha_composite(Image.new("RGBA", plot().size, "white"), plot()).convert("RGB").resize(found.size)
    return max(ImageStat.Stat(ImageChops.difference(found.convert("RGB"), wanted)).mean) < 6


def unsixeled(text: str) -> Image.Image:
    """Decode sixels."""
    found = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)(.*)\x1b\\\n', text, re.DOTALL)
    assert found
    decoded = Image.new("RGB", (int(found[1]), int(found[2])), "magenta")
    colours: dict[str, tuple[int, ...]] = {}
    x, y, colour = 0, 0, ""
    for number, definition, repeat, sign in re.findall(r"#(\d+)(?:;2;([\d;]+))?|(?:!(\d+))?([?-~$-])", found[3]):
        if definition:
            colours[number] = tuple(round(int(part) * 2.55) for part in definition.split(";"))
        elif number:
            colour = number
        elif sign == "$":
            x = 0
        elif sign == "-":
            x, y = 0, y + 6
        else:
            run = int(repeat or 1)
            for row in range(6):
                if ord(sign) - 63 >> row & 1:
                    decoded.paste(colours[colour], (x, y + row, x + run, y + row + 1))
            x += run
    return decoded


def test_kitty() -> None:
    text = sent("kitty")
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert "".join(f"\x1b_G{keys};{piece}\x1b\\" for keys, piece in pieces) + "\n" == text
    assert re.fullmatch(r"a=T,f=100,q=2,c=53,r=20,m=[01]", pieces[0][0])
    assert [keys for keys, _ in pieces[1:]] == [f"m={int(place < len(pieces))}" for place in range(2, len(pieces) + 1)]
    assert all(len(piece) <= 4096 for _, piece in pieces)
    assert alike(Image.open(io.BytesIO(base64.b64decode("".join(piece for _, piece in pieces)))))


def test_iterm() -> None:
    found = re.fullmatch(r"\x1b\]1337;File=inline=1;width=53;height=20;preserveAspectRatio=1:(.*)\x07\n", sent("iterm"))
    assert found
    assert alike(Image.open(io.BytesIO(base64.b64decode(found[1]))))


def test_sixels() -> None:
    decoded = unsixeled(sent("sixel"))
    assert decoded.size == (530, 400)
    assert alike(decoded)


def test_half_blocks() -> None:
    rows = sent("blocks").splitlines()
    cells = [re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m(▀+)", row) for row in rows]
    assert len(rows) == 20
    pixels = bytes(
        int(part) for row in cells for half in (0, 3) for *parts, run in row for _ in run for part in parts[half : half + 3]
    )
    assert alike(Image.frombytes("RGB", (53, 40), pixels))


@pytest.mark.parametrize(
    ("environment", "how"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, "blocks"),
        ({"TERM": "xterm-256color"}, "blocks"),
    ],
)
def test_what_a_terminal_can_is_read_and_not_asked(environment: dict[str, str], how: str) -> None:
    assert picture.protocol(environment) == how
