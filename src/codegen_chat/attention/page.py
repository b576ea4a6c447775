"""One self-contained HTML page: hover a token and see what it looks at, choose layer and head. It asks nothing of the network."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import asdict
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from codegen_chat.errors import UsageError

if TYPE_CHECKING:
    from codegen_chat.attention.record import Attention

MOST = 64_000_000
"""Weights that a page may hold; a browser unpacks two bytes of each."""


def render(attention: Attention) -> str:
    """Return the page. A weight is stored in 16 bits, to 1/131070 exactly. Raises UsageError where there are too many."""
    layers, heads, count, _ = attention.weights.shape
    if layers * heads * count * (count + 1) // 2 > MOST:
        raise UsageError(f"a page of {count} tokens in {layers * heads} heads is more than a browser bears: shorten the text")
    below = np.tril_indices(count)
    rows = b"".join(np.rint(head[below] * 65535).astype("<u2").tobytes() for layer in attention.weights for head in layer)
    data = {
        "model": attention.model,
        "tokens": attention.tokens,
        "parts": [asdict(part) | {"name": part.name} for part in attention.parts],
        "layers": layers,
        "heads": heads,
        "weights": base64.b64encode(zlib.compress(rows)).decode("ascii"),
    }
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    before, after = template.split("DATA", 1)
    return before + json.dumps(data).replace("<", "\\u003c") + after  # no text of a token ends the script
