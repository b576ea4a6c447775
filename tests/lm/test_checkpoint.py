from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from codegen_chat.errors import CheckpointError, UsageError
from codegen_chat.lm import checkpoint, hub
from codegen_chat.lm.config import END_OF_TEXT, PUBLISHED, Config
from codegen_chat.lm.model import CodeGen, TorchStep
from codegen_chat.lm.stored import Weights, heads_in_order, partitioned, shapes

IDS = np.arange(1, 30)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, to be spoilt."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def logits(folder: Path) -> np.ndarray:
    return TorchStep(checkpoint.load(folder))(IDS, every=True)


def change(folder: Path, edit: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def to_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def to_shards(folder: Path, *, pickled: bool = False) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    single, stem, suffix = (
        ("pytorch_model.bin", "pytorch_model", "bin") if pickled else ("model.safetensors", "model", "safetensors")
    )
    where: dict[str, str] = {}
    for i in range(3):
        part = dict(list(tensors.items())[i::3])
        name = f"{stem}-{i + 1:05}-of-00003.{suffix}"
        torch.save(part, folder / name) if pickled else save_file(part, folder / name)
        where |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / f"{single}.index.json").write_text(json.dumps(index), encoding="utf-8")


@pytest.mark.parametrize(
    "layout", [to_pickle, to_shards, lambda folder: to_shards(folder, pickled=True)], ids=["bin", "shards", "bin shards"]
)
def test_every_layout_holds_the_same_model(tiny_folder: Path, folder: Path, layout: Callable[[Path], None]) -> None:
    layout(folder)
    assert (logits(folder) == logits(tiny_folder)).all()


def test_a_pickle_of_views_and_turned_matrices_is_read_in_place(tiny_folder: Path, folder: Path) -> None:
    def turn(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        joined = torch.cat([tensors["transformer.ln_f.weight"], tensors["transformer.ln_f.bias"]])
        turned = {key: tensor.t().contiguous().t() for key, tensor in tensors.items() if "fc_in.weight" in key}
        return tensors | turned | {"transformer.ln_f.weight": joined[:32], "transformer.ln_f.bias": joined[32:]}

    torch.save(turn(load_file(folder / "model.safetensors")), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert (logits(folder) == logits(tiny_folder)).all()
    weights, exact = (Weights(path, Config.read(path / "config.json")) for path in (folder, tiny_folder))
    key = "transformer.h.1.mlp.fc_in.weight"
    assert (weights.floats(key, 3, 9) == exact.floats(key, 3, 9)).all()


def test_what_is_saved_is_loaded(tiny_folder: Path, tmp_path: Path) -> None:
    checkpoint.save(checkpoint.load(tiny_folder), tmp_path / "new")
    ours, theirs = load_file(tiny_folder / "model.safetensors"), load_file(tmp_path / "new" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (tmp_path / "new" / "config.json").read_text() == (tiny_folder / "config.json").read_text()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["config.json", "model.safetensors"]


def test_a_model_that_a_step_has_rearranged_is_saved_the_same(tiny_folder: Path, tmp_path: Path) -> None:
    checkpoint.save(TorchStep(checkpoint.load(tiny_folder)).model, tmp_path)
    assert (logits(tmp_path) == logits(tiny_folder)).all()


def test_transformers_reads_what_is_saved(tiny_folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    reference = transformers.CodeGenForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = reference(torch.from_numpy(IDS)[None]).logits[0].numpy()
    assert np.abs(theirs - logits(tiny_folder)).max() < 1e-4


def test_bfloat16_is_read_as_it_is(tiny_folder: Path, tmp_path: Path) -> None:
    model = checkpoint.load(tiny_folder, dtype="bf16")
    checkpoint.save(model, tmp_path)
    for (name, ours), theirs in zip(checkpoint.load(tmp_path).named_parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs.float()), name


def test_rows_are_read_alone(tiny_folder: Path, tmp_path: Path) -> None:
    checkpoint.save(checkpoint.load(tiny_folder), tmp_path, int8=True)
    for folder in (tiny_folder, tmp_path):
        weights = Weights(folder, Config.read(folder / "config.json"))
        for key, shape in shapes(weights.config).items():
            whole = weights.floats(key)
            assert whole.shape == shape
            assert (weights.floats(key, 3, 9) == whole[3:9]).all()
            assert (weights.floats(key, 20) == whole[20:]).all()
    stored = Weights(tmp_path, Config.read(tmp_path / "config.json"))
    numbers, scales = stored.ordered("lm_head.weight", 3, 9)
    assert (numbers * scales[:, None] == stored.floats("lm_head.weight")[3:9]).all()


def test_int8_rows_are_off_by_half_a_scale_at_most(tiny_folder: Path, tmp_path: Path) -> None:
    model = checkpoint.load(tiny_folder)
    checkpoint.save(model, tmp_path, int8=True)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["transformer.wte.weight"].dtype == torch.int8
    assert stored["transformer.wte.weight.scale"].shape == (model.config.vocab_size,)
    assert stored["lm_head.bias"].dtype == torch.float32
    for (name, exact), (_, near) in zip(model.named_parameters(), checkpoint.load(tmp_path).named_parameters(), strict=True):
        bound = exact.abs().amax(1, keepdim=True) / 127 / 2 if exact.dim() == 2 else torch.zeros(())
        assert ((exact - near).abs() <= bound * 1.001).all(), name


def test_a_row_of_zeros_stays_zero(tmp_path: Path) -> None:
    model = CodeGen(Config(n_layer=1, n_embd=16, n_head=4, rotary_dim=4, vocab_size=20, n_positions=8))
    torch.nn.init.zeros_(model.lm_head.weight)
    checkpoint.save(model, tmp_path, int8=True)
    assert (checkpoint.load(tmp_path).lm_head.weight == 0).all()


@pytest.mark.parametrize("partitions", [4, 8])
def test_the_permutation_follows_the_published_layout(partitions: int) -> None:
    """Rows lie in [partition][q, v, k][head of the partition][dim]; they are to lie in [q, k, v][head][dim]."""
    heads, dim = 16, 3
    labels = [
        (kind, part * (heads // partitions) + head, d)
        for part in range(partitions)
        for kind in "qvk"
        for head in range(heads // partitions)
        for d in range(dim)
    ]
    wanted = [(kind, head, d) for kind in "qkv" for head in range(heads) for d in range(dim)]
    stored = torch.arange(len(labels))[:, None].expand(-1, 2)
    ordered = heads_in_order(stored, partitions)
    assert [labels[row] for row in ordered[:, 0].tolist()] == wanted
    assert torch.equal(partitioned(ordered, partitions), stored)


def test_the_buffers_of_other_versions_are_ignored(tiny_folder: Path, folder: Path) -> None:
    def add(tensors: dict[str, Tensor]) -> None:
        for i in range(2):
            tensors[f"transformer.h.{i}.attn.causal_mask"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
            tensors[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
            tensors[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e9)
            tensors[f"transformer.h.{i}.attn.embed_positions"] = torch.zeros(8, 4)

    change(folder, add)
    assert (logits(folder) == logits(tiny_folder)).all()


def swap(key: str, tensor: Tensor | None) -> Callable[[dict[str, Tensor]], None]:
    def edit(tensors: dict[str, Tensor]) -> None:
        tensors.pop(key, None)
        if tensor is not None:
            tensors[key] = tensor

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (swap("transformer.h.1.attn.qkv_proj.weight", None), r"lacks the tensor transformer\.h\.1\.attn\.qkv_proj\.weight$"),
        (
            lambda tensors: tensors.clear() or tensors.update(a=torch.zeros(1)),
            r"lacks the tensor transformer\.wte\.weight \(and \d+ more\)$",
        ),
        (swap("lm_head.bias", torch.zeros(3)), r"lm_head\.bias has the shape \(3,\), and config\.json asks for \(\d+,\)$"),
        (swap("transformer.wte.weight", torch.zeros(2, 2)), r"wte\.weight has the shape \(2, 2\), and config\.json asks for"),
        (
            swap("transformer.h.2.ln_1.weight", torch.zeros(32)),
            r"has a tensor that CodeGen has not: transformer\.h\.2\.ln_1\.weight$",
        ),
        (swap("lm_head.bias.scale", torch.zeros(3)), r"lm_head\.bias\.scale has the shape \(3,\), not \(\d+,\)$"),
        (swap("transformer.ln_f.bias", torch.zeros(32, dtype=torch.int32)), r"transformer\.ln_f\.bias is stored as int32"),
    ],
)
def test_a_wrong_tensor_is_named_in_one_line(folder: Path, edit: Callable[[dict[str, Tensor]], None], message: str) -> None:
    change(folder, edit)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", [lambda folder: None, to_pickle, to_shards], ids=["safetensors", "bin", "shards"])
@pytest.mark.parametrize("keep", [0, 7, 0.5, 0.99])
def test_weights_cut_short_are_one_line(folder: Path, layout: Callable[[Path], None], keep: float) -> None:
    layout(folder)
    file = next(path for path in sorted(folder.iterdir()) if path.suffix in {".safetensors", ".bin"})
    data = file.read_bytes()
    file.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(CheckpointError, match=rf"{file.name} is damaged[^\n]*$"):
        checkpoint.load(folder)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    content = {"a": Evil(tmp_path / "ran")}
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        write(content, folder / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is damaged, or not a checkpoint of plain tensors[^\n]*$"):
            checkpoint.load(folder)
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [(1, 2), {"a": 3}, torch.zeros(3), "text"], ids=str)
def test_a_pickle_that_is_not_a_checkpoint_is_one_line(folder: Path, content: object) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it holds no dictionary of tensors$"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is not an index of shards"),
        ("[]", "is not an index of shards"),
        ('{"weight_map": 3}', "is not an index of shards"),
        ('{"weight_map": {"a": 3}}', "names a shard outside its folder: 3$"),
        ('{"weight_map": {"a": "../copy/model.safetensors"}}', "names a shard outside its folder"),
        ('{"weight_map": {"a": "gone.safetensors"}}', r"gone\.safetensors is missing$"),
        ('{"weight_map": {"a": "some.safetensors"}}', r"some\.safetensors lacks the tensor a that its index puts there$"),
    ],
)
def test_a_bad_index_is_one_line(folder: Path, index: str, message: str) -> None:
    (folder / "model.safetensors").rename(folder / "some.safetensors")
    (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_or_config_is_one_line(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no weights: none of model\.safetensors, "):
        checkpoint.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no config\.json: name the folder of a checkpoint$"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"model_type": "llama"}, "of type 'llama': only 'codegen'"),
        ({"n_head": None}, "lacks a whole number for 'n_head'"),
        ({"n_head": 6}, "not a multiple"),
        ({"n_head": 2}, "n_head 2 is not a multiple of 4"),
        ({"n_layer": 0}, "must be positive"),
        ({"rotary_dim": 3}, "rotary_dim 3 is odd"),
        ({"rotary_dim": 64}, "rotary_dim 64 is odd or larger than a head"),
        ({"activation_function": "relu"}, "asks for 'relu'"),
        ({"n_inner": "wide"}, "n_inner must be null or a whole number"),
    ],
)
def test_a_bad_config_is_one_line(folder: Path, edit: dict[str, object], message: str) -> None:
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(data | edit), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "3"])
def test_a_config_that_is_no_object_is_one_line(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json (cannot be read|holds no configuration)[^\n]*$"):
        checkpoint.load(folder)


def test_end_of_text_of_old_configs_is_mended() -> None:
    data = PUBLISHED["350M"].to_dict()
    for stored, expected in ((2, END_OF_TEXT), (None, END_OF_TEXT), (50256, END_OF_TEXT), (50290, 50290)):
        assert Config.from_dict(data | {"eos_token_id": stored}).eos_token_id == expected
    nano = Config.read(hub.locate("nano") / "config.json")
    assert Config.from_dict(nano.to_dict()) == nano


@pytest.mark.parametrize(
    ("size", "parameters"), [("350M", 356_712_448), ("2B", 2_779_356_160), ("6B", 7_064_213_504), ("16B", 16_032_155_648)]
)
def test_the_published_sizes_have_their_parameters(size: str, parameters: int) -> None:
    with torch.device("meta"):
        model = CodeGen(PUBLISHED[size])
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_dtype_and_device(tiny_folder: Path) -> None:
    assert checkpoint.load(tiny_folder, device="cpu").lm_head.weight.dtype == torch.float32
    assert checkpoint.load(tiny_folder, dtype="bf16").lm_head.weight.dtype == torch.bfloat16
    with pytest.raises(UsageError, match="there is no dtype 'fp8': use auto, fp32, bf16, fp16"):
        checkpoint.load(tiny_folder, dtype="fp8")
    for device in ("toaster", "cuda:77"):
        with pytest.raises(UsageError, match=f"there is no device '{device}' on this machine"):
            checkpoint.load(tiny_folder, device=device)
