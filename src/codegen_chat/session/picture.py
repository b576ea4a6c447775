"""A picture that code drew: bytes that say themselves what they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

LARGEST = 8 << 20
"""Bytes of a picture that is kept or drawn: a page with more does not open."""

_STARTS = {
    rb"\x89PNG\r\n\x1a\n": "image/png",
    rb"\xff\xd8\xff": "image/jpeg",
    rb"GIF8": "image/gif",
    rb"BM": "image/bmp",
    rb"RIFF.{4}WEBP": "image/webp",
}
_SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp"}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture's file name, its media type, its bytes."""

    name: str
    kind: str
    data: bytes


def is_picture(name: str) -> bool:
    """Tell by its name whether a file may be a picture."""
    return PurePosixPath(name).suffix.lower() in _SUFFIXES


def picture(name: str, data: bytes | None) -> Picture | None:
    """Return the picture that these bytes are, whatever the name says; None for no picture, or one too large."""
    if data is None or len(data) > LARGEST:
        return None
    kind = next((kind for start, kind in _STARTS.items() if re.match(start, data, re.DOTALL)), None)
    return Picture(PurePosixPath(name).name, kind, data) if kind else None
