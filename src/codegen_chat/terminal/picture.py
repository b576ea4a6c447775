"""A picture in the terminal, where it can: by kitty's protocol, iTerm2's, sixels, or half blocks of colour."""

from __future__ import annotations

import base64
import io
import os
from typing import TYPE_CHECKING

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType

from codegen_chat.session.picture import LARGEST

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import RenderableType

MOST_PIXELS = 1 << 25
ROWS, COLUMNS = 20, 76


def draw(console: Console, data: bytes, how: str) -> bool:
    """Draw a picture at most ROWS high; `how` as the setting `plots` says. Returns whether that was possible."""
    if console.color_system is None or len(data) > LARGEST or how == "off":
        return False
    if how == "auto" and os.environ.get("TERM_PROGRAM") in {"iTerm.app", "WezTerm"}:
        how = "iterm"
    # The picture comes from code that nobody has read: it is decoded, and what is sent on is our own encoding of its pixels.
    from PIL import Image as pillow  # noqa: N813, PLC0415  only who plots waits for it
    from PIL import UnidentifiedImageError  # noqa: PLC0415

    try:
        with pillow.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                return False
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, pillow.DecompressionBombError):
        return False
    picture.thumbnail((1600, 1200))
    if how == "iterm":
        encoded = io.BytesIO()
        picture.save(encoded, "PNG")
        payload = base64.b64encode(encoded.getvalue()).decode()
        console.control(Control((ControlType.CARRIAGE_RETURN,)))
        console.file.write(f"\x1b]1337;File=inline=1;height={ROWS};preserveAspectRatio=1:{payload}\x07\n")
        console.file.flush()
        return True
    height = min(ROWS, max(4, round(COLUMNS * picture.height / picture.width / 2)))
    console.print(_renderable(picture, how, height), end="")
    return True


def _renderable(picture: Image, how: str, height: int) -> RenderableType:
    from textual_image import renderable  # noqa: PLC0415  it asks the terminal what it can when it is imported

    match how:
        case "kitty":
            return renderable.TGPImage(picture, height=height)
        case "sixel":
            return renderable.SixelImage(picture, height=height)
        case "blocks":
            return renderable.HalfcellImage(picture, height=height)
    return renderable.Image(picture, height=height)
