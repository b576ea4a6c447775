"""Speculation by lookup: what followed these tokens before in the conversation is likely to follow them again.

Names and literals repeat, so the step is given some tokens more than it must, and where they are what is drawn, their logits are
there already. Nothing else changes: tokens are drawn one by one from the same logits, with the same random numbers. Whether it
pays depends on the model, the machine and the text, so it is measured, and left off while it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PROPOSED = 4
"""Tokens that are run ahead: five cost a large model little more than one, and longer guesses are seldom right to the end."""

TRIALS = 4
"""Runs of either kind, recent ones, that a verdict needs."""

FADING = 0.98
"""What counts of a run after the next one: some fifty runs make the verdict, and after as many it is looked at anew."""


@dataclass(slots=True)
class _Cost:
    """Recent runs of a kind: how many, the tokens that they gave, and their seconds. All of it fades."""

    runs: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0

    def fade(self) -> None:
        self.runs *= FADING
        self.tokens *= FADING
        self.seconds *= FADING

    def add(self, seconds: float) -> None:
        self.runs += 1
        self.tokens += 1
        self.seconds += seconds


class Lookup:
    """Proposes tokens, and knows by what `ran` and `served` tell whether proposals pay."""

    def __init__(self) -> None:
        self._plain = _Cost()
        self._ahead = _Cost()
        self._after: dict[tuple[int, int], int] = {}
        self._read = 0

    def begin(self) -> None:
        """Forget the tokens that were read: another text begins. What was measured stays."""
        self._after.clear()
        self._read = 0

    @property
    def pays(self) -> bool:
        """Whether a proposal is expected to save time, or should be tried."""
        if self._plain.runs < TRIALS:
            return False
        return self._ahead.runs < TRIALS or self._ahead.seconds * self._plain.tokens < self._plain.seconds * self._ahead.tokens

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Return what followed the last two of these tokens the last time that they stood together: `most` tokens, or fewer."""
        for end in range(max(2, self._read), len(tokens)):  # the last pair is what is asked for
            self._after[tokens[end - 2], tokens[end - 1]] = end
        self._read = len(tokens)
        if len(tokens) < 2 or not self.pays:
            return []
        # A text may have been cut and written anew since it was read, so what is found is looked at again.
        at = self._after.get((tokens[-2], tokens[-1]), len(tokens))
        if at >= len(tokens) or tokens[at - 2] != tokens[-2] or tokens[at - 1] != tokens[-1]:
            return []
        return list(tokens[at : at + min(most, PROPOSED)])

    def ran(self, proposed: int, seconds: float) -> None:
        """Note a run of one token and so many proposed ones."""
        self._plain.fade()
        self._ahead.fade()
        (self._ahead if proposed else self._plain).add(seconds)

    def served(self) -> None:
        """Note that a proposed token was drawn: the model need not run for it."""
        self._ahead.tokens += 1
