"""The gate: what we compute is what transformers' CodeGenForCausalLM computes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from codegen_chat.lm import checkpoint, hub
from codegen_chat.lm.model import TorchStep, attentions
from codegen_chat.lm.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-4

# heads, head size, rotary_dim, inner width (None: four times n_embd)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *(["mps"] if torch.backends.mps.is_available() else [])]
SHAPES = [(4, 8, 4, None), (4, 16, 16, 96), (8, 4, 2, None), (8, 12, 8, None), (16, 4, 4, 40), (16, 20, 10, None)]


def close(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> bool:
    return ours.dtype == np.float32 and ours.shape == theirs.shape and bool(np.abs(ours - theirs).max() < TOLERANCE)


def by_pieces(step: TorchStep, ids: NDArray[np.int64], sizes: list[int]) -> NDArray[np.float32]:
    """Return the logits (T, V) of ids that are run in pieces over the cache."""
    step.truncate(0)
    return np.concatenate([step(piece, every=True) for piece in np.split(ids, np.cumsum(sizes)[:-1])])


def greedy(step: TorchStep, ids: NDArray[np.int64], count: int) -> list[int]:
    step.truncate(0)
    logits, tokens = step(ids), []
    for _ in range(count):
        tokens.append(int(logits.argmax()))
        logits = step(np.array(tokens[-1:]))
    return tokens


@pytest.fixture(scope="module", params=[(*shape, device) for shape in SHAPES for device in DEVICES], ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, TorchStep]:
    """A random reference model, and our step over the checkpoint that it wrote."""
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    heads, size, rotary, inner, device = request.param
    config = transformers.CodeGenConfig(
        vocab_size=97, n_positions=256, n_embd=heads * size, n_layer=3, n_head=heads, rotary_dim=rotary, n_inner=inner
    )
    torch.manual_seed(heads + size)
    reference = transformers.CodeGenForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            parameter.normal_(1.0 if "ln" in name and "weight" in name else 0.0, 1.0 if "wte" in name else 0.2)
    folder = tmp_path_factory.mktemp("reference")
    reference.save_pretrained(folder)
    return reference, TorchStep(checkpoint.load(folder, dtype="fp32", device=device))


def test_logits_and_hidden_states_of_a_whole_prompt(pair: tuple[Any, TorchStep]) -> None:
    reference, step = pair
    ids = np.random.default_rng(0).integers(0, 97, size=120)
    with torch.no_grad():
        expected = reference(torch.from_numpy(ids)[None], output_hidden_states=True)
    step.truncate(0)
    assert close(step(ids, every=True), expected.logits[0].numpy())
    step.truncate(0)
    assert close(step(ids), expected.logits[0, -1].numpy())
    step.truncate(0)
    assert close(step.features(ids), expected.hidden_states[-1][0].numpy())


def attended(reference: Any, ids: NDArray[np.int64]) -> NDArray[np.floating]:
    reference.set_attn_implementation("eager")
    with torch.no_grad():
        weights: NDArray[np.floating] = torch.cat(
            reference(torch.from_numpy(ids)[None], output_attentions=True).attentions
        ).numpy()
    return weights


def test_attention_weights(pair: tuple[Any, TorchStep]) -> None:
    """Equal within 1e-5, or the reference's own rounding: scores of the widest shape reach 84, where float32 steps by 8e-6."""
    reference, step = pair
    ids = np.random.default_rng(5).integers(0, 97, size=80)
    expected = attended(reference, ids)
    ours = attentions(step.model, ids)
    assert ours.dtype == np.float32
    assert ours.shape == expected.shape
    rounding = np.abs(attended(copy.deepcopy(reference).double(), ids) - expected).max()
    assert np.abs(ours - expected).max() < max(1e-5, rounding)


def test_attention_weights_of_a_trained_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = checkpoint.load(hub.locate("nano"))
    checkpoint.save(model, tmp_path)
    reference = transformers.CodeGenForCausalLM.from_pretrained(tmp_path).eval()
    tokenizer = Tokenizer.load(hub.locate("nano"))
    ids = np.array(
        tokenizer.encode("# Import libraries.\n\nimport numpy as np\n\n# Set x to 3.\nx = 3\n\n# Double it.\nx = x * 2\n" * 6)
    )
    assert np.abs(attentions(model, ids) - attended(reference, ids)).max() < 1e-5


def test_logits_token_by_token_and_after_truncation(pair: tuple[Any, TorchStep]) -> None:
    reference, step = pair
    ids = np.random.default_rng(1).integers(0, 97, size=60)
    with torch.no_grad():
        expected = reference(torch.from_numpy(ids)[None]).logits[0].numpy()
    assert close(by_pieces(step, ids, [1] * 60), expected)
    assert close(by_pieces(step, ids, [20, 1, 7, 32]), expected)
    step(ids[:30])
    step.truncate(33)
    assert close(step(ids[33:], every=True), expected[33:])


def test_greedy_continuations_of_200_tokens(pair: tuple[Any, TorchStep]) -> None:
    """The reference's likeliest token after each prefix of ours is our next one, so its greedy continuation is ours."""
    reference, step = pair
    for seed in (2, 3):
        ids = np.random.default_rng(seed).integers(0, 97, size=24)
        ours = greedy(step, ids, 200)
        with torch.no_grad():
            logits = reference(torch.tensor([[*ids.tolist(), *ours]])).logits[0]
        assert logits[23:-1].argmax(-1).tolist() == ours


def test_branches_that_share_a_past(pair: tuple[Any, TorchStep]) -> None:
    """Three continuations of one prompt, of different lengths, cut and written anew, and none at times."""
    reference, step = pair
    prompt, *tails = np.split(np.random.default_rng(4).integers(0, 97, size=30 + 3 * 70), [30, 100, 170])
    step.truncate(0)
    step(prompt)
    run = step.branch(3)
    plan = [([0, 1, 2], [i] * 3) for i in range(3)] + [([2, 0], [i, i - 2]) for i in range(3, 70)]
    for which, lengths in plan:
        logits = run(which, lengths, [int(tails[i][length]) for i, length in zip(which, lengths, strict=True)])
        for row, i, length in zip(logits, which, lengths, strict=True):
            ids = torch.from_numpy(np.concatenate((prompt, tails[i][: length + 1])))
            with torch.no_grad():
                expected = reference(ids[None]).logits[0, -1].numpy()
            assert close(row, expected)
    assert step.length == 30


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["heads4", "heads8", "heads16"])
def test_the_golden_files(name: str, device: str) -> None:
    """The same against committed figures, without transformers."""
    expected = np.load(GOLDEN / name / "expected.npz")
    step = TorchStep(checkpoint.load(GOLDEN / name, dtype="fp32", device=device))
    ids = expected["ids"]
    assert close(by_pieces(step, ids, [len(ids)]), expected["logits"])
    assert close(by_pieces(step, ids, [1] * len(ids)), expected["logits"])
    step.truncate(0)
    assert close(step.features(ids), expected["hidden"])
    assert greedy(step, ids[:20], 200) == expected["greedy"].tolist()


def test_the_step_keeps_to_its_window() -> None:
    step = TorchStep(checkpoint.load(GOLDEN / "heads4"))
    step(np.zeros(256, dtype=np.int64))
    with pytest.raises(ValueError, match="257 tokens do not fit a window of 256"):
        step(np.zeros(1, dtype=np.int64))
    with pytest.raises(ValueError, match="cannot truncate a cache of 256 to 257"):
        step.truncate(257)


@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_stays_near(device: str) -> None:
    expected = np.load(GOLDEN / "heads4" / "expected.npz")
    for dtype, tolerance in (("bf16", 0.5), ("fp16", 0.06)):
        logits = TorchStep(checkpoint.load(GOLDEN / "heads4", dtype=dtype, device=device))(expected["ids"], every=True)
        assert logits.dtype == np.float32
        assert np.abs(logits - expected["logits"]).max() < tolerance
