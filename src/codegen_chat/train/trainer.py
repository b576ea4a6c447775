"""The trainer: one configuration in, a checkpoint folder out, resumable at any moment.

Single-threaded processes share each step's batch and average their gradients: on busy cores that is faster than OpenMP's
threads, which wait for each other at every operation. Muon for the block matrices, AdamW for the rest; warm-up, constant rate,
linear decay.
"""

from __future__ import annotations

import json
import shutil
import time
import tomllib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy

from codegen_chat.errors import SettingsError
from codegen_chat.lm.checkpoint import save
from codegen_chat.lm.config import Config
from codegen_chat.lm.model import CodeGen
from codegen_chat.lm.tokenizer import Tokenizer
from codegen_chat.train.curriculum.sessions import Curriculum
from codegen_chat.train.data import Batch, batches
from codegen_chat.train.muon import Muon
from codegen_chat.train.vocabulary import learn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VALIDATION_SEED = -1
"""Sessions of this seed are never trained on."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One training run; the committed `nano.toml` is the embedded model's."""

    n_layer: int
    n_embd: int
    n_head: int
    rotary_dim: int
    vocab_size: int
    tokens: int
    """Tokens in all, words and code together, padding not counted."""
    batch_tokens: int
    """Padded tokens of one step, over all workers."""
    longest: int
    """Sessions of more tokens are left out."""
    seed: int
    muon_lr: float
    adam_lr: float
    warmup_steps: int
    decay: float
    """The last share of the tokens, over which the rates fall linearly to 0."""
    workers: int
    vocabulary_sessions: int
    """Sessions that the tokenizer is learned from."""

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a TOML file; a key that is missing, unknown or of the wrong type is a SettingsError."""
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{path}: {error}") from None
        known = {item.name: {"int": int, "float": float}[str(item.type)] for item in fields(cls)}
        for key in data.keys() ^ known.keys():
            raise SettingsError(f"{path}: {'unknown' if key in data else 'missing'} key {key!r}")
        for key, kind in known.items():
            if type(data[key]) is not kind and not (kind is float and type(data[key]) is int):
                raise SettingsError(f"{path}: {key} must be a {kind.__name__}")
        return cls(**data)

    def config(self) -> Config:
        """The model's shape."""
        return Config(
            n_layer=self.n_layer,
            n_embd=self.n_embd,
            n_head=self.n_head,
            rotary_dim=self.rotary_dim,
            vocab_size=self.vocab_size,
            eos_token_id=0,
        )

    def rate(self, step: int, tokens: int) -> float:
        """Share of the full learning rate at a step."""
        left = (self.tokens - tokens) / (self.decay * self.tokens)
        return max(0.0, min(1.0, (step + 1) / self.warmup_steps, left))


@dataclass(slots=True)
class Position:
    """Where a run stands: everything that decides what comes next, but the weights."""

    step: int = 0
    tokens: int = 0
    chunk: int = 0
    used: int = 0


def fresh(config: Config, seed: int) -> CodeGen:
    """A model with small random weights; the projections back into the stream start at zero."""
    torch.manual_seed(seed)
    model = CodeGen(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("out.weight", "fc_out.weight", "bias")):
            nn.init.zeros_(parameter)
        elif "ln_" not in name:
            nn.init.normal_(parameter, std=0.02)
    return model


def loss_of(model: CodeGen, batch: Batch) -> tuple[torch.Tensor, int]:
    """Summed cross entropy of the scored predictions, and how many there are. Only those go through `lm_head`."""
    ids = torch.from_numpy(batch.ids)
    scored = torch.from_numpy(batch.scored)
    hidden = model(ids[:, :-1])[scored]
    return cross_entropy(model.lm_head(hidden), ids[:, 1:][scored], reduction="sum"), int(scored.sum())


def groups(model: CodeGen) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Part the parameters into the blocks' matrices and the rest."""
    matrices = [p for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
    chosen = set(matrices)
    return matrices, [p for p in model.parameters() if p not in chosen]


class Run:
    """One worker's half of a training run."""

    def __init__(self, recipe: Recipe, folder: Path, rank: int) -> None:
        self.recipe, self.folder, self.rank = recipe, folder, rank
        self.tokenizer = Tokenizer.load(folder)
        self.curriculum = Curriculum()
        self.model = fresh(recipe.config(), recipe.seed)
        matrices, rest = groups(self.model)
        self.parameters = [*matrices, *rest]
        self.muon = Muon(matrices, lr=recipe.muon_lr)
        self.adam = torch.optim.AdamW(rest, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.01)
        self.at = Position()
        self.pending: list[Batch] = []
        if (saved := folder / "state.pt").is_file():
            state = torch.load(saved, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.muon.load_state_dict(state["muon"])
            self.adam.load_state_dict(state["adam"])
            self.at = Position(**state["at"])
            self.pending = self.chunk(self.at.chunk)[self.at.used :]

    def chunk(self, number: int) -> list[Batch]:
        """Make this worker's batches of one chunk."""
        share = self.recipe.batch_tokens // self.recipe.workers
        made = batches(
            self.curriculum,
            self.tokenizer,
            seed=self.recipe.seed,
            chunk=number * self.recipe.workers + self.rank,
            tokens=share,
            longest=self.recipe.longest,
        )
        count = torch.tensor(len(made))
        dist.all_reduce(count, op=dist.ReduceOp.MIN)
        return made[: int(count)]

    def step(self) -> float:
        """Train on one batch; return the loss per scored token, over all workers."""
        if not self.pending:
            self.at.chunk, self.at.used = self.at.chunk + 1, 0
            self.pending = self.chunk(self.at.chunk)
        batch = self.pending.pop(0)
        loss, scored = loss_of(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        seen = int((batch.ids != self.tokenizer.end_of_text).sum())
        totals = torch.tensor([float(loss.detach()), float(scored), float(seen)], dtype=torch.float64)
        dist.all_reduce(totals)
        flat = torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None])
        dist.all_reduce(flat)
        flat /= totals[1].item()
        flat *= min(1.0, 1.0 / (flat.norm().item() + 1e-9))
        offset = 0
        for p in self.parameters:
            p.grad = flat[offset : offset + p.numel()].view_as(p)
            offset += p.numel()
        rate = self.recipe.rate(self.at.step, self.at.tokens)
        for optimiser, full in ((self.muon, self.recipe.muon_lr), (self.adam, self.recipe.adam_lr)):
            for group in optimiser.param_groups:
                group["lr"] = full * rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.at = replace(self.at, step=self.at.step + 1, tokens=self.at.tokens + int(totals[2]), used=self.at.used + 1)
        return (totals[0] / totals[1]).item()

    def save(self) -> None:
        """Write everything that `__init__` reads, whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
            "at": {item.name: getattr(self.at, item.name) for item in fields(Position)},
        }
        torch.save(state, self.folder / "state.new")
        (self.folder / "state.new").replace(self.folder / "state.pt")

    @torch.inference_mode()
    def validate(self) -> float:
        """Loss per scored token on sessions that are never trained on."""
        total, count = 0.0, 0
        for batch in batches(
            self.curriculum, self.tokenizer, seed=VALIDATION_SEED, chunk=0, tokens=4096, longest=self.recipe.longest
        )[:10]:
            loss, scored = loss_of(self.model, batch)
            total, count = total + float(loss), count + scored
        return total / count


def work(rank: int, recipe: Recipe, folder: Path, minutes: float, events: Any) -> None:
    """Train in one worker process until the tokens or the minutes are used up. Rank 0 reports and saves."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=recipe.workers)
    run = Run(recipe, folder, rank)
    began = saved = time.monotonic()
    tokens = run.at.tokens
    while run.at.tokens < recipe.tokens:
        loss = run.step()
        now = time.monotonic()
        stop = torch.tensor(int(now - began > 60 * minutes))
        dist.all_reduce(stop)
        if rank == 0 and run.at.step % 20 == 0:
            event = {
                "step": run.at.step,
                "tokens": run.at.tokens,
                "loss": round(loss, 4),
                "rate": round((run.at.tokens - tokens) / (now - began)),
            }
            if run.at.step % 100 == 0:
                event["validation"] = round(run.validate(), 4)
            events.put(event)
        if rank == 0 and (stop or now - saved > 180):
            run.save()
            saved = time.monotonic()
        if stop:
            break
    if rank == 0:
        run.save()
        events.put(None)
    dist.destroy_process_group()


def prepare(recipe: Recipe, folder: Path) -> None:
    """Learn the tokenizer, unless the folder has one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rendezvous").unlink(missing_ok=True)
    if not (folder / "tokenizer.json").is_file():
        curriculum = Curriculum()
        sessions = curriculum.sessions(recipe.seed)
        texts = (
            "\n\n".join(f"# {step.words}\n{step.code}" for step in next(sessions)) for _ in range(recipe.vocabulary_sessions)
        )
        learn(texts, recipe.vocab_size, folder)


def publish(path: Path, folder: Path, out: Path) -> None:
    """Write the model that a run has come to as a checkpoint folder: int8 safetensors, config, tokenizer."""
    recipe = Recipe.read(path)
    model = CodeGen(recipe.config())
    model.load_state_dict(torch.load(folder / "state.pt", weights_only=True)["model"])
    save(model, out, int8=True)
    (out / "generation_config.json").write_text('{"do_sample": false}\n', encoding="utf-8")
    shutil.copyfile(folder / "tokenizer.json", out / "tokenizer.json")


def train(path: Path, folder: Path, *, minutes: float = float("inf")) -> Iterator[dict[str, Any]]:
    """Run a recipe in `folder` (resuming what is there) and yield progress: step, tokens, loss, tokens per second.

    The state (`state.pt`) is saved every three minutes and at the end. A line of each event goes to `curve.jsonl`, the model
    to the subfolder `model` at the end.
    """
    recipe, folder = Recipe.read(path), folder.absolute()
    prepare(recipe, folder)
    context = torch.multiprocessing.get_context("spawn")
    events = context.SimpleQueue()
    workers = [context.Process(target=work, args=(rank, recipe, folder, minutes, events)) for rank in range(recipe.workers)]
    for worker in workers:
        worker.start()
    try:
        with (folder / "curve.jsonl").open("a", encoding="utf-8") as curve:
            while (event := events.get()) is not None:
                curve.write(json.dumps(event) + "\n")
                curve.flush()
                yield event
    finally:
        for worker in workers:
            worker.join(60)
            worker.terminate()
    publish(path, folder, folder / "model")
