"""int8 and int4 of matrices, in numpy: how weights are stored small. The native step computes with them as they are.

int8 has a scale a row. int4 has one for each GROUP columns of a row, two numbers a byte, the first in the lower half, plus 8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from codegen_chat.lm.native import GROUP

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRIALS = [-8.4 + 0.2 * trial for trial in range(9)]
"""Where the number that is largest may land in int4: of these scales that with the least squared error is taken."""


def to_int8(weight: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return weight (R, C) as int8 (R, C) and scales (R,): weight is int8 times scale, off by half a scale at most."""
    exact = weight.astype(np.float32)
    scale = np.abs(exact).max(axis=1) / np.float32(127)
    exact /= np.maximum(scale, np.finfo(np.float32).tiny)[:, None]
    return np.clip(np.rint(exact, out=exact), -127, 127).astype(np.int8), scale


def to_int4(weight: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return weight (R, C) as int4, see `packed_shape`, and the scales of its groups; a scale has the sign that its peak asks for.

    The rounding is that of the native step, so what is stored and loaded computes what packing at load would.
    """
    groups = _grouped(weight)
    most, least = groups.max(axis=2), groups.min(axis=2)
    peak = np.where(-least >= most, least, most)
    best, error = np.zeros_like(peak), np.full_like(peak, np.inf)
    for place in TRIALS:
        scale = peak / np.float32(place)
        off = groups - _whole(groups, scale) * scale[..., None]
        total = np.einsum("rgc,rgc->rg", off, off)
        better = total < error
        best, error = np.where(better, scale, best), np.where(better, total, error)
    numbers = (_whole(groups, best) + 8).astype(np.uint8).reshape(len(weight), -1)
    return numbers[:, ::2] | numbers[:, 1::2] << 4, best


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


def _whole(groups: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round groups to the whole numbers of their scales."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(scale == 0, 0, 1 / scale)
    scaled = groups * inverse[..., None].astype(np.float32)
    whole: NDArray[np.float32] = np.clip(np.rint(scaled, out=scaled), -8, 7, out=scaled)
    return whole
