"""Weights between files and the network: safetensors, sharded safetensors, and the hub's `pytorch_model.bin`.

Loading is strict. A tensor that is missing, of a wrong shape or unknown is refused in one line that names it; only the buffers
that come and go between versions of transformers are ignored. A pickle is read with `weights_only=True`, so it can hold tensors
and nothing that runs. Tensors are memory-mapped and copied one by one: the peak is the model and its largest tensor.
"""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from codegen_chat.errors import CheckpointError, UsageError
from codegen_chat.lm.config import Config
from codegen_chat.lm.model import CodeGen, rotary_tables
from codegen_chat.lm.quantize import SCALE, from_int8, to_int8

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The names of `dtype` and what they are; "auto" is fp32 on a CPU, and fp16, as published, on a GPU."""

SINGLE = "model.safetensors"
PICKLED = "pytorch_model.bin"

_IGNORED = re.compile(r"transformer\.(h\.\d+\.attn\.(bias|masked_bias|causal_mask|embed_positions)|embed_positions)")


def load(folder: Path, *, dtype: str = "auto", device: str = "auto") -> CodeGen:
    """Load the checkpoint of a folder: `config.json` and weights, in whichever of the layouts they are.

    Raises CheckpointError in one line where they do not hold the model that the config describes, UsageError for a dtype or a
    device that there is not.
    """
    target = _device(device)
    number = _dtype(dtype, target)
    config = Config.read(folder / "config.json")
    with torch.device("meta"):
        model = CodeGen(config)
    with ExitStack() as files:
        stored = _open(folder, files)
        _check(model, stored, folder)
        model = model.to(number).to_empty(device=target).eval()
        model.sin, model.cos = rotary_tables(config, target)
        with torch.no_grad():
            for key, parameter in _published(model):
                tensor = _read(stored, key)
                parameter.copy_(heads_in_order(tensor, config.partitions) if key.endswith("qkv_proj.weight") else tensor)
    return model


def save(model: CodeGen, folder: Path, *, int8: bool = False) -> None:
    """Write `config.json` and `model.safetensors` with the published names and layout, readable by transformers too.

    With int8, each matrix is stored as int8 and its row scales as `<key>.scale` (then only this package reads it). A file appears
    whole or not at all.
    """
    tensors: dict[str, Tensor] = {}
    for key, parameter in _published(model):
        tensor = parameter.detach().cpu()
        if key.endswith("qkv_proj.weight"):
            tensor = partitioned(tensor, model.config.partitions)
        if int8 and tensor.dim() == 2:
            tensors[key], tensors[key + SCALE] = to_int8(tensor)
        else:
            tensors[key] = tensor.contiguous()
    metadata = {"format": "pt"}
    if int8:
        metadata["int8"] = f"a matrix is its int8 rows, each times its number in <key>{SCALE}"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / (SINGLE + ".new"), metadata)
    (folder / "config.json.new").write_text(json.dumps(model.config.to_dict(), indent=2) + "\n", encoding="utf-8")
    for name in (SINGLE, "config.json"):
        (folder / (name + ".new")).replace(folder / name)


def heads_in_order(weight: Tensor, partitions: int) -> Tensor:
    """Turn the published rows of `qkv_proj` (3C, C), [partition][q, v, k][head][dim], into [q, k, v][head][dim]."""
    rows, columns = weight.shape
    grouped = weight.view(partitions, 3, rows // (3 * partitions), columns)
    return grouped[:, [0, 2, 1]].transpose(0, 1).reshape(rows, columns)


def partitioned(weight: Tensor, partitions: int) -> Tensor:
    """Turn rows [q, k, v][head][dim] into the published ones: the inverse of `heads_in_order`."""
    rows, columns = weight.shape
    grouped = weight.reshape(3, partitions, rows // (3 * partitions), columns)
    return grouped[[0, 2, 1]].transpose(0, 1).reshape(rows, columns)


def _published(model: CodeGen) -> Iterator[tuple[str, Tensor]]:
    """Yield each parameter under its published name."""
    for name, parameter in model.named_parameters():
        key = re.sub(r"^blocks\.(\d+)\.", r"transformer.h.\1.", name)
        key = re.sub(r"\.(qkv|out)\.", r".attn.\1_proj.", key)
        key = re.sub(r"\.(fc_in|fc_out)\.", r".mlp.\1.", key)
        yield (key if key.startswith(("transformer.", "lm_head.")) else f"transformer.{key}"), parameter


class _Stored(Protocol):
    """The tensors of an open file (or of several), by key."""

    def keys(self) -> list[str]: ...
    def shape(self, key: str) -> tuple[int, ...]: ...
    def tensor(self, key: str) -> Tensor: ...


class _Safetensors:
    """One memory-mapped safetensors file."""

    def __init__(self, path: Path, files: ExitStack) -> None:
        self.path = path
        try:
            self._file: Any = files.enter_context(safe_open(path, framework="pt"))
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing") from None
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or cut short: {_first_line(error)}") from None

    def keys(self) -> list[str]:
        return list(self._file.keys())

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(key).get_shape())

    def tensor(self, key: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(key)
        return tensor


class _Pickled:
    """One `pytorch_model.bin`: a zip of a pickled dictionary and memory-mapped tensors."""

    def __init__(self, path: Path, _files: ExitStack) -> None:
        self.path = path
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # noqa: BLE001  torch.load raises whatever the bytes make it raise
            raise CheckpointError(f"{path} is damaged, or not a checkpoint of plain tensors: {_first_line(error)}") from None
        if not isinstance(loaded, dict) or not all(isinstance(tensor, Tensor) for tensor in loaded.values()):
            raise CheckpointError(f"{path} is not a checkpoint: it holds no dictionary of tensors")
        self._tensors: dict[str, Tensor] = {str(key): tensor for key, tensor in loaded.items()}

    def keys(self) -> list[str]:
        return list(self._tensors)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._tensors[key].shape)

    def tensor(self, key: str) -> Tensor:
        return self._tensors[key]


class _Sharded:
    """Several files of one kind, with an index that says which key lies in which."""

    def __init__(self, index: Path, files: ExitStack) -> None:
        kind = _Safetensors if index.name.startswith(SINGLE) else _Pickled
        try:
            where: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(where.values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} is not an index of shards: {_first_line(error)}") from None
        shards: dict[str, _Stored] = {}
        for name in names:
            if not isinstance(name, str) or Path(name).name != name:  # an index names its neighbours, never a path
                raise CheckpointError(f"{index} names a shard outside its folder: {name!r}")
            shards[name] = kind(index.parent / name, files)
        held = {name: set(shard.keys()) for name, shard in shards.items()}
        for key, name in where.items():
            if key not in held[name]:
                raise CheckpointError(f"{index.parent / name} lacks the tensor {key} that its index puts there")
        self._at = {key: shards[name] for key, name in where.items()}

    def keys(self) -> list[str]:
        return list(self._at)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._at[key].shape(key)

    def tensor(self, key: str) -> Tensor:
        return self._at[key].tensor(key)


def _open(folder: Path, files: ExitStack) -> _Stored:
    """Open a folder's weights, safetensors before pickles, whole files before shards."""
    layouts: dict[str, Callable[[Path, ExitStack], _Stored]] = {
        SINGLE: _Safetensors,
        SINGLE + ".index.json": _Sharded,
        PICKLED: _Pickled,
        PICKLED + ".index.json": _Sharded,
    }
    for name, kind in layouts.items():
        if (folder / name).exists():
            return kind(folder / name, files)
    raise CheckpointError(f"{folder} holds no weights: none of {', '.join(layouts)}")


def _check(model: CodeGen, stored: _Stored, folder: Path) -> None:
    """Refuse a tensor that is missing, of a wrong shape, or unknown."""
    keys = set(stored.keys())
    wanted = {key: tuple(parameter.shape) for key, parameter in _published(model)}
    if missing := [key for key in wanted if key not in keys]:
        raise CheckpointError(f"{folder} lacks the tensor {missing[0]}{_and_more(missing)}")
    for key, shape in wanted.items():
        if stored.shape(key) != shape:
            raise CheckpointError(f"{folder}: {key} has the shape {stored.shape(key)}, and config.json asks for {shape}")
        if key + SCALE in keys and stored.shape(key + SCALE) != shape[:1]:
            raise CheckpointError(f"{folder}: {key + SCALE} has the shape {stored.shape(key + SCALE)}, not {shape[:1]}")
    unknown = sorted(key for key in keys if key.removesuffix(SCALE) not in wanted and not _IGNORED.fullmatch(key))
    if unknown:
        raise CheckpointError(f"{folder} has a tensor that CodeGen has not: {unknown[0]}{_and_more(unknown)}")


def _read(stored: _Stored, key: str) -> Tensor:
    """Return a tensor in floating point, from its int8 rows and scales where it is stored so."""
    tensor = stored.tensor(key)
    if tensor.dtype == torch.int8 and key + SCALE in stored.keys():  # noqa: SIM118  not a dictionary
        return from_int8(tensor, stored.tensor(key + SCALE))
    if not tensor.is_floating_point():
        raise CheckpointError(f"{key} is stored as {tensor.dtype}, which is no weight")
    return tensor


def backend() -> str:
    """Say what computes: torch's version, its threads, its GPU."""
    gpu = f"GPU {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no GPU"
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {gpu}"


def _and_more(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(f"there is no device {name!r} on this machine: use auto or cpu") from None
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if name not in DTYPES:
        raise UsageError(f"there is no dtype {name!r}: use auto, {', '.join(DTYPES)}")
    return DTYPES[name]
