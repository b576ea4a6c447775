"""The trainer: a recipe is checked, a run can be broken off anywhere, and its model is one that the product loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from codegen_chat import models
from codegen_chat.errors import SettingsError
from codegen_chat.lm.config import Config
from codegen_chat.train import trainer
from codegen_chat.train.muon import Muon, orthogonalise
from codegen_chat.train.trainer import Recipe, prepare, train

TINY = """
n_layer = 2
n_embd = 32
n_head = 4
rotary_dim = 8
vocab_size = 512
tokens = {tokens}
batch_tokens = 1024
longest = 448
seed = 1
muon_lr = 0.02
adam_lr = 0.002
warmup_steps = 2
words = 0.1
decay = 0.3
workers = {workers}
sessions = 4
fresh = {fresh}
width = 16
vocabulary_sessions = 50
keep = 0
{mixed}
"""


def recipe(folder: Path, *, tokens: int = 1200, workers: int = 1, fresh: int = 0, mixed: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.toml"
    path.write_text(TINY.format(tokens=tokens, workers=workers, fresh=fresh, mixed=mixed), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, which a run that finds it in its folder need not learn."""
    folder = tmp_path_factory.mktemp("tokenizer")
    prepare(Recipe.read(recipe(folder)), folder)
    return folder / "tokenizer.json"


def other(folder: Path, tokenizer: Path) -> str:
    """Write a tokenizer and documents of another kind into a run's folder; return the recipe's lines that mix these in."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(tokenizer, folder)
    lines: list[dict[str, object]] = [{"text": f"# Add {n}\nx = x + {n}\n"} for n in range(40)]
    lines += [{"steps": [["x is 3", "x = 3"], ["print it", "print(x)"]], "learned": "last"}] * 40
    (folder / "other.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return '[[mixed]]\nfile = "other.jsonl"\nstart = 0.1\nend = 0.9\nshare = 0.5\n'


def test_a_run_broken_off_twice_ends_where_an_unbroken_one_does(tmp_path: Path, learned: Path) -> None:
    mixed = other(tmp_path / "whole", learned)
    other(tmp_path / "broken", learned)
    path = recipe(tmp_path, tokens=2500, fresh=1, mixed=mixed)
    list(train(path, tmp_path / "whole"))
    for minutes in (0, 0, 60):
        list(train(path, tmp_path / "broken", minutes=minutes))
    whole, state = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "broken"))
    assert state["at"] == whole["at"]
    assert state["at"]["step"] > 3
    assert min(state["at"]["taken"]) > 0
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, state["model"][name]), name


def test_workers_share_a_step_and_the_model_loads(tmp_path: Path) -> None:
    list(train(recipe(tmp_path, tokens=1200, workers=2), tmp_path / "run"))
    model = models.load(tmp_path / "run" / "model")
    assert model.engine.sampling.temperature == 0
    logits = model.logits(model.tokenizer.encode("x = 1\n"))
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()


def test_a_recipe_says_what_is_wrong(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    text = path.read_text(encoding="utf-8")
    for wrong, message in (
        (text + "epochs = 3\n", "unknown key 'epochs'"),
        (text.replace("decay = 0.3\n", ""), "missing key 'decay'"),
        (text.replace("seed = 1", 'seed = "one"'), "seed must be a int"),
        ("= 3", "recipe.toml"),
    ):
        path.write_text(wrong, encoding="utf-8")
        with pytest.raises(SettingsError, match=message):
            Recipe.read(path)


def test_a_file_that_is_not_there_and_a_worker_that_dies_are_told(tmp_path: Path, learned: Path) -> None:
    path = recipe(tmp_path, mixed=other(tmp_path / "run", learned))
    (tmp_path / "run" / "other.jsonl").unlink()
    with pytest.raises(SettingsError, match=r"other.jsonl is not there.*corpus.txt"):
        list(train(path, tmp_path / "run"))
    (tmp_path / "run" / "other.jsonl").write_text("no JSON", encoding="utf-8")
    with pytest.raises(RuntimeError, match="died"):
        list(train(path, tmp_path / "run"))


def test_the_rate_rises_stays_and_falls(tmp_path: Path) -> None:
    read = Recipe.read(recipe(tmp_path, tokens=1000))
    assert read.rate(0, 0) == 0.5
    assert read.rate(50, 600) == 1
    assert read.rate(90, 850) == pytest.approx(0.5)
    assert read.rate(99, 1000) == 0


def test_the_committed_recipe_is_the_embedded_model() -> None:
    read = Recipe.read(Path(trainer.__file__).with_name("nano.toml"))
    assert read.tokens >= 15_000_000
    folder = Path(models.__file__).parent / "assets" / "nano"
    assert models.load(folder).engine.tokenizer.end_of_text == 0
    assert Config.read(folder / "config.json") == read.config()


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 32, 8), (2, 8, 32)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.min() > 0.3
    assert values.max() < 1.4


def test_muon_treats_q_k_and_v_apart() -> None:
    torch.manual_seed(0)
    whole = torch.nn.Parameter(torch.zeros(24, 8))
    whole.grad = torch.randn(24, 8)
    parts = [torch.nn.Parameter(torch.zeros(8, 8)) for _ in range(3)]
    for part, gradient in zip(parts, whole.grad.chunk(3), strict=True):
        part.grad = gradient.clone()
    Muon([whole]).step()
    Muon(parts).step()
    torch.testing.assert_close(whole.detach(), torch.cat([part.detach() for part in parts]))
