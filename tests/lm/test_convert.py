from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from codegen_chat import load
from codegen_chat.errors import CheckpointError, UsageError
from codegen_chat.lm import checkpoint, hub, native
from codegen_chat.lm.config import Config
from codegen_chat.lm.convert import convert
from codegen_chat.lm.model import TorchStep
from codegen_chat.lm.quantize import from_int4, packed_shape, to_int4, to_int8
from codegen_chat.lm.stored import Weights, shapes
from codegen_chat.lm.tokenizer import Tokenizer

NANO = hub.locate("nano")
TEXTS = [
    "",
    "# Print the squares of 1 to 5.\nfor i in range(5):\n        print(i,  'é🙂')\t\t# x\r\n",
    "a<|endoftext|>b",
    " .'s 's",
]


def converted(source: Path, target: Path, to: str) -> Path:
    told = list(convert(source, target, to))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1]
    return target


def test_transformers_loads_the_embedded_model_with_equal_logits_and_ids(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    folder = converted(NANO, tmp_path / "out", "transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ours, exact = load(folder), load("nano", dtype="fp32")
    assert (ours.dtype, theirs.dtype, tokenizer.eos_token_id) == ("fp32", torch.float32, ours.tokenizer.end_of_text)
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        assert ids == ours.tokenizer.encode(text) == exact.tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        if ids:
            with torch.no_grad():
                logits = theirs(torch.tensor([ids])).logits[0].numpy()
            assert np.abs(logits - ours.logits(ids)).max() < 2e-4
            assert (ours.logits(ids) == exact.logits(ids)).all()
    prompt = "# Print the numbers from 1 to 5.\n"
    written = theirs.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=12)[0]
    assert tokenizer.decode(written) == prompt + ours.complete(prompt, max_new_tokens=12)[0].text


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_floats_stay_as_they_are(tiny_folder: Path, tmp_path: Path, dtype: str) -> None:
    checkpoint.save(checkpoint.load(tiny_folder, dtype=dtype), tmp_path / "in")
    shutil.copy(tiny_folder / "tokenizer.json", tmp_path / "in")
    folder = converted(tmp_path / "in", tmp_path / "out", "transformers")
    with safe_open(tmp_path / "in/model.safetensors", "pt") as a, safe_open(folder / "model.safetensors", "pt") as b:
        assert set(a.keys()) == set(b.keys())
        for key in a.keys():  # noqa: SIM118  it is no dictionary
            assert torch.equal(a.get_tensor(key), b.get_tensor(key))
        assert b.metadata() == {"format": "pt"}
    written = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[dtype]
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == written


@pytest.mark.parametrize("to", ["int8", "int4"])
def test_what_is_stored_small_is_loaded_as_it_is(tmp_path: Path, to: str) -> None:
    folder = converted(NANO, tmp_path / "small", to)
    with safe_open(folder / "model.safetensors", "np") as file:
        assert set(file.metadata()) == {"format", to}
    model = load(folder)
    weights = Weights(folder, Config.read(folder / "config.json"))
    assert weights.dtype == to
    if native.instructions():
        assert model.dtype == to
    reference = TorchStep(checkpoint.load(folder))  # floats of what is stored
    assert torch.equal(reference.model.lm_head.weight, torch.from_numpy(weights.floats("lm_head.weight")))
    ids = model.tokenizer.encode(TEXTS[1])
    exact = reference(np.array(ids), every=True)
    assert np.abs(model.logits(ids) - exact).max() < 0.01 * exact.std()
    again = converted(folder, tmp_path / "again", to)
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_rows_of_int4_are_read_alone_and_in_order(tiny_folder: Path, tmp_path: Path) -> None:
    folder = converted(tiny_folder, tmp_path / "small", "int4")
    config = Config.read(folder / "config.json")
    weights, whole = Weights(folder, config), Weights(tiny_folder, config)
    for key, shape in shapes(config).items():
        exact, near = whole.floats(key), weights.floats(key)
        assert near.shape == weights.shape(key) == shape
        assert (weights.floats(key, 3, 9) == near[3:9]).all()
        assert np.abs(near - exact).max() <= (np.abs(exact).max() / 6.8 if near.ndim == 2 else 0)
        assert np.corrcoef(near.ravel(), exact.ravel())[0, 1] > 0.99 or near.ndim == 1


def test_int4_is_what_it_says() -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((7, 50)).astype(np.float32)
    weight[2] = 0
    packed, scales = to_int4(weight)
    assert (packed.shape, scales.shape) == packed_shape((7, 50)) == ((7, 32), (7, 2))
    near = from_int4(packed, scales, 50)
    assert (near[2] == 0).all()
    assert (np.abs(near - weight).reshape(7, 50)[:, : native.GROUP] <= np.abs(scales[:, :1]) * 1.2 + 1e-6).all()
    again = from_int4(*to_int4(near), 50)
    assert np.abs(again - near).max() < 1e-6  # what it stands for is kept by rounding once more
    numbers, scale = to_int8(weight)
    assert (np.abs(numbers * scale[:, None] - weight) <= scale[:, None] / 2 + 1e-6).all()


def test_int4_is_made_by_the_native_step(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_library", lambda: None)
    with pytest.raises(UsageError, match=r"^int4 is made by the native step, and that was not built: it needs a C\+\+ compiler"):
        converted(tiny_folder, tmp_path / "out", "int4")
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_that_cannot_be_is_one_line_and_leaves_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^there is nothing to convert to 'int2': use transformers, int8, int4$"):
        converted(tiny_folder, tmp_path / "out", "int2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match=r"full is there already: name a new folder$"):
        converted(tiny_folder, tmp_path / "full", "int8")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be written: Not a directory$"):
        converted(tiny_folder, tmp_path / "file" / "out", "int8")
    broken = shutil.copytree(tiny_folder, tmp_path / "broken")
    (broken / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        converted(broken, tmp_path / "out", "int8")
    half = convert(tiny_folder, tmp_path / "out", "int8")
    next(half)
    half.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "file", "full"]


def test_the_tokenizer_of_a_published_one_becomes_one_file(tmp_path: Path) -> None:
    from tests import synthetic

    source = synthetic.write(tmp_path / "in", synthetic.small("350M"), parts=True)
    folder = converted(source, tmp_path / "out", "transformers")
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), Tokenizer.load(source)
    for text in (*TEXTS, "x" + " " * 40 + "y\t\t\t"):
        assert theirs(text).input_ids == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
