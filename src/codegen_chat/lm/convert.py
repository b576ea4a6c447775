"""A checkpoint written anew, piece by piece: for transformers, or with weights of 8 or 4 bits. No torch.

The folder that comes of it has one layout, whichever the checkpoint had: `config.json`, `model.safetensors` under the published
names, `tokenizer.json` and `generation_config.json`. It appears whole or not at all.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codegen_chat.errors import UsageError
from codegen_chat.lm.config import Config
from codegen_chat.lm.hub import CARDS, files
from codegen_chat.lm.native import GROUP
from codegen_chat.lm.places import TYPES, write_safetensors
from codegen_chat.lm.quantize import packed_shape, to_int4, to_int8
from codegen_chat.lm.shelf import made_whole
from codegen_chat.lm.stored import SCALE, SINGLE, Weights, partitioned, shapes
from codegen_chat.lm.tokenizer import END_OF_TEXT, Tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

TARGETS = ("transformers", "int8", "int4")

PIECE = 1 << 18
"""Numbers that are converted at once: what is made of them stays in a core's cache."""

_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def convert(source: Path, target: Path, to: str) -> Generator[tuple[int, int], None, None]:
    """Write the checkpoint of a folder to another one, which is new or empty. Yields bytes written and bytes in all.

    transformers: in floating point as it is stored, int8 and int4 as float32, to be loaded by `AutoModelForCausalLM`.
    int8, int4: matrices small, the rest as it is, with the scales beside them; only this package loads that.

    Raises CheckpointError where the source is none, UsageError for a target that cannot be written or has no room.
    """
    if to not in TARGETS:
        raise UsageError(f"there is nothing to convert to {to!r}: use {', '.join(TARGETS)}")
    config = Config.read(source / "config.json")
    weights, tokenizer = Weights(source, config), Tokenizer.load(source)
    tensors = _tensors(weights, to)
    total = sum(math.prod(shape) * TYPES[kind].itemsize for kind, shape in tensors.values())
    with made_whole(target) as unfinished:
        free = shutil.disk_usage(unfinished).free
        if free < total:
            raise UsageError(f"{target} needs {total / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there")
        # transformers knows four partitions alone.
        written_as = replace(config, partitions=4) if to == "transformers" else config
        for written in write(unfinished / SINGLE, weights, to, written_as.partitions):
            yield written, total
        kind = tensors["transformer.wte.weight" if to == "transformers" else "transformer.ln_f.weight"][0]
        beside(source, unfinished, written_as, tokenizer, _FLOATS[kind])


def write(path: Path, weights: Weights, to: str, partitions: int | None = None) -> Iterator[int]:
    """Write a file of the weights, as `convert` says. Yields the bytes written after each piece."""
    tensors = _tensors(weights, to)
    pieces = _pieces(weights, tensors, partitions or weights.config.partitions)
    return write_safetensors(path, tensors, pieces, _metadata(to))


def _tensors(weights: Weights, to: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the kind and the shape of each tensor of the file that is to be."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for key, shape in shapes(weights.config).items():
        kind = weights.places[key].kind
        if to == "transformers" or len(shape) < 2:
            found[key] = kind if kind in _FLOATS else "F32", shape
        elif to == "int4" and "wte" not in key:  # a row of the embedding is looked up: it gains nothing from int4
            packed, scales = packed_shape(shape)
            found |= {key: ("U8", packed), key + SCALE: ("F32", scales)}
        else:
            found |= {key: ("I8", shape), key + SCALE: ("F32", shape[:1])}
    return found


def _pieces(weights: Weights, tensors: dict[str, tuple[str, tuple[int, ...]]], partitions: int) -> Iterator[NDArray[Any]]:
    """Yield the rows of each tensor in turn, qkv in this many partitions. The scales follow their matrix."""
    pack = {"I8": to_int8, "U8": to_int4}
    for key, (kind, _) in tensors.items():
        if key.endswith(SCALE):
            continue
        shape = weights.shape(key)
        anew = "qkv" in key and partitions != weights.config.partitions  # the order of its rows is seen in the whole
        step = shape[0] if anew else max(1, PIECE // math.prod(shape[1:]))
        scales: list[NDArray[np.float32]] = []
        for start in range(0, shape[0], step):
            stop = min(start + step, shape[0])
            rows = partitioned(weights.floats(key), partitions) if anew else weights.published(key, start, stop)
            if kind in pack:
                rows, scale = weights.packed(key, start, stop) if weights.places[key].kind == kind else pack[kind](rows)
                scales.append(scale)
            elif kind == "BF16":
                rows = (rows.view(np.uint32) >> 16).astype(np.uint16)
            yield rows
        yield from scales


def _metadata(to: str) -> dict[str, str]:
    """Return what the file says of itself; `format` is what transformers asks for."""
    scales = {
        "int8": f"a matrix is its int8 rows, each times its number in <key>{SCALE}",
        "int4": f"a matrix is two numbers a byte, the lower half first, less 8, each {GROUP} of a row times one of <key>{SCALE}",
    }
    return {"format": "pt"} | {name: text for name, text in scales.items() if name == to}


def beside(source: Path, target: Path, config: Config, tokenizer: Tokenizer, dtype: str) -> None:
    """Write what belongs to weights that come from those of a folder, for us and for transformers.

    The configuration, with the dtype of the weights in torch's word, the tokenizer as one file, how to draw, the model card.
    """
    end = config.eos_token_id
    own: dict[str, Any] = {}
    if (source / "generation_config.json").is_file():
        own = json.loads((source / "generation_config.json").read_text(encoding="utf-8"))
    texts: dict[str, dict[str, Any]] = {
        "config.json": config.to_dict() | {"torch_dtype": dtype, "tokenizer_class": "PreTrainedTokenizerFast"},
        "generation_config.json": own | {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end},
        # The plain class reads tokenizer.json as it is; CodeGen's own would build GPT-2's from the vocabulary.
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "unk_token": END_OF_TEXT,
            "model_max_length": config.n_positions,
            "clean_up_tokenization_spaces": False,
        },
    }
    for name, data in texts.items():
        (target / name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(target / "tokenizer.json")
    for card in files(source, *CARDS):
        shutil.copyfile(card, target / card.name)
