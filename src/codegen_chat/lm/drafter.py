"""Speculation by a draft model: a smaller model of the same vocabulary goes on with the text, and the larger one checks it.

Its cache follows the conversation as the large model's does, by `Engine.prefill`: what it holds is compared with the text, and
the difference is run. So an undo, a retry, and all that was said while it rested need no code here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from codegen_chat.lm.engine import Engine

SURE = 0.3
"""The probability that a token has for the small model to go on after it: what it writes after a guess is seldom right."""


class Drafter:
    """Proposes what another engine would write, greedily. Their vocabularies must be the same, which the caller sees to."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self) -> None:
        """Do nothing: what is held is compared with whatever comes."""

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Return `most` tokens, or those up to the first one that is a guess; none past the small model's own window."""
        if len(tokens) + most > self._engine.window:
            return []
        proposed: list[int] = []
        sure = True
        while sure and len(proposed) < most:
            logits, _ = self._engine.prefill([*tokens, *proposed])
            known = logits[: len(self._engine.tokenizer)]
            proposed.append(int(known.argmax()))
            sure = bool(np.exp(known - known.max()).sum() < 1 / SURE)
        return proposed
