"""int8 and int4 of matrices, in numpy: how weights are stored small. The native step computes with them as they are.

int8 has a scale a row. int4 has one for each GROUP columns of a row, two numbers a byte, the first in the lower half, plus 8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from codegen_chat.lm.native import GROUP

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRIALS = np.float32(-8.4) + np.float32(0.2) * np.arange(9, dtype=np.float32)
"""Where the number that is largest may land in int4: of these scales that with the least squared error is taken."""


def to_int8(weight: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return weight (R, C) as int8 (R, C) and scales (R,): weight is int8 times scale, off by half a scale at most."""
    exact = weight.astype(np.float32)
    scale = np.abs(exact).max(axis=1) / np.float32(127)
    exact /= np.maximum(scale, np.finfo(np.float32).tiny)[:, None]
    return np.clip(np.rint(exact, out=exact), -127, 127).astype(np.int8), scale


def to_int4(weight: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return weight (R, C) as int4, see `packed_shape`, and the scales (R, groups); a scale has the sign that its peak asks for.

    The rule is the native step's, and what it gives is kept by rounding once more: stored and loaded, it stays what it is.
    """
    groups = _grouped(weight)
    most, least = groups.max(axis=2), groups.min(axis=2)
    peak = np.where(-least >= most, least, most)
    best, error = np.zeros_like(peak), np.full_like(peak, np.inf)
    whole = np.empty_like(groups)
    for place in TRIALS:
        scale = peak / place
        off = np.subtract(np.multiply(_round(groups, scale, whole), scale[..., None], out=whole), groups, out=whole)
        total = np.einsum("rgc,rgc->rg", off, off)
        better = total < error
        np.copyto(best, scale, where=better)
        np.copyto(error, total, where=better)
    numbers: NDArray[np.uint8] = (_round(groups, best, whole) + 8).astype(np.uint8).reshape(len(weight), -1)
    return np.bitwise_or(numbers[:, ::2], numbers[:, 1::2] * np.uint8(16)), best


def from_int4(packed: NDArray[np.uint8], scales: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """Return float32 (R, columns) of packed int4."""
    numbers = np.empty((len(packed), packed.shape[1] * 2), dtype=np.float32)
    numbers[:, ::2], numbers[:, 1::2] = packed & 15, packed >> 4
    numbers -= 8
    numbers.reshape(*scales.shape, GROUP)[...] *= scales[..., None]
    return numbers[:, :columns]


def packed_shape(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape of a matrix (R, C) as packed int4, (R, C / 2) with C filled up to whole groups, and of its scales."""
    if len(shape) != 2:
        return shape, shape[:1]
    groups = -(-shape[1] // GROUP)
    return (shape[0], groups * GROUP // 2), (shape[0], groups)


def _grouped(weight: NDArray[Any]) -> NDArray[np.float32]:
    """Return (R, groups, GROUP), filled up with zeros."""
    rows, columns = weight.shape
    groups = np.zeros((rows, -(-columns // GROUP) * GROUP), dtype=np.float32)
    groups[:, :columns] = weight
    return groups.reshape(rows, -1, GROUP)


def _round(groups: NDArray[np.float32], scale: NDArray[np.float32], out: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round groups to the whole numbers of their scales."""
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    np.rint(np.multiply(groups, inverse[..., None], out=out), out=out)
    return np.clip(out, -8, 7, out=out)
