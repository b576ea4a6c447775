"""int8 storage of a matrix, one scale a row: for the embedded model's file. What is loaded computes in floating point again."""

from __future__ import annotations

import torch
from torch import Tensor


def to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight (R, C) as int8 (R, C) and float32 scales (R,): weight ≈ int8 · scale, off by half a scale at most."""
    scale = weight.float().abs().amax(dim=1) / 127
    rows = weight.float() / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    return rows.round().clamp(-127, 127).to(torch.int8), scale
