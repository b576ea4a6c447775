"""How likely a model finds a text: natural-log probabilities of its tokens, each after those before it.

The first token of a text is given, not predicted, as in transformers' loss. Torch-free: the logits come from the engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codegen_chat.api import Model


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of a text: the sum of its tokens' natural-log probabilities, how many were predicted, and how many bytes they have."""

    logprob: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        """The mean negative log probability of a token, transformers' loss."""
        return -self.logprob / self.tokens if self.tokens else 0.0

    @property
    def perplexity(self) -> float:
        """What a token's choice is as hard as: this many equally likely ones."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """The same independent of the vocabulary."""
        return -self.logprob / math.log(2) / self.bytes if self.bytes else 0.0


def logprobs(model: Model, ids: Sequence[int]) -> NDArray[np.float64]:
    """Return the log probabilities (T - 1,) of T tokens but the first, T at most the window."""
    logits = model.logits(ids)[:-1]
    logits -= logits.max(axis=1, keepdims=True)
    chosen = logits[np.arange(len(logits)), np.asarray(ids[1:], dtype=np.int64)].astype(np.float64)
    scores: NDArray[np.float64] = chosen - np.log(np.exp(logits, out=logits).sum(axis=1, dtype=np.float64))
    return scores


def likelihood(model: Model, text: str) -> Likelihood:
    """Measure a whole text.

    What is longer than the window is read through it in steps of half a window: each token is counted once, after half a window
    at least of what stands before it.
    """
    ids = model.tokenizer.encode(text)
    window, total, counted = model.engine.window, 0.0, 0
    place = 1
    while place < len(ids):
        start = 0 if place == 1 else place - window // 2
        scores = logprobs(model, ids[start : start + window])[place - start - 1 :]
        total += float(scores.sum())
        counted += len(scores)
        place += len(scores)
    return Likelihood(total, counted, sum(len(model.tokenizer.token_bytes(token)) for token in ids[1:]))


def of_parts(model: Model, text: str, parts: Sequence[tuple[int, int]]) -> float | None:
    """Return the perplexity of parts of a text (characters from, to), each after all before it; None where it does not fit.

    A token counts for the part that it begins in.
    """
    ids = model.tokenizer.encode(text)
    if len(ids) > model.engine.window or len(ids) < 2:
        return None
    ends = np.cumsum([len(model.tokenizer.token_bytes(token)) for token in ids])
    starts = (ends - [len(model.tokenizer.token_bytes(token)) for token in ids])[1:]
    scores = logprobs(model, ids)
    within = np.zeros(len(scores), dtype=bool)
    for start, end in parts:
        first, last = len(text[:start].encode()), len(text[:end].encode())
        within |= (starts >= first) & (starts < last)
    return math.exp(min(-float(scores[within].mean()), 700.0)) if within.any() else None
