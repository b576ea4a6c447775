"""Every layout that the published models and their fine-tunes come in computes what transformers computes from it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from codegen_chat import load
from codegen_chat.errors import CheckpointError
from codegen_chat.lm import hub, shelf
from codegen_chat.lm.config import PUBLISHED, Config
from codegen_chat.lm.convert import convert
from codegen_chat.lm.stored import Weights, partitioned, shapes
from tests import synthetic

EVERY_LEG = bool(os.environ.get("EVERY_LEG"))
TEXT = "def f(x):\n    return x  # é\n\t\ty"


def reference(folder: Path, ids: list[int]) -> np.ndarray:
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor([ids])).logits[0].numpy()
    return logits


CASES = [
    ("350M", "mono", "bin", torch.float16, {"eos": 2}),
    ("350M", "nl", "safetensors", torch.bfloat16, {}),
    ("2B", "multi", "bin shards", torch.float32, {"parts": True}),
    ("6B", "nl", "safetensors shards", torch.float16, {"eos": 2, "parts": True}),
    ("16B", "mono", "bin", torch.bfloat16, {}),
]


@pytest.mark.parametrize(("size", "data", "layout", "dtype", "more"), CASES, ids=lambda value: str(value)[:20])
def test_a_layout(size: str, data: str, layout: str, dtype: torch.dtype, more: dict[str, int], tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "model", synthetic.small(size), data=data, layout=layout, dtype=dtype, **more)  # type: ignore[arg-type]
    model = load(folder, dtype="fp32")
    ids = model.tokenizer.encode(TEXT)
    assert (50284 in ids, 50294 in ids) == (data != "nl", data != "nl")  # four spaces, two tabs
    assert model.tokenizer.decode(ids) == TEXT
    assert {model.tokenizer.end_of_text, model.engine.step.config.eos_token_id} == {50256}
    theirs = reference(folder, ids)
    assert np.abs(model.logits(ids) - theirs).max() < 1e-4 * max(1, np.abs(theirs).max())


def test_the_names_and_shapes_of_all_twelve() -> None:
    assert len(hub.FAMILY) == 12
    counts = {size: sum(torch.Size(shape).numel() for shape in shapes(config).values()) for size, config in PUBLISHED.items()}
    assert counts == {"350M": 356_712_448, "2B": 2_779_356_160, "6B": 7_064_213_504, "16B": 16_032_155_648}


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_published_file_of_each_size_by_shape(size: str, tmp_path: Path) -> None:
    """Every name, shape and type, in a file with a hole for numbers: as large as the published one, and no room taken."""
    file = tmp_path / "pytorch_model.bin"
    synthetic.published(file, PUBLISHED[size], torch.float16, filled=False)
    assert abs(file.stat().st_size / shelf.DOWNLOADS[size] - 1) < 0.01
    weights = Weights(tmp_path, PUBLISHED[size])
    assert weights.dtype == "fp16"
    assert len(weights.places) == len(shapes(PUBLISHED[size])) + PUBLISHED[size].n_layer
    assert not weights.floats("lm_head.weight", 51100, 51200).any()


@pytest.mark.parametrize(("size", "to"), [("6B", "int8"), *([("16B", "int4")] if EVERY_LEG else [])])
def test_the_largest_are_converted_in_small_pieces(size: str, to: str, tmp_path: Path) -> None:
    """By shape: one layer of the real width, from a file with holes for zeros."""
    config = replace(PUBLISHED[size], n_layer=1, vocab_size=2048)
    source = synthetic.write(tmp_path / "source", config, filled=False)
    sizes = [written for written, _ in convert(source, tmp_path / "small", to)]
    assert max(np.diff([0, *sizes])) <= 1 << 20
    weights = Weights(tmp_path / "small", Config.read(tmp_path / "small" / "config.json"))
    assert weights.dtype == to
    assert not weights.floats("transformer.h.0.attn.qkv_proj.weight", 5, 9).any()


@pytest.mark.parametrize("size", ["350M", *(["2B"] if EVERY_LEG else [])])
def test_in_full_size(size: str, tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / size, PUBLISHED[size])
    file = folder / "pytorch_model.bin"
    assert abs(file.stat().st_size / shelf.DOWNLOADS[size] - 1) < 0.002
    model = load(folder, dtype="fp16" if size == "350M" else "int8")
    ids = model.tokenizer.encode("def hello_world():")
    ours = model.logits(ids)
    assert ours.shape == (len(ids), 51200)
    del model
    done = 0
    for done, total in convert(folder, tmp_path / "small", "int8"):
        assert done <= total
    file.unlink()
    small = load(tmp_path / "small")
    assert (small.dtype, done) == ("int8", (tmp_path / "small" / "model.safetensors").stat().st_size - header(tmp_path / "small"))
    assert np.abs(small.logits(ids) - ours).std() < 0.03 * ours.std()


def header(folder: Path) -> int:
    with (folder / "model.safetensors").open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def test_codegen2_has_eight_partitions(tiny_folder: Path, tmp_path: Path) -> None:
    """The same weights, their qkv rows in eight groups: transformers' four are no reference, the layout's inverse is."""
    config = Config.read(tiny_folder / "config.json")
    eight = replace(config, n_head=8, partitions=8)
    for width in (2048, 4096):
        shape = replace(config, n_layer=16, n_embd=width, n_head=16)
        published = {key: value for key, value in shape.to_dict().items() if key != "mp_num"}
        assert Config.from_dict(published).partitions == 8
        assert Config.from_dict(shape.to_dict()) == shape
    assert [Config.from_dict(shape.to_dict()).partitions for shape in PUBLISHED.values()] == [4] * 4
    four = replace(config, n_head=8)
    folders = [tmp_path / "four", tmp_path / "eight"]
    rows = torch.arange(3 * config.n_embd)
    ordered = {part: partitioned(rows[:, None], part)[:, 0] for part in (4, 8)}
    for folder, shape in zip(folders, (four, eight), strict=True):
        folder.mkdir()
        tensors = dict(synthetic.weights(shape, torch.float32))
        for key in tensors:
            if "qkv" in key:
                tensors[key] = tensors[key][ordered[shape.partitions]]
        synthetic.save_weights(folder, tensors, "safetensors")
        (folder / "config.json").write_text(json.dumps(shape.to_dict()))
        (folder / "tokenizer.json").write_bytes((tiny_folder / "tokenizer.json").read_bytes())
    ids = list(range(1, 40))
    assert (load(folders[0], dtype="fp32").logits(ids) == load(folders[1], dtype="fp32").logits(ids)).all()
    list(convert(folders[1], tmp_path / "out", "transformers"))  # which has four, and no word for others
    assert Config.read(tmp_path / "out" / "config.json") == four
    assert np.abs(reference(tmp_path / "out", ids) - load(folders[1], dtype="fp32").logits(ids)).max() < 1e-3


def test_an_unknown_layout_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["350M"].to_dict()))
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"holds no weights: none of [^\n]*; model-q4\.gguf is of another kind$"):
        load(tmp_path)
