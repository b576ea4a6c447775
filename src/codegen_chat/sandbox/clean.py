"""Text from behind the wall, made fit for a terminal: what could move the cursor, ring, hide or reorder is shown as a symbol.

A character is mapped by itself alone, so no sequence can be split over two pieces to get through.
"""

from __future__ import annotations

import codecs

_TAB, _NEWLINE, _RETURN, _DELETE = 0x09, 0x0A, 0x0D, 0x7F
_PICTURES = 0x2400  # Unicode's symbols for the control characters: U+241B for ESC
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"

_TABLE: dict[int, str] = {code: chr(_PICTURES + code) for code in range(0x20) if code not in (_TAB, _NEWLINE)}
_TABLE[_RETURN] = "\n"
_TABLE[_DELETE] = "\N{SYMBOL FOR DELETE}"
_TABLE |= dict.fromkeys(range(0x80, 0xA0), _UNKNOWN)  # C1: 0x9B is a CSI to some terminals
_TABLE |= dict.fromkeys([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x2070)], _UNKNOWN)  # bidi
_TABLE |= dict.fromkeys([0x2028, 0x2029, *range(0xFFF9, 0xFFFC)], _UNKNOWN)  # separators, interlinear annotation
_TABLE |= dict.fromkeys(range(0xE0000, 0xE0020), _UNKNOWN)  # language tags
_TABLE |= dict.fromkeys(range(0xD800, 0xE000), _UNKNOWN)  # surrogates cannot be written at all


def clean(text: str) -> str:
    """Return text that is safe to print: newline and tab are the only control characters left."""
    return text.replace("\r\n", "\n").translate(_TABLE)


class Cleaner:
    """Decodes and cleans a stream of bytes, piece by piece."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, piece: bytes, *, last: bool = False) -> str:
        """Return the clean text that these bytes complete. A carriage return waits for what follows it."""
        text = self._held + self._decoder.decode(piece, last)
        self._held = ""
        if text.endswith("\r") and not last:
            text, self._held = text[:-1], "\r"
        return clean(text)
