"""What a model looked at: the weights of every head, the text's tokens, and the parts of the conversation that they lie in.

Layers, heads and tokens are counted from 0, as in the arrays; turns from 1, as on the screen.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Literal

from codegen_chat.errors import UsageError
from codegen_chat.prompt import HEADER, comment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from codegen_chat.turn import Turn

Kind = Literal["header", "words", "code"]
Piece = tuple[int, Kind, str]
"""A turn's number (0: none), what the text is of it, and the text."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the text: the tokens from `start` to before `end`. `turn` is its number, 0 for the header."""

    turn: int
    kind: Kind
    start: int
    end: int

    @property
    def name(self) -> str:
        """What to call it."""
        return f"[{self.turn}] {self.kind}" if self.turn else self.kind

    @property
    def asking(self) -> slice:
        """The positions from which its tokens were predicted: each looks back from the one before it."""
        first = max(self.start - 1, 0)
        return slice(first, max(self.end - 1, first + 1))


@dataclass(frozen=True, slots=True)
class Attention:
    """A text of T tokens and how much each of them attends to each, in every head.

    Attributes:
        model: its name.
        tokens: the tokens' texts; bytes that are no whole character as escapes.
        parts: the stretches of the text, in order and without gaps.
        weights: float32 (layers, heads, T, T); `[l, h, i, j]` is the share of token i's attention that token j gets. Each row
            sums to 1. Token i may attend to the tokens 0 to i and to no later one (the causal mask): those are 0.
    """

    model: str
    tokens: tuple[str, ...]
    parts: tuple[Part, ...]
    weights: NDArray[np.float32]

    def mean(self, layer: int | None = None, head: int | None = None) -> NDArray[np.float32]:
        """Return the weights (T, T) of a head; None is the average over all layers, or over all heads.

        Raises UsageError for a layer or a head that there is not.
        """
        chosen = self.weights
        for axis, (name, number) in enumerate((("layer", layer), ("head", head))):
            count = self.weights.shape[axis]
            if number is not None and not 0 <= number < count:
                raise UsageError(f"there is no {name} {number}: {self.model} has {name}s 0 to {count - 1}")
            if number is not None:
                chosen = chosen.take([number], axis=axis)
        averaged: NDArray[np.float32] = chosen.mean(axis=(0, 1))
        return averaged

    def back(self, part: Part, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how much the tokens of a part looked back to each part while they were predicted, (parts,), in sum 1.

        `weights` (T, T) are those of `mean`.
        """
        import numpy as np  # noqa: PLC0415  every session imports this module, few look back

        asked = weights[part.asking].mean(axis=0)
        shares: NDArray[np.float32] = np.add.reduceat(asked, [each.start for each in self.parts])
        return shares


def pieces(numbered: Sequence[tuple[int, Turn]]) -> Iterator[Piece]:
    """Split a conversation, as `prompt.render` writes it, into its parts, each turn with its number."""
    yield 0, "header", HEADER
    for number, turn in numbered:
        yield number, "words", comment(turn.text)
        yield number, "code", turn.code.rstrip() + "\n\n"


def split(text: str) -> Iterator[Piece]:
    """Split any text as if it were a conversation: lines of comments are a turn's words, those after them its code."""
    if text.startswith(HEADER):
        yield 0, "header", HEADER
        text = text.removeprefix(HEADER)
    turn = 0
    for words, lines in groupby(text.splitlines(keepends=True), key=lambda line: line.startswith("#")):
        turn += words or turn == 0
        yield turn, "words" if words else "code", "".join(lines)


def parts(pieces: Sequence[Piece], tokens: Sequence[bytes]) -> tuple[Part, ...]:
    """Find the tokens of each piece. A token belongs where its first byte lies; a piece in which none begins is no part."""
    begins = [0, *accumulate(map(len, tokens))][:-1]
    found: list[Part] = []
    offset = start = 0
    for turn, kind, text in pieces:
        offset += len(text.encode("utf-8", "replace"))
        end = bisect_left(begins, offset)
        if end > start:
            found.append(Part(turn, kind, start, end))
        start = end
    return tuple(found)
