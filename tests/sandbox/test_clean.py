"""Nothing that steers a terminal gets through, however it is cut into pieces; ordinary text does."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_chat.sandbox.clean import Cleaner, clean

STEERING = {"Cc", "Cs", "Zl", "Zp"}
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def unsafe(text: str) -> list[str]:
    return [char for char in text if char not in "\n\t" and (unicodedata.category(char) in STEERING or char in BIDI)]


anything = st.text(st.characters(exclude_categories=()) | st.sampled_from("\x1b\x07\x9b\x9d\r\n\b\0\u202e[]0;m"))


@given(anything)
def test_no_character_that_steers_gets_through(text: str) -> None:
    assert not unsafe(clean(text))


@given(st.binary(max_size=200) | anything.map(lambda text: text.encode("utf-8", "surrogatepass")), st.lists(st.integers(0, 200)))
def test_pieces_clean_as_the_whole_does(data: bytes, cuts: list[int]) -> None:
    whole = clean(data.decode("utf-8", "replace"))
    cleaner = Cleaner()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [cleaner.feed(data[begin:end]) for begin, end in itertools.pairwise(edges)]
    assert "".join([*pieces, cleaner.feed(b"", last=True)]) == whole
    assert not unsafe(whole)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_ordinary_text_comes_through_as_it_is(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b]0;title\x07", "␛]0;title␇"),
        ("\x1b[2Jx", "␛[2Jx"),
        ("\x9b31m", "\ufffd31m"),
        ("12%\r99%\r\n", "12%\n99%\n"),
        ("user\u202etxt.exe", "user\ufffdtxt.exe"),
        ("naïve 数 👩‍💻 ١٢٣\tx\n", "naïve 数 👩‍💻 ١٢٣\tx\n"),
    ],
)
def test_examples(raw: str, shown: str) -> None:
    assert clean(raw) == shown
