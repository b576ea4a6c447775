"""Attention as a file, by the name's ending."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codegen_chat.attention import page, picture
from codegen_chat.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from codegen_chat.attention.record import Attention


def write(attention: Attention, path: Path, layer: int | None = None, head: int | None = None) -> None:
    """Write a page (.html, all heads; they are chosen in it) or a picture (.png, of one head or an average).

    Raises UsageError for another ending, a head that there is not, and a file that cannot be written.
    """
    match path.suffix:
        case ".html":
            data = page.render(attention).encode("utf-8")
        case ".png":
            data = picture.render(attention, layer, head)
        case _:
            raise UsageError(f"{path}: attention is written to a file that ends in .html or .png")
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
