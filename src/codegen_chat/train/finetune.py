"""Fine-tuning: a checkpoint and a person's own code or sessions in, a checkpoint out, resumable at any moment.

AdamW on all weights, or on LoRA's. A step is `batch` padded tokens whatever computes it: processes that torchrun started take an
equal part of its rows each, and micro-batches a part of those, so that all ways have the same losses but for rounding.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recompute

from codegen_chat.errors import SettingsError, UsageError
from codegen_chat.lm import checkpoint, hub
from codegen_chat.lm.convert import beside
from codegen_chat.lm.model import SMALL, CodeGen
from codegen_chat.lm.tokenizer import Tokenizer
from codegen_chat.train import curve
from codegen_chat.train.data import Batch, Documents, cut
from codegen_chat.train.examples import gather
from codegen_chat.train.lora import adapt, merge
from codegen_chat.train.trainer import loss_of, share, together

WIDTH = 32
"""Batches are as wide as a multiple of this."""

WORDS = 0.1
"""How much a token of a turn's words counts; one of its code counts 1."""

WARMUP, DECAY = 10, 0.4
"""Steps over which the rate rises, and the last share of the run over which it falls to 0."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What decides what is learned: a run goes on only where all of it is the same."""

    epochs: int = 3
    rate: float | None = None
    """The full learning rate; None: RATES, by kind."""
    lora: int = 0
    """The rank of LoRA's matrices; 0: all weights are learned."""
    batch: int = 4096
    """Padded tokens of a step, over all processes."""
    longest: int = 512
    """Tokens of a document."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if min(self.epochs, self.batch, self.longest - 1) < 1 or self.lora < 0 or (self.rate is not None and self.rate <= 0):
            raise UsageError("epochs, batch, length and rate must be positive, and the rank of LoRA not negative")

    @property
    def full_rate(self) -> float:
        """The learning rate between its rise and its fall."""
        return self.rate or (1e-3 if self.lora else 2e-4)


@dataclass(frozen=True, slots=True)
class Means:
    """How it is computed, which may change from one start of a run to the next."""

    bf16: bool = False
    """Products in bfloat16."""
    accumulate: int = 1
    """Micro-batches of a step in each process: memory goes down, nothing else changes."""
    recompute: bool = False
    """Gradient checkpointing: a block's inner states are computed again when they are needed, not kept."""
    shard: bool = False
    """FSDP instead of DDP: each process holds a part of the weights."""
    every: int = 20
    """Steps after which it evaluates and saves."""
    minutes: float = float("inf")


class Learner(nn.Module):
    """A model whose forward is its loss, as DDP and FSDP want it."""

    def __init__(self, model: CodeGen, *, bf16: bool) -> None:
        super().__init__()
        self.model = model
        self._bf16 = bf16

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the weighted sum of a batch's cross entropies."""
        return loss_of(self.model, batch, half=self._bf16)[0]


class Tuning:
    """One process's part of a run."""

    def __init__(self, init: Path, examples: tuple[Documents, Documents], folder: Path, lesson: Lesson, means: Means) -> None:
        self.lesson, self.means, self.folder = lesson, means, folder
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.pad = Tokenizer.load(init).end_of_text
        self.documents, held_out = examples
        self.unseen = cut(held_out.take(), tokens=lesson.batch, step=WIDTH, pad=self.pad, seed="")
        self.step = self.tokens = 0
        self.pending: list[Batch] = []
        self.a_pass = len(self.batches(0))
        self.steps = lesson.epochs * self.a_pass
        model = checkpoint.load(init, dtype="fp32", device=device).train()
        if device == "cpu" and sum(parameter.numel() for parameter in model.parameters()) < SMALL:
            torch.set_num_threads(1)
        torch.manual_seed(lesson.seed)
        if lesson.lora:
            adapt(model, lesson.lora)
        model.to(device)
        self.learner: nn.Module = Learner(model, bf16=means.bf16)
        state: dict[str, Any] = {}
        if (folder / "state.pt").is_file():
            state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
            self.learner.load_state_dict(state["model"], strict=False)
            self.step, self.tokens = state["step"], state["tokens"]
        for block in model.blocks if means.recompute else ():
            block.forward = partial(recompute, block.forward, use_reentrant=False)
        if means.shard:
            for block in model.blocks:
                fully_shard(block)
            fully_shard(self.learner)
        elif self.world > 1:
            self.learner = DistributedDataParallel(self.learner)
        self.learned = [p for p in self.learner.parameters() if p.requires_grad]
        self.adam = torch.optim.AdamW(self.learned, lr=lesson.full_rate, betas=(0.9, 0.95), weight_decay=0.01)
        if state:
            set_optimizer_state_dict(self.learner, self.adam, state["adam"], options=StateDictOptions(full_state_dict=True))

    def batches(self, epoch: int) -> list[Batch]:
        """Return an epoch's batches: always as many, for the lengths are the same."""
        order = list(range(len(self.documents)))
        Random(f"{self.lesson.seed}/{epoch}").shuffle(order)
        seed = f"{self.lesson.seed}/{epoch}"
        taken = self.documents.take(order)
        return cut(taken, tokens=self.lesson.batch, step=WIDTH, pad=self.pad, seed=seed, words=WORDS)

    def part(self, batch: Batch) -> list[Batch]:
        """Return this process's micro-batches: without rows that count nothing, but for those that make all equal."""
        parts = self.means.accumulate
        used = batch.weights.any(axis=1)
        ids, weights = batch.ids[used], batch.weights[used]
        rows = -(-len(ids) // (self.world * parts)) * self.world * parts
        more = ((0, rows - len(ids)), (0, 0))
        ids, weights = np.pad(ids, more), np.pad(weights, more)
        return [Batch(ids[mine], weights[mine]) for mine in np.split(np.arange(self.rank, rows, self.world), parts)]

    def advance(self) -> float:
        """Train on one batch; return the loss per token that counts."""
        if not self.pending:
            epoch, used = divmod(self.step, self.a_pass)
            self.pending = self.batches(epoch)[used:]
        batch = self.pending.pop(0)
        scored = float(batch.weights.sum())
        total = torch.zeros((), dtype=torch.float64)
        micros = self.part(batch)
        for left, micro in zip(range(len(micros) - 1, -1, -1), micros, strict=True):
            if isinstance(self.learner, DistributedDataParallel):
                self.learner.require_backward_grad_sync = left == 0
            loss = self.learner(micro)
            (loss * (self.world / scored)).backward()  # DDP and FSDP average over the processes
            total += loss.detach().double().cpu()
        together(total)
        nn.utils.clip_grad_norm_(self.learned, 1.0)
        rate = share(self.step, WARMUP, 1 - self.step / self.steps, DECAY)
        for group in self.adam.param_groups:
            group["lr"] = self.lesson.full_rate * rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += int((batch.ids != self.pad).sum())
        return float(total) / scored

    @torch.no_grad()
    def evaluate(self) -> float:
        """Return the loss per token of code on the examples that are held out."""
        total, scored = torch.zeros((), dtype=torch.float64), 0.0
        for batch in self.unseen:
            for micro in self.part(batch):
                total += self.learner(micro).double().cpu()
            scored += float(batch.weights.sum())
        together(total)
        return float(total) / scored

    def save(self, facts: dict[str, Any]) -> None:
        """Write everything that `__init__` reads, whole or not at all. All processes call it, the first one writes."""
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        model = get_model_state_dict(self.learner, options=whole)
        adam = get_optimizer_state_dict(self.learner, self.adam, options=whole)
        if self.rank == 0:
            state = {"model": model, "adam": adam, "step": self.step, "tokens": self.tokens, "facts": facts}
            torch.save(state, self.folder / "state.new")
            (self.folder / "state.new").replace(self.folder / "state.pt")


def publish(init: Path, folder: Path, lora: int) -> Path:
    """Write a run's model, LoRA merged, as a checkpoint folder, with the tokenizer it began with. Return the folder."""
    model = checkpoint.load(init, dtype="fp32", device="cpu")
    if lora:
        adapt(model, lora)
    state = torch.load(folder / "state.pt", weights_only=True)["model"]
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()}, strict=False)
    if lora:
        merge(model)
    out = folder / "model"
    checkpoint.save(model, out)
    beside(init, out, model.config, Tokenizer.load(init), "float32")
    return out


def tune(init: str, data: Path, folder: Path, lesson: Lesson, means: Means) -> Iterator[dict[str, Any]]:
    """Fine-tune a model in `folder` (going on with what is there) and yield what happens; in the first process only.

    Events: `skipped`, a file that was left out; `step`, `steps`, `tokens`, `loss` (the mean since the last event), `validation`,
    `rate` in tokens a second, also in `curve.jsonl`; `model`, the folder of the result, beside which `curve.svg` is drawn.
    Under torchrun the processes share each step. Raises UsageError, SettingsError, ModelUnavailable.
    """
    started = hub.locate(init)
    tokenizer = Tokenizer.load(started)
    examples = gather(data, tokenizer, longest=lesson.longest, seed=lesson.seed)
    facts = {"init": hub.revision(started), "data": examples.digest, **asdict(lesson)}
    folder.mkdir(parents=True, exist_ok=True)
    _check(folder, facts)
    if means.shard and "RANK" not in os.environ:
        raise UsageError("sharding needs several processes: start it with torchrun")
    if "RANK" in os.environ:
        _join()
    try:
        run = Tuning(started, (examples.train, examples.held_out), folder, lesson, means)
        events = _run(run, facts)
        if run.rank:
            for _ in events:
                """The first process tells."""
            return
        yield from ({"skipped": line} for line in examples.skipped)
        yield from events
        curve.draw(folder / "curve.jsonl", folder / "curve.svg")
        yield {"model": str(publish(started, folder, lesson.lora))}
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _join() -> None:
    """Join the processes that torchrun started.

    Its store outlives a restart and still has the addresses of those that died: each attempt has names of its own in it.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, world = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    attempt = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)  # type: ignore[attr-defined]
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", store=attempt, rank=rank, world_size=world)


def _run(run: Tuning, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Train to the end or until the minutes are over; evaluate and save every so many steps."""
    log = run.folder / "curve.jsonl"
    if run.rank == 0:  # what came after the state is done, and told, again; a line may be torn
        past = log.read_text(encoding="utf-8").splitlines(keepends=True) if run.step and log.is_file() else []
        told = [line for line in past if line.endswith("\n") and json.loads(line)["step"] <= run.step]
        log.write_text("".join(told), encoding="utf-8")
    began = since = time.monotonic()
    losses: list[float] = []
    tokens = run.tokens

    def news() -> dict[str, Any]:
        event = {
            "step": run.step,
            "steps": run.steps,
            "tokens": run.tokens,
            "loss": sum(losses) / len(losses) if losses else None,
            "validation": run.evaluate(),
            "rate": round((run.tokens - tokens) / (time.monotonic() - since)),
        }
        if run.step:
            run.save(facts)
        if run.rank == 0:
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(event) + "\n")
        return event

    if run.step == 0:
        yield news()
    while run.step < run.steps:
        losses.append(run.advance())
        if run.step == run.steps or run.step % run.means.every == 0:
            yield news()
            losses, since, tokens = [], time.monotonic(), run.tokens
            over = torch.tensor(int(since - began > 60 * run.means.minutes))
            together(over)
            if over:
                return


def _check(folder: Path, facts: dict[str, Any]) -> None:
    """Refuse to go on with a run that was begun otherwise."""
    if (folder / "state.pt").is_file():
        begun = torch.load(folder / "state.pt", weights_only=True, mmap=True).get("facts", {})
        for name, value in facts.items():
            if begun.get(name) != value:
                raise SettingsError(
                    f"{folder} holds a run whose {name} is {begun.get(name)}, not {value}: name another folder, or what it had"
                )
