"""Tensors in files, as numpy arrays: safetensors, the hub's `pytorch_model.bin`, and shards of either. Only pickles need torch.

Reading is strict. A tensor that is missing, of a wrong shape or unknown is refused in one line that names it; only the buffers
that come and go between versions of transformers are ignored. A file's header says where its tensors lie, and they are read when
they are asked for, by rows where that is enough: the peak is what is made of them, and a piece of the largest. Nothing is mapped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codegen_chat.errors import CheckpointError, first_line
from codegen_chat.lm.quantize import from_int4, packed_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from codegen_chat.lm.config import Config

SINGLE = "model.safetensors"
PICKLED = "pytorch_model.bin"
SCALE = ".scale"
"""The suffix of a key that holds the scales of the int8 or int4 matrix named before it: one a row, or one a group of a row."""

_IGNORED = re.compile(r"transformer\.(h\.\d+\.attn\.(bias|masked_bias|causal_mask|embed_positions)|embed_positions)")
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


def _sharded(index: Path) -> dict[str, Place]:
    """Return the tensors of several files of one kind, with an index that says which key lies in which."""
    read = safetensors if index.name.startswith(SINGLE) else _pickled
    try:
        where: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(where.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of shards: {first_line(error)}") from None
    shards: dict[str, dict[str, Place]] = {}
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:  # an index names its neighbours, never a path
            raise CheckpointError(f"{index} names a shard outside its folder: {name!r}")
        shards[name] = read(index.parent / name)
    for key, name in where.items():
        if key not in shards[name]:
            raise CheckpointError(f"{index.parent / name} lacks the tensor {key} that its index puts there")
    return {key: shards[name][key] for key, name in where.items()}


def _pickled(path: Path) -> dict[str, Place]:
    from codegen_chat.lm.checkpoint import pickled  # noqa: PLC0415  torch, for pickles only

    return pickled(path)


LAYOUTS: dict[str, Callable[[Path], dict[str, Place]]] = {
    SINGLE: safetensors,
    SINGLE + ".index.json": _sharded,
    PICKLED: _pickled,
    PICKLED + ".index.json": _sharded,
}
"""What a folder may hold, by the name of the file that is read first."""


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


class Weights:
    """The weights of a checkpoint's folder, under their published names, checked against its config.

    Raises CheckpointError in one line where they do not hold the model that the config describes.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        found = next((name for name in LAYOUTS if (folder / name).exists()), None)
        if found is None:
            raise CheckpointError(f"{folder} holds no weights: none of {', '.join(LAYOUTS)}{_instead(folder)}")
        self.config = config
        self.places = LAYOUTS[found](folder / found)
        self._shapes = shapes(config)
        self._check(folder)

    def _check(self, folder: Path) -> None:
        """Refuse a tensor that is missing, of a wrong shape, or unknown."""
        places, wanted = self.places, self._shapes
        if missing := [key for key in wanted if key not in places]:
            raise CheckpointError(f"{folder} lacks the tensor {missing[0]}{_and_more(missing)}")
        for key, whole in wanted.items():
            right, scales = packed_shape(whole) if self.is_int4(key) else (whole, whole[:1])
            if places[key].shape != right:
                raise CheckpointError(f"{folder}: {key} has the shape {places[key].shape}, and config.json asks for {right}")
            if key + SCALE in places and places[key + SCALE].shape != scales:
                raise CheckpointError(f"{folder}: {key + SCALE} has the shape {places[key + SCALE].shape}, not {scales}")
        unknown = sorted(key for key in places if key.removesuffix(SCALE) not in wanted and not _IGNORED.fullmatch(key))
        if unknown:
            raise CheckpointError(f"{folder} has a tensor that CodeGen has not: {unknown[0]}{_and_more(unknown)}")

    @property
    def dtype(self) -> str:
        """How the weights are stored: int4, int8, fp16, or what is best read as fp32."""
        if any(map(self.is_int4, self._shapes)):
            return "int4"
        if self.is_int8("transformer.wte.weight"):
            return "int8"
        return "fp16" if self.places["transformer.wte.weight"].kind == "F16" else "fp32"

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of a weight, however it is packed."""
        return self._shapes[key]

    def is_int8(self, key: str) -> bool:
        """Tell whether a matrix is stored as int8 with the scales of its rows."""
        return key + SCALE in self.places and self.places[key].kind == "I8"

    def is_int4(self, key: str) -> bool:
        """Tell whether a matrix is stored as int4, two numbers a byte, with the scales of its groups."""
        return key + SCALE in self.places and self.places[key].kind == "U8"

    def floats(self, key: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return a weight, or some rows, in the floating point that it is stored in; int8 and int4 times their scales in float32.

        The rows of qkv are q, k and v in the order of the heads.
        """
        if not key.endswith("qkv_proj.weight"):
            return self.published(key, start, stop)
        ordered: NDArray[Any] = heads_in_order(self.published(key), self.config.partitions)[start:stop]
        return ordered

    def published(self, key: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return what `floats` does, with the rows of qkv in the published order."""
        if self.is_int4(key):
            return from_int4(*self.packed(key, start, stop), self._shapes[key][1])
        if self.is_int8(key):
            numbers, scales = self.packed(key, start, stop)
            return numbers.astype(np.float32) * scales[:, None]
        array = self.places[key].read(start, stop)
        if array.dtype.kind != "f":
            raise CheckpointError(f"{key} is stored as {array.dtype}, which is no weight")
        return array

    def int8(self, key: str, start: int = 0, stop: int | None = None) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Return int8 rows (R, C) of a matrix that is stored so, and their scales (R,); qkv's in the order of the heads."""
        if not key.endswith("qkv_proj.weight"):
            return self.packed(key, start, stop)
        numbers, scales = (heads_in_order(array, self.config.partitions)[start:stop] for array in self.packed(key))
        return numbers, scales

    def packed(self, key: str, start: int = 0, stop: int | None = None) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return rows of an int8 or int4 matrix as they are stored, in the published order, and their scales."""
        return self.places[key].read(start, stop), self.places[key + SCALE].read(start, stop).astype(np.float32)


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the published name and the shape of each weight."""
    width, inner, vocabulary = config.n_embd, config.inner, config.vocab_size
    found: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (vocabulary, width)}
    for i in range(config.n_layer):
        layer = f"transformer.h.{i}"
        found |= {f"{layer}.ln_1.weight": (width,), f"{layer}.ln_1.bias": (width,)}
        found |= {f"{layer}.attn.qkv_proj.weight": (3 * width, width), f"{layer}.attn.out_proj.weight": (width, width)}
        found |= {f"{layer}.mlp.fc_in.weight": (inner, width), f"{layer}.mlp.fc_in.bias": (inner,)}
        found |= {f"{layer}.mlp.fc_out.weight": (width, inner), f"{layer}.mlp.fc_out.bias": (width,)}
    found |= {"transformer.ln_f.weight": (width,), "transformer.ln_f.bias": (width,)}
    return found | {"lm_head.weight": (vocabulary, width), "lm_head.bias": (vocabulary,)}


def heads_in_order(weight: Any, partitions: int) -> Any:
    """Turn the published rows of `qkv_proj` (3C, …), [partition][q, v, k][head][dim], into [q, k, v][head][dim].

    The weight may be of numpy or of torch.
    """
    grouped = weight.reshape(partitions, 3, weight.shape[0] // (3 * partitions), -1)
    return grouped[:, [0, 2, 1]].swapaxes(0, 1).reshape(weight.shape)


def partitioned(weight: Any, partitions: int) -> Any:
    """Turn rows [q, k, v][head][dim] into the published ones: the inverse of `heads_in_order`."""
    grouped = weight.reshape(3, partitions, weight.shape[0] // (3 * partitions), -1)
    return grouped[[0, 2, 1]].swapaxes(0, 1).reshape(weight.shape)


def _and_more(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""


def _instead(folder: Path) -> str:
    """Say which file of another framework or format lies there, if one does."""
    others = (
        "tf_model.h5",
        "flax_model.msgpack",
        "adapter_model.safetensors",
        "*.gguf",
        "*.ckpt",
        "*.pt",
        "*.onnx",
        "*.bin",
        "*.safetensors",
    )
    found = next((path.name for pattern in others for path in sorted(folder.glob(pattern))), None)
    return f"; {found} is of another kind" if found else ""
