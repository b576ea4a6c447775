"""Speculation by lookup: what followed these tokens before in the conversation is likely to follow them again.

Names and literals repeat, and to look them up costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence


class Lookup:
    """Proposes what followed the last two tokens of a text the last time that they stood together there."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, int], int] = {}
        self._read = 0

    def begin(self) -> None:
        """Forget the tokens that were read."""
        self._after.clear()
        self._read = 0

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Return `most` tokens, fewer or none."""
        for end in range(max(2, self._read), len(tokens)):  # the last pair is what is asked for
            self._after[tokens[end - 2], tokens[end - 1]] = end
        self._read = len(tokens)
        if len(tokens) < 2:
            return []
        # A text may have been cut and written anew since it was read, so what is found is looked at again.
        at = self._after.get((tokens[-2], tokens[-1]), len(tokens))
        if at >= len(tokens) or tokens[at - 2] != tokens[-2] or tokens[at - 1] != tokens[-1]:
            return []
        return list(tokens[at : at + most])
