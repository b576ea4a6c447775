"""Log probabilities and loss beside transformers' own."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from codegen_chat.api import Model, load
from codegen_chat.bench.likelihood import likelihood, logprobs, of_parts
from tests.test_cli import Cli

TEXT = "# Add the numbers.\ntotal = sum([1, 2, 3])\nprint(total)  # é\n" * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random checkpoint with the embedded model's vocabulary."""
    torch.manual_seed(3)
    config = transformers.CodeGenConfig(
        vocab_size=6144, n_positions=128, n_ctx=128, n_embd=64, n_layer=2, n_head=4, rotary_dim=8, bos_token_id=0, eos_token_id=0
    )
    path = tmp_path_factory.mktemp("random")
    model = transformers.CodeGenForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.mul_(4)  # far from uniform
    model.save_pretrained(path)
    tokenizer = Path(load.__code__.co_filename).with_name("assets") / "nano" / "tokenizer.json"
    (path / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(folder, dtype="fp32")


@pytest.fixture(scope="module")
def reference(folder: Path) -> transformers.CodeGenForCausalLM:
    return transformers.CodeGenForCausalLM.from_pretrained(folder).eval()


def test_the_loss_is_transformers(model: Model, reference: transformers.CodeGenForCausalLM) -> None:
    ids = torch.tensor([model.tokenizer.encode(TEXT)])
    assert 20 < ids.shape[1] <= 128
    with torch.no_grad():
        loss = reference(ids, labels=ids).loss.item()
    found = likelihood(model, TEXT)
    assert found.tokens == ids.shape[1] - 1
    assert found.loss == pytest.approx(loss, abs=1e-4)
    assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-4)


def test_a_long_text_counts_each_token_once_after_half_a_window(model: Model) -> None:
    long = TEXT * 3
    ids = model.tokenizer.encode(long)
    assert len(ids) > 2 * 128
    scores = [*logprobs(model, ids[:128])]
    for start in range(64, len(ids) - 65, 64):
        scores += list(logprobs(model, ids[start : start + 128]))[63:]
    found = likelihood(model, long)
    assert found.tokens == len(ids) - 1
    assert found.logprob == pytest.approx(sum(scores), abs=1e-3)


def test_the_command_prints_the_loss(
    run: Cli, folder: Path, model: Model, reference: transformers.CodeGenForCausalLM, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text(TEXT)
    ids = torch.tensor([model.tokenizer.encode(TEXT)])
    with torch.no_grad():
        loss = reference(ids, labels=ids).loss.item()
    done = run("bench", "perplexity", "text", "-m", folder, "--dtype", "fp32", "--json")
    assert json.loads(done.out)["loss"] == pytest.approx(loss, abs=1e-4)
    assert "loss" in run("bench", "perplexity", "-", "-m", folder, stdin=TEXT).out
    assert run("bench", "perplexity", "-", "-m", folder, stdin="x").code == 2


def test_logprobs_of_an_answer_are_transformers(run: Cli, folder: Path, reference: transformers.CodeGenForCausalLM) -> None:
    flags = ["--dtype", "fp32", "--max-new-tokens", "12", "--temperature", "0.8", "--json", "--logprobs", "-n", "2"]
    lines = run("complete", TEXT[:60], "-m", folder, *flags).out.splitlines()
    prompt = load(folder).tokenizer.encode(TEXT[:60])
    for line in map(json.loads, lines):
        with torch.no_grad():
            scores = reference(torch.tensor([prompt + line["token_ids"]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        wanted = scores[torch.arange(len(line["token_ids"])), line["token_ids"]]
        assert np.allclose(line["logprobs"], wanted, atol=1e-4)
        assert line["logprob"] == pytest.approx(wanted.sum().item(), abs=1e-3)
        assert len(line["tokens"]) == len(line["token_ids"])
    assert len(lines) == 2


def test_parts_of_a_text(model: Model) -> None:
    ids = model.tokenizer.encode(TEXT)
    scores = logprobs(model, ids)
    whole = of_parts(model, TEXT, [(0, len(TEXT))])
    assert whole == pytest.approx(math.exp(-scores.mean()))
    comment = len(model.tokenizer.encode("# Add the numbers.\n"))
    assert of_parts(model, TEXT, [(0, 19)]) == pytest.approx(math.exp(-scores[: comment - 1].mean()))
    assert of_parts(model, TEXT * 9, [(0, 9)]) is None
    assert of_parts(model, TEXT, []) is None
