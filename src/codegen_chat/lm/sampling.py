"""How the next token is drawn from the logits: greedy, or by temperature, top-k and top-p, in that order.

Torch-free and drawn in float64, so that every step, backend and machine that agrees on the logits agrees on the token.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from codegen_chat.errors import CheckpointError, CodegenChatError
from codegen_chat.turn import Sampling

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PAPER = Sampling(temperature=0.2, top_p=0.95)
"""The sampling of the paper's multi-turn benchmark: the default of a checkpoint that does not say otherwise."""

_ONE = np.float64(1).view(np.int64)
"""The bits of 1.0: those of positive floats are in the order of the floats."""

NOTHING: Mapping[int, float] = MappingProxyType({})
"""No token is favoured."""


def defaults(folder: Path) -> Sampling:
    """Return the sampling that a checkpoint asks for in `generation_config.json` (the published ones have none: the paper's).

    `do_sample: false` is greedy, as transformers reads it. Raises CheckpointError where the file is damaged.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return PAPER
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if "do_sample" not in dict(data):
            return PAPER
        if not data["do_sample"]:
            return Sampling()
        return Sampling(float(data.get("temperature", 1.0)), float(data.get("top_p", 1.0)), int(data.get("top_k", 0)))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def draw(
    logits: NDArray[np.float32], sampling: Sampling, rng: np.random.Generator, *, favoured: Mapping[int, float] = NOTHING
) -> tuple[int, float]:
    """Draw a token from logits (V,). Return it with its natural-log probability under the untempered model.

    `favoured` tokens are drawn as if their logits were higher by so much.
    One number is taken of `rng` a draw, none for a greedy one. Raises CodegenChatError where a logit is not a number.
    """
    token = int(logits.argmax())
    peak = logits[token]  # NaN where any is NaN
    if not math.isfinite(peak):
        raise CodegenChatError("the model's logits are not finite numbers: load it in fp32, or check its weights")
    scores = logits - peak
    tilted = scores
    if favoured:
        tilted = scores.copy()
        tilted[list(favoured)] += np.fromiter(favoured.values(), np.float32)
        tilted -= tilted.max()
        token = int(tilted.argmax())
    if sampling.temperature > 0:
        possible, shares = _possible(tilted, sampling)
        # By the inverse of the distribution, in the order of the ids: rounding in the logits moves the bounds as little.
        bounds = shares.cumsum()
        place = int(bounds.searchsorted(rng.random() * bounds[-1], side="right"))
        token = int(possible[min(place, len(possible) - 1)])
    return token, float(scores[token]) - math.log(np.exp(scores).sum(dtype=np.float64))


def probabilities(scores: NDArray[np.floating], sampling: Sampling) -> NDArray[np.float64]:
    """Return the probabilities (V,) that a token is drawn with, for a temperature above 0.

    top_k keeps the k likeliest (and what ties with the last of them); of those, top_p keeps the fewest that together have its
    share, the likeliest always.
    """
    possible, shares = _possible(scores - scores.max(), sampling)
    result = np.zeros(len(scores))
    result[possible] = shares / shares.sum()
    return result


def _possible(scores: NDArray[np.floating], sampling: Sampling) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the ids that may be drawn, in order, and their shares, which need not make 1. The largest score is 0.

    A vocabulary of 50,000 takes longer to sort than a model's token to compute. So shares are added up in bins, largest first, of
    those that agree in their exponent and four bits more, and only the bin in which top_p is reached is sorted.
    """
    # Below e to the power of -45 a whole vocabulary has less of the sum than float64 can tell.
    possible = np.flatnonzero(scores > -45 * sampling.temperature)
    shares = np.exp2(scores[possible] / np.float64(sampling.temperature * math.log(2)))  # exp takes half as long again
    if 0 < sampling.top_k < len(shares):
        kept = np.flatnonzero(shares >= np.partition(shares, -sampling.top_k)[-sampling.top_k])
        possible, shares = possible[kept], shares[kept]
    if sampling.top_p < 1:
        bins = _ONE - shares.view(np.int64) >> 48
        sums = np.bincount(bins, shares).cumsum()
        wanted = sampling.top_p * sums[-1]
        last = int(sums.searchsorted(wanted))
        within = np.flatnonzero(bins == last)
        within = within[np.argsort(-shares[within], kind="stable")]  # of equals, the first ids
        upto = shares[within].cumsum() + (sums[last - 1] if last else 0)
        bins[within[1 + upto.searchsorted(wanted) :]] = last + 1
        kept = np.flatnonzero(bins <= last)
        possible, shares = possible[kept], shares[kept]
    return possible, shares
