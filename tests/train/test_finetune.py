"""Fine-tuning: what is learned from, that every way to compute it gives the same, and that its result is a model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codegen_chat import cli
from codegen_chat.conversation import Conversation
from codegen_chat.errors import SettingsError, UsageError
from codegen_chat.lm import checkpoint
from codegen_chat.lm.config import Config
from codegen_chat.lm.tokenizer import Tokenizer
from codegen_chat.making import Options
from codegen_chat.models import load
from codegen_chat.prompt import render
from codegen_chat.session.history import History
from codegen_chat.train.examples import gather
from codegen_chat.train.finetune import Lesson, Means, tune
from codegen_chat.train.lora import LowRank, adapt, merge
from codegen_chat.train.trainer import fresh
from codegen_chat.turn import Turn

LESSON = Lesson(epochs=2, batch=256, longest=64, rate=2e-3)
EVERY = Means(every=1)


@pytest.fixture(scope="module")
def model(scripted_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("init") / "small"
    vocabulary = len(Tokenizer.load(scripted_model))
    config = Config(n_layer=2, n_embd=32, n_head=4, rotary_dim=8, vocab_size=vocabulary, n_positions=256, eos_token_id=0)
    checkpoint.save(fresh(config, 1), folder)
    shutil.copyfile(scripted_model / "tokenizer.json", folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number in range(12):
        (folder / f"{number}.py").write_text("".join(f"x{line} = {number + line}\n" for line in range(4 + number)))
    return folder


def losses(events: list[dict[str, Any]]) -> list[float]:
    return [event[name] for event in events if "step" in event for name in ("loss", "validation") if event[name] is not None]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(folder).named_parameters())


# ---------------------------------------------------------------- examples


def test_files_are_cut_and_every_token_is_predicted_once(model: Path, data: Path) -> None:
    tokenizer = Tokenizer.load(model)
    made = gather(data, tokenizer, longest=64, seed=0)
    assert len(made.train) + len(made.held_out) >= 12
    taken = [*made.train.take(), *made.held_out.take()]
    assert max(len(ids) for ids, _ in taken) <= 64
    predicted = sum(len(ids) - 1 for ids, _ in taken)
    assert predicted == sum(len(tokenizer.encode(file.read_text())) for file in data.glob("*.py"))
    assert made.digest == gather(data, tokenizer, longest=64, seed=0).digest
    assert made.digest != gather(data, tokenizer, longest=64, seed=1).digest


def session(folder: Path, *, turns: int = 2) -> None:
    """Write a session: own code, answers of a model, one that was not accepted."""
    with History.create(folder, {"model": "scripted"}) as history:
        list(Conversation(None, None, history, Options()).run_code("own = 0"))
        for number in range(turns):
            history.append(Turn(f"t{number}", history.head, f"Set x{number}.", f"x{number} = {number}"))
        history.append(Turn("failed", history.head, "Fail.", "fail()", accepted=False))


def test_sessions_are_learned_as_they_are_prompted(model: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(model)
    session(tmp_path)
    session(tmp_path)
    ids, scored = gather(tmp_path, tokenizer, longest=500, seed=0).train.take()[0]
    turns = [Turn("", None, "", "own = 0"), *(Turn("", None, f"Set x{n}.", f"x{n} = {n}") for n in range(2))]
    assert tokenizer.decode(ids.tolist()) == render(turns) + "<|endoftext|>"
    learned = [token for token, flag in zip(ids.tolist(), scored, strict=True) if flag]
    assert tokenizer.decode(learned) == "#x0 = 0\n\n#x1 = 1\n\n<|endoftext|>"  # the '#' is where a turn ends


def test_a_long_session_begins_anew_and_what_cannot_be_read_is_told(model: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(model)
    for _ in range(2):
        session(tmp_path / "deep", turns=30)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "hidden.py").write_text("x = 1\n")
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'\n")
    (tmp_path / "other.jsonl").write_text("{}\n")
    made = gather(tmp_path, tokenizer, longest=300, seed=0)
    assert len(made.train) > 1
    texts = [tokenizer.decode(ids.tolist()) for ids, _ in made.train.take()]
    assert all(text.startswith("# Import libraries.\n") for text in texts)
    assert sum(text.count("# Set x29.") for text in texts) == 1
    assert [Path(re.split("[: ]", line)[0]).name for line in made.skipped] == ["latin.py", "other.jsonl"]
    for path in (tmp_path / "latin.py", tmp_path / "nowhere"):
        with pytest.raises(UsageError):
            gather(path, tokenizer, longest=300, seed=0)


# ---------------------------------------------------------------- learning


def test_it_learns_and_the_result_is_a_model(model: Path, data: Path, tmp_path: Path) -> None:
    events = list(tune(str(model), data, tmp_path, LESSON, Means(every=5)))
    steps = [event for event in events if "step" in event]
    assert steps[0]["step"] == 0
    assert steps[-1]["step"] == steps[-1]["steps"]
    assert steps[-1]["validation"] < steps[0]["validation"] - 0.5
    assert events[-1] == {"model": str(tmp_path / "model")}
    assert [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()] == steps
    assert (tmp_path / "curve.svg").read_text().startswith("<?xml")
    tuned = load(tmp_path / "model")
    assert np.isfinite(tuned.logits(tuned.tokenizer.encode("x1 = 2\n"))).all()
    transformers = pytest.importorskip("transformers")
    ids = tuned.tokenizer.encode("x1 = 2\n")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "model")("x1 = 2\n").input_ids == ids
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")(torch.tensor([ids])).logits[0].detach().numpy()
    assert np.abs(load(tmp_path / "model", dtype="fp32").logits(ids) - theirs).max() < 1e-4
    # From another run's result: the next stage begins where the last one ended.
    follows = next(tune(str(tmp_path / "model"), data, tmp_path / "next", LESSON, EVERY))
    assert follows["validation"] == pytest.approx(steps[-1]["validation"], abs=1e-6)


@pytest.mark.parametrize("lora", [0, 2])
def test_broken_off_anywhere_it_ends_where_an_unbroken_one_does(model: Path, data: Path, tmp_path: Path, lora: int) -> None:
    lesson = Lesson(epochs=2, batch=256, longest=64, rate=2e-3, lora=lora)
    whole = list(tune(str(model), data, tmp_path / "whole", lesson, Means(every=3)))
    for minutes in (0, 0, 60):
        list(tune(str(model), data, tmp_path / "broken", lesson, Means(every=3, minutes=minutes)))
    told = [json.loads(line) for line in (tmp_path / "broken" / "curve.jsonl").read_text().splitlines()]
    assert losses(told) == losses(whole)
    after, wanted = weights(tmp_path / "broken" / "model"), weights(tmp_path / "whole" / "model")
    assert all(torch.equal(after[name], tensor) for name, tensor in wanted.items())
    if lora:  # what is not adapted stayed as it was
        before = weights(model)
        assert torch.equal(before["lm_head.weight"], wanted["lm_head.weight"])
        assert not torch.equal(before["blocks.0.qkv.weight"], wanted["blocks.0.qkv.weight"])


def test_a_merged_model_computes_what_the_adapted_one_did(model: Path) -> None:
    adapted = checkpoint.load(model)
    adapt(adapted, 3)
    learned = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert all(name.endswith((".up", ".down")) for name in learned)
    for module in adapted.modules():
        if isinstance(module, LowRank):
            torch.nn.init.normal_(module.up, std=0.1)
    ids = torch.arange(20)[None]
    before = adapted(ids)
    merge(adapted)
    torch.testing.assert_close(adapted(ids), before, atol=1e-5, rtol=1e-5)
    assert dict(adapted.named_parameters()).keys() == weights(model).keys()


def test_every_way_to_compute_a_step_gives_the_same(model: Path, data: Path, tmp_path: Path) -> None:
    plain = losses(list(tune(str(model), data, tmp_path / "plain", LESSON, EVERY)))
    for name, means in (("parts", Means(accumulate=3, every=1)), ("again", Means(recompute=True, every=1))):
        assert losses(list(tune(str(model), data, tmp_path / name, LESSON, means))) == pytest.approx(plain, abs=1e-4)
    half = losses(list(tune(str(model), data, tmp_path / "half", LESSON, Means(bf16=True, every=1))))
    assert half == pytest.approx(plain, abs=0.1)
    assert half != plain


def test_another_lesson_needs_another_folder(model: Path, data: Path, tmp_path: Path) -> None:
    list(tune(str(model), data, tmp_path / "run", Lesson(epochs=1, longest=64), Means(minutes=0)))
    with pytest.raises(SettingsError, match=r"whose epochs is 1, not 2"):
        list(tune(str(model), data, tmp_path / "run", Lesson(epochs=2, longest=64), Means()))
    with pytest.raises(UsageError, match="torchrun"):
        list(tune(str(model), data, tmp_path / "other", LESSON, Means(shard=True)))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--lora", "4"],
        ["--init", "nano"],
        ["--init", "nano", "nowhere", "-o", "run"],
        ["--init", "nano", ".", "-o", "run", "--epochs", "0"],
        ["--init", "nano", ".", "-o", "run", "--every", "0"],
        ["--init", "nano", ".", "-o", "run"],
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["codegen-chat", "train", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


# ---------------------------------------------------------------- several processes


def torchrun(model: Path, data: Path, folder: Path, *more: str) -> list[float]:
    """Fine-tune in two processes of torchrun; return the losses."""
    folder.mkdir()
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    lesson = ["--epochs", "2", "--batch", "256", "--length", "64", "--rate", "2e-3", "--every", "1"]
    worker = [str(Path(__file__).with_name("worker.py")), "train", "--init", str(model), str(data), "-o", str(folder)]
    done = subprocess.run(
        [sys.executable, *launch, *worker, *lesson, *more],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "MPLCONFIGDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return losses([json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()])


def test_two_processes_learn_what_one_does_and_a_killed_one_comes_back(model: Path, data: Path, tmp_path: Path) -> None:
    alone = losses(list(tune(str(model), data, tmp_path / "alone", LESSON, EVERY)))
    together = torchrun(model, data, tmp_path / "together", "--doomed", "--accumulate", "2")
    assert (tmp_path / "together" / "started-1-1").exists()  # it was killed, and started again
    assert together == pytest.approx(alone, abs=1e-4)
    after, wanted = weights(tmp_path / "together" / "model"), weights(tmp_path / "alone" / "model")
    assert all(torch.allclose(after[name], tensor, atol=1e-3) for name, tensor in wanted.items())


@pytest.mark.skipif("EVERY_LEG" not in os.environ, reason="EVERY_LEG=1 runs it")
@pytest.mark.parametrize("more", [[], ["--lora", "2"], ["--doomed"]], ids=["full", "lora", "killed"])
def test_sharded_weights_learn_the_same(model: Path, data: Path, tmp_path: Path, more: list[str]) -> None:
    lesson = Lesson(epochs=2, batch=256, longest=64, rate=2e-3, lora=2 if "--lora" in more else 0)
    alone = losses(list(tune(str(model), data, tmp_path / "alone", lesson, EVERY)))
    assert torchrun(model, data, tmp_path / "together", "--shard", *more) == pytest.approx(alone, abs=1e-4)
