"""Where tensors lie in files, and safetensors read and written: a tensor is a place, read when it is asked for. No torch.

They are read by rows where that is enough, so the peak of memory is a piece. Nothing is mapped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codegen_chat.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

TYPES = {
    name: np.dtype(kind)
    for name, kind in zip(
        ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"),
        ("<f8", "<f4", "<f2", "<u2", "<i8", "<i4", "<i2", "i1", "<u8", "<u4", "<u2", "u1", "?"),
        strict=True,
    )
}
"""What safetensors calls a number, and how numpy reads it; bfloat16 has the upper half of a float32's bits."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in a file, from the byte `offset` on, one row after the other."""

    path: Path
    kind: str
    shape: tuple[int, ...]
    offset: int
    turned: bool = False
    """Whether a matrix lies there by columns."""

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return the tensor, or its rows `start` to `stop`, as stored, but bfloat16 as float32."""
        number = TYPES[self.kind]
        if self.turned:
            wide = Place(self.path, self.kind, self.shape[::-1], self.offset)
            return np.ascontiguousarray(wide.read().T[start:stop])
        row = math.prod(self.shape[1:])
        rows = len(range(*slice(start, stop).indices(self.shape[0]))) if self.shape else 1
        array = np.fromfile(self.path, number, rows * row, offset=self.offset + start * row * number.itemsize)
        if len(array) != rows * row:
            raise CheckpointError(f"{self.path} is damaged or cut short")
        if self.kind == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return array.reshape(rows, *self.shape[1:]) if self.shape else array.reshape(())


def safetensors(path: Path) -> dict[str, Place]:
    """Return the tensors of a safetensors file: the length of a header in eight bytes, a JSON header, the rest."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(min(length, 100_000_000)))
        header.pop("__metadata__", None)
        return {key: _place(path, entry, 8 + length, size) for key, entry in header.items()}
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged or cut short: {first_line(error)}") from None


def _place(path: Path, entry: dict[str, Any], base: int, size: int) -> Place:
    kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    if kind not in TYPES or not whole:
        raise ValueError(f"a tensor of {kind!r}, shape {shape}")
    if end - begin != math.prod(shape) * TYPES[kind].itemsize or base + end > size:
        raise ValueError(f"a tensor that ends at byte {base + end} of {size}")
    return Place(path, kind, shape, base + begin)


def write_safetensors(
    path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], pieces: Iterator[NDArray[Any]], metadata: dict[str, str]
) -> Iterator[int]:
    """Write a file piece by piece: `tensors` are the kind and shape of each key, `pieces` their rows in that order.

    Yields the number of bytes after each piece. The header is filled up so that the tensors begin at a multiple of eight.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for key, (kind, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * TYPES[kind].itemsize
        header[key] = {"dtype": kind, "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        written = 0
        for piece in pieces:
            file.write(np.ascontiguousarray(piece).data)
            written += piece.nbytes
            yield written
    if written != end:
        raise AssertionError(f"{written} bytes were written for tensors of {end}")
