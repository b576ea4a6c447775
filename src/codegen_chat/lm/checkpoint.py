"""Weights between files and the network of torch. Tensors are copied one by one: the peak is the model and its largest tensor."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from codegen_chat.errors import UsageError
from codegen_chat.lm.config import Config
from codegen_chat.lm.model import CodeGen, rotary_tables
from codegen_chat.lm.quantize import to_int8
from codegen_chat.lm.stored import SCALE, SINGLE, Weights, partitioned

if TYPE_CHECKING:
    from collections.abc import Iterator

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The names of `dtype` and what they are; "auto" is fp32 on a CPU, and fp16, as published, on a GPU."""


def load(folder: Path, *, dtype: str = "auto", device: str = "auto") -> CodeGen:
    """Load the checkpoint of a folder: `config.json` and weights, in whichever of the layouts they are.

    Raises CheckpointError in one line where they do not hold the model that the config describes, UsageError for a dtype or a
    device that there is not.
    """
    target = _device(device)
    number = _dtype(dtype, target)
    config = Config.read(folder / "config.json")
    weights = Weights(folder, config)
    with torch.device("meta"):
        model = CodeGen(config)
    model = model.to(number).to_empty(device=target).eval()
    model.sin, model.cos = rotary_tables(config, target)
    with torch.no_grad():
        for key, parameter in _published(model):
            parameter.copy_(torch.from_numpy(weights.floats(key)))
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
            tensors[key], tensors[key + SCALE] = map(torch.from_numpy, to_int8(tensor.float().numpy()))
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


def _published(model: CodeGen) -> Iterator[tuple[str, Tensor]]:
    """Yield each parameter under its published name."""
    for name, parameter in model.named_parameters():
        key = re.sub(r"^blocks\.(\d+)\.", r"transformer.h.\1.", name)
        key = re.sub(r"\.(qkv|out)\.", r".attn.\1_proj.", key)
        key = re.sub(r"\.(fc_in|fc_out)\.", r".mlp.\1.", key)
        yield (key if key.startswith(("transformer.", "lm_head.")) else f"transformer.{key}"), parameter


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
