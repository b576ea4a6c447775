"""Attention as a PNG: one heat map for a head or an average, and beside an average every head, small."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from codegen_chat.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from codegen_chat.attention.record import Attention

SMALL = 40
"""Cells along an edge of a small map: each is the strongest of its tokens."""

LABELLED = 64
"""The most tokens that stand at the axes one by one."""


def render(attention: Attention, layer: int | None = None, head: int | None = None) -> bytes:
    """Return the bytes of the PNG. Raises UsageError for a head that there is not, and where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  an extra, and heavy
    except ImportError:
        raise UsageError(
            'a picture needs matplotlib: pip install "codegen-chat[data]", or name a file that ends in .html'
        ) from None
    weights = attention.mean(layer, head)
    every = layer is None and head is None
    figure = Figure(figsize=(15 if every else 8, 8), layout="constrained")
    axes = figure.subplots(1, 2 if every else 1, squeeze=False)[0]
    _map(axes[0], attention, weights)
    where = "all layers" if layer is None else f"layer {layer}"
    axes[0].set_title(f"{attention.model}: {where}, {'all heads' if head is None else f'head {head}'}")
    if every:
        _heads(axes[1], attention)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def _map(axes: Axes, attention: Attention, weights: NDArray[np.float32]) -> None:
    """Draw a row for each token that looks, a column for each that is looked at; grey is what the mask hides."""
    count = len(attention.tokens)
    shade = np.ma.masked_where(np.triu(np.ones((count, count), dtype=bool), 1), np.sqrt(weights / weights.max(1, keepdims=True)))
    axes.set_facecolor("#dddddd")
    axes.imshow(shade, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    if count <= LABELLED:
        names = [ascii(token)[1:-1].replace("$", r"\$").replace(" ", "␣") for token in attention.tokens]
        axes.set_xticks(range(count), names, rotation=90, fontsize=7, family="monospace")
        axes.set_yticks(range(count), names, fontsize=7, family="monospace")
    elif len(attention.parts) > 1:
        middles = [(part.start + part.end - 1) / 2 for part in attention.parts]
        axes.set_xticks(middles, [part.name for part in attention.parts], rotation=90, fontsize=8)
        axes.set_yticks(middles, [part.name for part in attention.parts], fontsize=8)
    for part in attention.parts[1:]:
        axes.axhline(part.start - 0.5, color="white", linewidth=0.6)
        axes.axvline(part.start - 0.5, color="white", linewidth=0.6)
    axes.set(xlabel="looked at", ylabel="looking")


def _heads(axes: Axes, attention: Attention) -> None:
    """Draw every head as a tile of one picture."""
    layers, heads, count, _ = attention.weights.shape
    begins = np.arange(0, count, -(-count // SMALL))
    small = np.maximum.reduceat(np.maximum.reduceat(attention.weights, begins, axis=2), begins, axis=3)
    edge = len(begins)
    tiles = np.full((layers, heads, edge + 1, edge + 1), np.nan, dtype=np.float32)
    tiles[..., :edge, :edge] = np.sqrt(small / small.max(axis=3, keepdims=True))
    tiles[..., :edge, :edge][..., np.triu(np.ones((edge, edge), dtype=bool), 1)] = np.nan
    axes.set_facecolor("#dddddd")
    axes.imshow(
        tiles.transpose(0, 2, 1, 3).reshape(layers * (edge + 1), -1), cmap="viridis", vmin=0, vmax=1, interpolation="nearest"
    )
    axes.set_xticks([(edge + 1) * (h + 0.5) for h in range(heads)], [str(h) for h in range(heads)])
    axes.set_yticks([(edge + 1) * (layer + 0.5) for layer in range(layers)], [str(layer) for layer in range(layers)])
    axes.set(title="every head", xlabel="head", ylabel="layer")
