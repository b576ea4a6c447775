"""The native step computes what the torch step computes, whatever the shape, the dtype, the instructions and the company."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from codegen_chat.errors import CodegenChatError, UsageError
from codegen_chat.lm import checkpoint, hub, native, steps
from codegen_chat.lm.config import Config
from codegen_chat.lm.engine import Engine
from codegen_chat.lm.model import TorchStep
from codegen_chat.lm.stored import Weights
from codegen_chat.lm.tokenizer import Tokenizer
from codegen_chat.prompt import conversation_stop
from codegen_chat.turn import Completed, Completion, Prompt, Sampling
from tests.lm.conftest import random_model

pytestmark = pytest.mark.skipif(not native.instructions(), reason=f"the native step {native.state()}")

GOLDEN = Path(__file__).parents[1] / "golden"
NANO = hub.locate("nano")

# heads, head size, rotary_dim, inner width (None: four times n_embd), vocabulary: odd ones, and ones that fill no block
SHAPES = [
    (4, 8, 4, None, 97),
    (4, 16, 16, 96, 64),
    (8, 4, 2, 40, 33),
    (8, 12, 8, None, 131),
    (16, 20, 10, None, 50),
    (4, 80, 40, 601, 70),
]
ROUNDED = {"fp32": 1e-4, "fp16": 0.01, "int8": 0.01, "int4": 0.01}
"""How far the logits of weights that the dtype can express may be from the reference, in their standard deviations."""


def expressible(dtype: str, weight: torch.Tensor) -> torch.Tensor:
    """Return a matrix near this one that the dtype stands for exactly."""
    if dtype == "fp32":
        return weight
    if dtype == "fp16":
        return weight.half().float()
    if dtype == "int8":
        scale = weight.abs().amax(1, keepdim=True) / 127
        return (weight / scale).round() * scale
    rows, columns = weight.shape
    groups = torch.nn.functional.pad(weight, (0, -columns % native.GROUP)).view(rows, -1, native.GROUP)
    scale = groups.abs().amax(2, keepdim=True) / 8
    whole = (groups / scale).round().clamp(-8, 7)
    whole[:, :, 0] = -8  # by which the scale is found
    return (whole * scale).view(rows, -1)[:, :columns].contiguous()


@pytest.fixture(scope="module", params=[(shape, dtype) for shape in SHAPES for dtype in ROUNDED], ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TorchStep, str]:
    """A random checkpoint whose weights the dtype can express, the reference over it, and the dtype."""
    shape, dtype = request.param
    model = random_model(*shape)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.copy_(expressible("int8" if dtype == "int4" and "wte" in name else dtype, parameter))
    folder = tmp_path_factory.mktemp("random")
    checkpoint.save(model, folder)
    return folder, TorchStep(checkpoint.load(folder)), dtype


def native_step(folder: Path, dtype: str, **more: object) -> native.NativeStep:
    config = Config.read(folder / "config.json")
    return native.NativeStep(config, Weights(folder, config), dtype, **more)  # type: ignore[arg-type]


def by_pieces(step: native.NativeStep, ids: NDArray[np.int64], sizes: list[int]) -> NDArray[np.float32]:
    """Return the logits (T, V) of ids that are run in pieces over the cache."""
    step.truncate(0)
    return np.concatenate([step(piece, every=True) for piece in np.split(ids, np.cumsum(sizes)[:-1])])


@pytest.mark.parametrize("with_instructions", native.instructions())
def test_logits_and_features_are_those_of_the_reference(pair: tuple[Path, TorchStep, str], with_instructions: str) -> None:
    folder, reference, dtype = pair
    ids = np.random.default_rng(0).integers(0, reference.config.vocab_size, size=90)
    reference.truncate(0)
    expected = reference(ids, every=True)
    reference.truncate(0)
    hidden = reference.features(ids)
    step = native_step(folder, dtype, with_instructions=with_instructions, threads=2)
    logits = step(ids, every=True)
    assert logits.dtype == np.float32
    assert np.abs(logits - expected).max() < ROUNDED[dtype] * expected.std() * 5
    assert np.abs(logits - expected).std() < ROUNDED[dtype] * expected.std()
    step.truncate(0)
    assert np.abs(step.features(ids) - hidden).std() < ROUNDED[dtype] * hidden.std()


@pytest.mark.parametrize("with_instructions", native.instructions())
def test_company_changes_nothing_to_the_last_bit(pair: tuple[Path, TorchStep, str], with_instructions: str) -> None:
    """Alone, in pieces of any size, after a truncation, with other threads, or as one of several branches."""
    folder, reference, dtype = pair
    ids = np.random.default_rng(1).integers(0, reference.config.vocab_size, size=80)
    step = native_step(folder, dtype, with_instructions=with_instructions, threads=1)
    whole = step(ids, every=True)
    assert (by_pieces(step, ids, [1] * 80) == whole).all()
    assert (by_pieces(step, ids, [20, 1, 7, 52]) == whole).all()
    step.truncate(33)
    assert (step(ids[33:]) == whole[-1]).all()
    assert (native_step(folder, dtype, with_instructions=with_instructions, threads=3)(ids, every=True) == whole).all()

    step.truncate(30)
    run = step.branch(3)
    tails = [ids[30:], ids[:50], ids[10:60]]
    plan = [([0, 1, 2], [i] * 3) for i in range(3)] + [([2, 0], [i, i - 2]) for i in range(3, 50)]
    told = [
        (row, [*ids[:30], *tails[i][: length + 1]])
        for which, lengths in plan
        for row, i, length in zip(
            run(which, lengths, [int(tails[i][length]) for i, length in zip(which, lengths, strict=True)]),
            which,
            lengths,
            strict=True,
        )
    ]
    assert step.length == 30
    for row, held in told:
        step.truncate(0)
        assert (step(np.array(held)) == row).all()


def test_weights_packed_in_pieces_are_the_same(pair: tuple[Path, TorchStep, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, reference, dtype = pair
    ids = np.random.default_rng(2).integers(0, reference.config.vocab_size, size=20)
    whole = native_step(folder, dtype)(ids, every=True)
    monkeypatch.setattr(native, "ROWS", 32)
    assert (native_step(folder, dtype)(ids, every=True) == whole).all()


@pytest.mark.parametrize("name", ["heads4", "heads8", "heads16"])
def test_the_golden_files(name: str) -> None:
    """What transformers computed in float32, to the same tolerance as the torch step, from weights stored in half precision."""
    expected = np.load(GOLDEN / name / "expected.npz")
    for with_instructions in native.instructions():
        step = native_step(GOLDEN / name, "fp32", with_instructions=with_instructions)
        ids = expected["ids"]
        assert np.abs(step(ids, every=True) - expected["logits"]).max() < 1e-4
        step.truncate(0)
        assert np.abs(step.features(ids) - expected["hidden"]).max() < 1e-4
        step.truncate(0)
        logits, greedy = step(ids[:20]), []
        for _ in range(200):
            greedy.append(int(logits.argmax()))
            logits = step(np.array(greedy[-1:]))
        assert greedy == expected["greedy"].tolist()


def test_the_step_keeps_to_its_window_and_its_vocabulary() -> None:
    step = native_step(GOLDEN / "heads4", "int8")
    step(np.zeros(256, dtype=np.int64))
    with pytest.raises(ValueError, match="257 tokens do not fit a window of 256"):
        step(np.zeros(1, dtype=np.int64))
    with pytest.raises(ValueError, match="cannot truncate a cache of 256 to 257"):
        step.truncate(257)
    step.truncate(0)
    for token in (-1, 61):
        with pytest.raises(ValueError, match="token ids go from 0 to 60"):
            step(np.array([token]))
    with pytest.raises(ValueError, match="do not fit a window"):
        step.branch(1)([0], [256], [1])


@pytest.fixture(scope="module")
def engines() -> tuple[Engine, Engine]:
    """The embedded model on the native step, and on the reference."""
    step = steps.load(NANO)
    assert isinstance(step, native.NativeStep)
    tokenizer = Tokenizer.load(NANO)
    return Engine(step, tokenizer), Engine(TorchStep(checkpoint.load(NANO)), tokenizer)


def completion(engine: Engine, prompt: Prompt, sampling: Sampling) -> Completion:
    *_, last = engine.complete(prompt, sampling)
    assert isinstance(last, Completion)
    return last


WORDS = [
    "Store the sum of nums in total.",
    "Sort nums from the largest down and print it.",
    "Define a function f that squares x.",
]


@pytest.mark.parametrize("words", WORDS)
def test_the_embedded_model_says_the_same_on_both(engines: tuple[Engine, Engine], words: str) -> None:
    ours, reference = engines
    prompt = Prompt(f"# Assign [3, 1, 2] to nums.\nnums = [3, 1, 2]\n\n# {words}\n", conversation_stop, 40)
    for sampling in (Sampling(), Sampling(0.8, 0.95, seed=5)):
        one, other = completion(ours, prompt, sampling), completion(reference, prompt, sampling)
        assert one.text == other.text
        assert one.logprob == pytest.approx(other.logprob, abs=0.02 * (1 + len(one.token_ids)))


def test_warm_is_cold_and_together_is_alone_to_the_last_bit(engines: tuple[Engine, Engine]) -> None:
    engine, _ = engines
    samplings = [Sampling(), *(Sampling(1.0, seed=seed) for seed in range(5))]
    for text in ("# Make a list.\n", "# Make a list.\nx = [1, 2]\n\n# Sum it.\n", "# Make a"):
        prompt = Prompt(text, conversation_stop, 30)
        together = {e.candidate: e.completion for e in engine.complete_many(prompt, samplings) if isinstance(e, Completed)}
        for index, sampling in enumerate(samplings):
            warm = completion(engine, prompt, sampling)
            engine.logits([1])  # makes the next one cold
            cold = completion(engine, prompt, sampling)
            assert warm.token_ids == cold.token_ids == together[index].token_ids
            assert warm.logprobs == cold.logprobs == together[index].logprobs


def test_auto_is_the_stored_dtype_on_the_native_step(tmp_path: Path) -> None:
    assert (steps.load(NANO).dtype, steps.load(NANO).device, steps.load(NANO).backend[:6]) == ("int8", "cpu", "native")
    half = steps.load(GOLDEN / "heads4")
    assert (half.dtype, half.backend[:6]) == ("fp16", "native")
    assert isinstance(steps.load(NANO, "bf16"), TorchStep)
    for dtype in native.FORMATS:
        step = steps.load(NANO, dtype, "cpu")
        assert (step.dtype, step.backend[:6]) == (dtype, "native")


def test_without_the_library_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_library", lambda: None)
    assert isinstance(steps.load(NANO), TorchStep)
    with pytest.raises(UsageError, match="int4 is computed by the native step on a CPU, and that was not built"):
        steps.load(NANO, "int4")
    config = Config.read(NANO / "config.json")
    with pytest.raises(CodegenChatError, match="the native step was not built"):
        native.NativeStep(config, Weights(NANO, config), "int8")


def test_neither_the_embedded_model_nor_a_pickled_one_imports_torch(tmp_path: Path) -> None:
    checkpoint.save(checkpoint.load(NANO), tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    shutil.copy(NANO / "tokenizer.json", tmp_path)
    script = (
        "import sys, codegen_chat; text = '# Print hello.\\n'; nano, same = (codegen_chat.load(each) for each in sys.argv[1:]);"
        "assert nano.complete(text)[0].text == same.complete(text, temperature=0)[0].text; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, "nano", tmp_path], check=True)
