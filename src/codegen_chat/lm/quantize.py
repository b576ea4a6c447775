"""int8 and int4 of matrices, how weights are stored small. The native step computes with them as they are.

int8 has a scale a row. int4 has one for each GROUP columns of a row, two numbers a byte, the first in the lower half, plus 8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from codegen_chat.lm.native import GROUP, round_int4

if TYPE_CHECKING:
    from numpy.typing import NDArray


def to_int8(weight: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return weight (R, C) as int8 (R, C) and scales (R,): weight is int8 times scale, off by half a scale at most."""
    exact = weight.astype(np.float32)
    scale = np.abs(exact).max(axis=1) / np.float32(127)
    exact /= np.maximum(scale, np.finfo(np.float32).tiny)[:, None]
    return np.clip(np.rint(exact, out=exact), -127, 127).astype(np.int8), scale


def to_int4(weight: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return weight (R, C) as int4, see `packed_shape`, and the scales (R, groups); a scale has the sign that its peak asks for.

    Of nine scales, by which the largest number lands between -8.4 and -6.8, that with the least squared error is taken. What it
    gives is kept by rounding once more: stored and loaded, it stays what it is. Raises UsageError without the native step.
    """
    return round_int4(np.ascontiguousarray(weight, dtype=np.float32))


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
