"""How the next token is drawn from the logits: greedy, or by temperature, top-k and top-p, in that order.

Torch-free and drawn in float64, so that every step, backend and machine that agrees on the logits agrees on the token.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from codegen_chat.errors import CheckpointError, CodegenChatError
from codegen_chat.turn import Sampling

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PAPER = Sampling(temperature=0.2, top_p=0.95)
"""The sampling of the paper's multi-turn benchmark: the default of a checkpoint that does not say otherwise."""


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


def draw(logits: NDArray[np.float32], sampling: Sampling, rng: np.random.Generator) -> tuple[int, float]:
    """Draw a token from logits (V,). Return it with its natural-log probability under the untempered model.

    One number is taken of `rng` a draw, none for a greedy one. Raises CodegenChatError where a logit is not a number.
    """
    peak = logits.max()  # NaN where any is NaN
    if not np.isfinite(peak):
        raise CodegenChatError("the model's logits are not finite numbers: load it in fp32, or check its weights")
    scores = logits - peak
    if sampling.temperature <= 0:
        token = int(scores.argmax())
    else:
        shares = probabilities(scores.astype(np.float64), sampling)
        # By the inverse of the distribution, in the order of the ids: rounding in the logits moves the bounds as little.
        bounds = shares.cumsum()
        token = int(bounds.searchsorted(rng.random() * bounds[-1], side="right"))
        token = min(token, int(shares.nonzero()[0][-1]))
    return token, float(scores[token]) - float(np.log(np.exp(scores).sum(dtype=np.float64)))


def probabilities(scores: NDArray[np.float64], sampling: Sampling) -> NDArray[np.float64]:
    """Return the probabilities (V,) that a token is drawn with, for a temperature above 0.

    top_k keeps the k likeliest (and what ties with the last of them); of those, top_p keeps the fewest that together have its
    share, the likeliest always.
    """
    shares = np.exp((scores - scores.max()) / sampling.temperature)
    if 0 < sampling.top_k < len(shares):
        shares[shares < np.partition(shares, -sampling.top_k)[-sampling.top_k]] = 0
    if sampling.top_p < 1:
        shares = _nucleus(shares, sampling.top_p)
    total: NDArray[np.float64] = shares / shares.sum()
    return total


def _nucleus(shares: NDArray[np.float64], top_p: float) -> NDArray[np.float64]:
    """Keep the fewest shares that together make `top_p` of all, the largest always; of equal ones the first. The rest is 0.

    Only as many are sorted as it takes: a vocabulary of 50,000 takes longer to sort than a small model to run.
    """
    enough, count = top_p * shares.sum(), 32
    while True:
        count = min(8 * count, len(shares))
        some = np.flatnonzero(shares >= np.partition(shares, -count)[-count])
        order = some[np.argsort(-shares[some], kind="stable")]
        reached = np.cumsum(shares[order])
        if reached[-1] >= enough or count == len(shares):
            kept = order[: 1 + int(np.searchsorted(reached, enough))]
            nucleus = np.zeros_like(shares)
            nucleus[kept] = shares[kept]
            return nucleus
