"""int8 in plain torch computes what the reference does with the same weights, and a token's products do not know its company."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen_chat.errors import UsageError
from codegen_chat.lm import checkpoint, hub, int8, native, steps
from codegen_chat.lm.config import Config
from codegen_chat.lm.engine import Engine
from codegen_chat.lm.model import TorchStep, attentions
from codegen_chat.lm.stored import Weights
from codegen_chat.lm.tokenizer import Tokenizer
from codegen_chat.prompt import conversation_stop
from codegen_chat.turn import Completed, Completion, Prompt, Sampling
from tests.lm.conftest import random_model

pytestmark = pytest.mark.skipif(not int8.available(), reason="FBGEMM is for x86")

NANO = hub.locate("nano")

SHAPES = [(4, 8, 4, None, 97), (8, 12, 8, 96, 131), (16, 20, 10, None, 50), (4, 80, 40, 601, 70)]
"""Heads, head size, rotary_dim, inner width, vocabulary."""


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TorchStep, int8.Int8Step]:
    """A random checkpoint stored as int8, the reference with what it stands for, and int8."""
    model = random_model(*request.param)
    with torch.no_grad():
        model.lm_head.weight[5] = 0  # as of a token that was never seen
    folder = tmp_path_factory.mktemp("random")
    checkpoint.save(model, folder, int8=True)
    return folder, TorchStep(checkpoint.load(folder)), int8.load(Weights(folder, model.config))


def test_logits_and_features_are_those_of_the_reference(pair: tuple[Path, TorchStep, int8.Int8Step]) -> None:
    _, reference, step = pair
    ids = np.random.default_rng(0).integers(0, reference.config.vocab_size, size=90)
    for kind in ("__call__", "features"):
        reference.truncate(0)
        step.truncate(0)
        expected, ours = (getattr(one, kind)(ids, **({"every": True} if kind == "__call__" else {})) for one in (reference, step))
        assert ours.dtype == np.float32
        assert np.abs(ours - expected).max() < 0.01 * expected.std()
    step.truncate(0)
    pieces = np.concatenate([step(piece, every=True) for piece in np.split(ids, [1, 2, 30])])
    reference.truncate(0)
    assert np.abs(pieces - reference(ids, every=True)).max() < 0.01 * pieces.std()
    assert (step.dtype, step.device, step.backend[:5]) == ("int8", "cpu", "torch")


def test_branches_are_those_of_the_reference(pair: tuple[Path, TorchStep, int8.Int8Step]) -> None:
    _, reference, step = pair
    ids = np.random.default_rng(1).integers(0, reference.config.vocab_size, size=40)
    for one in (reference, step):
        one.truncate(0)
        one(ids[:30])
    runs = reference.branch(3), step.branch(3)
    for i in range(5):
        expected, ours = (run([0, 2], [i, i], [int(ids[30 + i]), int(ids[i])]) for run in runs)
        assert np.abs(ours - expected).max() < 0.01 * expected.std()


def test_attention_is_that_of_the_reference(pair: tuple[Path, TorchStep, int8.Int8Step]) -> None:
    _, reference, step = pair
    ids = np.arange(20)
    assert np.abs(attentions(step.model, ids) - attentions(reference.model, ids)).max() < 0.01


@pytest.fixture(scope="module")
def layer() -> tuple[int8.Int8Linear, torch.Tensor]:
    """A layer of the embedded model, and its matrix (R, C)."""
    weights, name = Weights(NANO, Config.read(NANO / "config.json")), "transformer.h.0.mlp.fc_out"
    return int8.Int8Linear(weights, [name]), torch.from_numpy(weights.floats(f"{name}.weight")).double()


@settings(max_examples=30)
@given(tokens=st.integers(1, 40), spread=st.floats(0, 20), sign=st.sampled_from([-1, 1]), seed=st.integers(0, 99))
def test_a_tokens_product_is_near_and_the_same_in_any_company(
    layer: tuple[int8.Int8Linear, torch.Tensor], tokens: int, spread: float, sign: int, seed: int
) -> None:
    """Tokens large and small, and one that is zero."""
    linear, weight = layer
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** (sign * rng.uniform(0, spread, (tokens, 1)))
    x = torch.from_numpy(rng.normal(size=(tokens, weight.shape[1])) * sizes).float()
    x[tokens // 2] = 0
    found, exact = linear(x) - linear.bias, x.double() @ weight.T
    assert ((found - exact).norm(dim=1) <= 1e-3 * exact.norm(dim=1) + 1e-5).all()
    found = linear(x)
    assert torch.equal(found, torch.cat([linear(one[None]) for one in x]))
    assert torch.equal(found[: tokens // 2 + 1], linear(x[: tokens // 2 + 1]))


def test_weights_made_int8_in_pieces_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a checkpoint in floating point, read by a few rows."""
    checkpoint.save(checkpoint.load(NANO), tmp_path)
    config, ids = Config.read(NANO / "config.json"), np.arange(30)
    expected = int8.load(Weights(NANO, config))(ids, every=True)
    monkeypatch.setattr(int8, "ROWS", 100)
    assert np.abs(int8.load(Weights(tmp_path, config))(ids, every=True) - expected).max() < 1e-3 * expected.std()


def test_the_embedded_model_says_what_it_says_in_full_precision() -> None:
    tokenizer = Tokenizer.load(NANO)
    engines = [
        Engine(step, tokenizer)
        for step in (int8.load(Weights(NANO, Config.read(NANO / "config.json"))), TorchStep(checkpoint.load(NANO)))
    ]
    for words in ("Store the sum of nums in total.", "Sort nums from the largest down and print it."):
        prompt = Prompt(f"# Assign [3, 1, 2] to nums.\nnums = [3, 1, 2]\n\n# {words}\n", conversation_stop, 40)
        alone: list[Completion] = []
        for engine in engines:
            *_, last = engine.complete(prompt, Sampling())
            assert isinstance(last, Completion)
            alone.append(last)
        assert alone[0].text == alone[1].text
        assert alone[0].logprob == pytest.approx(alone[1].logprob, abs=0.02 * (1 + len(alone[0].token_ids)))
        many = [e.completion for e in engines[0].complete_many(prompt, [Sampling(), Sampling()]) if isinstance(e, Completed)]
        assert [each.text for each in many] == [alone[0].text] * 2


def test_it_is_what_int8_is_without_the_native_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_library", lambda: None)
    step = steps.load(NANO, "int8")
    assert isinstance(step, int8.Int8Step)
    assert steps.reference(step, NANO) is step.model
    with pytest.raises(UsageError, match="int8 is computed on a CPU"):
        steps.load(NANO, "int8", "meta")
    monkeypatch.setattr(int8, "available", lambda: False)
    with pytest.raises(UsageError, match="or an x86 CPU"):
        steps.load(NANO, "int8")
