"""Tensors in files, as numpy arrays: safetensors, sharded safetensors, and the hub's `pytorch_model.bin`. Only that needs torch.

Reading is strict. A tensor that is missing, of a wrong shape or unknown is refused in one line that names it; only the buffers
that come and go between versions of transformers are ignored. Tensors are read when they are asked for, by rows where that is
enough: the peak is what is made of them, and a piece of the largest.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from codegen_chat.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from codegen_chat.lm.config import Config

SINGLE = "model.safetensors"
PICKLED = "pytorch_model.bin"
SCALE = ".scale"
"""The suffix of a key that holds the scales of the int8 matrix named before it, one a row."""

_IGNORED = re.compile(r"transformer\.(h\.\d+\.attn\.(bias|masked_bias|causal_mask|embed_positions)|embed_positions)")
_TYPES = {
    name: np.dtype(kind)
    for name, kind in zip(
        ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"),
        ("<f8", "<f4", "<f2", "<u2", "<i8", "<i4", "<i2", "i1", "<u8", "<u4", "<u2", "u1", "?"),
        strict=True,
    )
}


class Stored(Protocol):
    """The tensors of a file (or of several), by key."""

    def keys(self) -> list[str]:
        """Return every tensor's key."""
        ...

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        ...

    def read(self, key: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return a tensor, or its rows `start` to `stop`, as stored, but bfloat16 as float32."""
        ...


class Safetensors:
    """One safetensors file: the length of a header in eight bytes, a JSON header that says where each tensor lies, the rest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                length = int.from_bytes(file.read(8), "little")
                header: dict[str, Any] = json.loads(file.read(min(length, 100_000_000)))
            header.pop("__metadata__", None)
            self._tensors = {key: self._place(entry, 8 + length, size) for key, entry in header.items()}
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged or cut short: {first_line(error)}") from None

    @staticmethod
    def _place(entry: dict[str, Any], base: int, size: int) -> tuple[str, tuple[int, ...], int]:
        """Return the type, the shape and the offset of a tensor."""
        kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        if kind not in _TYPES or not whole:
            raise ValueError(f"a tensor of {kind!r}, shape {shape}")
        if end - begin != math.prod(shape) * _TYPES[kind].itemsize or base + end > size:
            raise ValueError(f"a tensor that ends at byte {base + end} of {size}")
        return kind, shape, base + begin

    def keys(self) -> list[str]:
        """Return every tensor's key."""
        return list(self._tensors)

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._tensors[key][1]

    def read(self, key: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return a tensor, or its rows `start` to `stop`, as stored, but bfloat16 as float32."""
        kind, shape, offset = self._tensors[key]
        number = _TYPES[kind]
        row = math.prod(shape[1:])
        rows = len(range(*slice(start, stop).indices(shape[0]))) if shape else 1
        array = np.fromfile(self.path, number, rows * row, offset=offset + start * row * number.itemsize)
        if kind == "BF16":  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return array.reshape(rows, *shape[1:]) if shape else array.reshape(())


class _Sharded:
    """Several files of one kind, with an index that says which key lies in which."""

    def __init__(self, index: Path) -> None:
        kind: Callable[[Path], Stored] = Safetensors if index.name.startswith(SINGLE) else _pickled
        try:
            where: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(where.values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} is not an index of shards: {first_line(error)}") from None
        shards: dict[str, Stored] = {}
        for name in names:
            if not isinstance(name, str) or Path(name).name != name:  # an index names its neighbours, never a path
                raise CheckpointError(f"{index} names a shard outside its folder: {name!r}")
            shards[name] = kind(index.parent / name)
        held = {name: set(shard.keys()) for name, shard in shards.items()}
        for key, name in where.items():
            if key not in held[name]:
                raise CheckpointError(f"{index.parent / name} lacks the tensor {key} that its index puts there")
        self._at = {key: shards[name] for key, name in where.items()}

    def keys(self) -> list[str]:
        return list(self._at)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._at[key].shape(key)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        return self._at[key].read(key, start, stop)


def _pickled(path: Path) -> Stored:
    from codegen_chat.lm.checkpoint import Pickled  # noqa: PLC0415  torch, for pickles only

    return Pickled(path)


class Weights:
    """The weights of a checkpoint's folder, under their published names, checked against its config.

    Raises CheckpointError in one line where they do not hold the model that the config describes.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        layouts: dict[str, Callable[[Path], Stored]] = {
            SINGLE: Safetensors,
            SINGLE + ".index.json": _Sharded,
            PICKLED: _pickled,
            PICKLED + ".index.json": _Sharded,
        }
        found = next((name for name in layouts if (folder / name).exists()), None)
        if found is None:
            raise CheckpointError(f"{folder} holds no weights: none of {', '.join(layouts)}")
        self.config = config
        self._stored = layouts[found](folder / found)
        self._keys = set(self._stored.keys())
        self._check(folder, shapes(config))

    def _check(self, folder: Path, wanted: dict[str, tuple[int, ...]]) -> None:
        """Refuse a tensor that is missing, of a wrong shape, or unknown."""
        keys, shape = self._keys, self._stored.shape
        if missing := [key for key in wanted if key not in keys]:
            raise CheckpointError(f"{folder} lacks the tensor {missing[0]}{_and_more(missing)}")
        for key, right in wanted.items():
            if shape(key) != right:
                raise CheckpointError(f"{folder}: {key} has the shape {shape(key)}, and config.json asks for {right}")
            if key + SCALE in keys and shape(key + SCALE) != right[:1]:
                raise CheckpointError(f"{folder}: {key + SCALE} has the shape {shape(key + SCALE)}, not {right[:1]}")
        unknown = sorted(key for key in keys if key.removesuffix(SCALE) not in wanted and not _IGNORED.fullmatch(key))
        if unknown:
            raise CheckpointError(f"{folder} has a tensor that CodeGen has not: {unknown[0]}{_and_more(unknown)}")

    @property
    def dtype(self) -> str:
        """How the weights are stored: int8, fp16, or what is best read as fp32."""
        if self.is_int8("transformer.wte.weight"):
            return "int8"
        return "fp16" if self._stored.read("transformer.wte.weight", 0, 1).dtype == np.float16 else "fp32"

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._stored.shape(key)

    def is_int8(self, key: str) -> bool:
        """Tell whether a matrix is stored as int8 with the scales of its rows."""
        return key + SCALE in self._keys

    def floats(self, key: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return a tensor, or some rows, in the floating point that it is stored in; int8 rows times their scales, in float32."""
        array = self._in_order(key, start, stop)
        if array.dtype == np.int8 and self.is_int8(key):
            return array.astype(np.float32) * self._in_order(key + SCALE, start, stop).astype(np.float32)[:, None]
        if array.dtype.kind != "f":
            raise CheckpointError(f"{key} is stored as {array.dtype}, which is no weight")
        return array

    def int8(self, key: str, start: int = 0, stop: int | None = None) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Return int8 rows (R, C) of a matrix that is stored so, and their scales (R,)."""
        return self._in_order(key, start, stop), self._in_order(key + SCALE, start, stop).astype(np.float32)

    def _in_order(self, key: str, start: int, stop: int | None) -> NDArray[Any]:
        """Read rows of a tensor; those of qkv with q, k and v in the order of the heads."""
        if not key.removesuffix(SCALE).endswith("qkv_proj.weight"):
            return self._stored.read(key, start, stop)
        ordered: NDArray[Any] = heads_in_order(self._stored.read(key), self.config.partitions)[start:stop]
        return ordered


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


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, 200 characters at most."""
    return str(error).partition("\n")[0][:200] or type(error).__name__


def _and_more(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
