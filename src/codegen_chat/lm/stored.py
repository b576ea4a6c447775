"""The weights of a checkpoint, as numpy arrays: safetensors, the hub's `pytorch_model.bin`, and shards of either.

Reading is strict. A tensor that is missing, of a wrong shape or unknown is refused in one line that names it; only the buffers
that come and go between versions of transformers are ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codegen_chat.errors import CheckpointError, first_line
from codegen_chat.lm.pickled import pickled
from codegen_chat.lm.places import Place, safetensors
from codegen_chat.lm.quantize import from_int4, packed_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from codegen_chat.lm.config import Config

SINGLE = "model.safetensors"
PICKLED = "pytorch_model.bin"
SCALE = ".scale"
"""The suffix of a key that holds the scales of the int8 or int4 matrix named before it: one a row, or one a group of a row."""

_IGNORED = re.compile(r"transformer\.(h\.\d+\.attn\.(bias|masked_bias|causal_mask|embed_positions)|embed_positions)")


def _sharded(index: Path) -> dict[str, Place]:
    """Return the tensors of several files of one kind, with an index that says which key lies in which."""
    read = safetensors if index.name.startswith(SINGLE) else pickled
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


LAYOUTS: dict[str, Callable[[Path], dict[str, Place]]] = {
    SINGLE: safetensors,
    SINGLE + ".index.json": _sharded,
    PICKLED: pickled,
    PICKLED + ".index.json": _sharded,
}
"""What a folder may hold, by the name of the file that is read first."""


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

    def ordered(self, key: str, start: int = 0, stop: int | None = None) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return what `packed` does, with qkv's rows in the order of the heads."""
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
