"""The trainer: one configuration in, a checkpoint folder out, resumable at any moment.

On CPUs, single-threaded processes share each step's batch and average their gradients: on busy cores that is faster than OpenMP's
threads, which wait for each other at every operation. On a GPU one process trains, in bfloat16, and the other cores make data.
Muon for the block matrices, AdamW for the rest; warm-up, constant rate, linear decay.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import tomllib
from dataclasses import dataclass, field, fields
from itertools import chain, islice
from queue import Empty
from random import Random
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
from codegen_chat.train.data import Batch, Documents, Feed, cut, make, read, texts
from codegen_chat.train.muon import Muon
from codegen_chat.train.vocabulary import learn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import SpawnProcess
    from multiprocessing.queues import Queue
    from pathlib import Path

VALIDATION_SEED = -1
"""Sessions of this seed are never trained on."""

VALIDATION_SESSIONS = 256


@dataclass(frozen=True, slots=True)
class Mixed:
    """Other documents that join the curriculum: a file in the run's folder, and from which to which part of the run, how much."""

    file: str
    start: float
    end: float
    share: float

    def __post_init__(self) -> None:
        if not (0 <= self.start < self.end <= 1 and 0 < self.share <= 1):
            raise SettingsError(f"{self.file}: start, end and share are parts of 1, start before end")


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
    words: float
    """How much a token of a turn's words counts; one of its code counts 1."""
    decay: float
    """The last share of the tokens, over which the rates fall linearly to 0."""
    workers: int
    """Processes that share a step on CPUs. On a GPU there is one."""
    sessions: int
    """Sessions of a chunk, made and sorted by length together."""
    fresh: int
    """Chunks after which the first ones come again; 0: never."""
    width: int
    """Batches are as wide as a multiple of this."""
    vocabulary_sessions: int
    """Sessions that the tokenizer is learned from, and texts of each mixed file."""
    keep: int
    """Tokens after each of which a copy of the model is kept; 0: none."""
    mixed: tuple[Mixed, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a TOML file; a key that is missing, unknown or of the wrong type is a SettingsError."""
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{path}: {error}") from None
        mixed = data.pop("mixed", [])
        _check(path, data, cls, optional={"mixed"})
        for table in mixed:
            _check(path, table, Mixed)
        return cls(**data, mixed=tuple(Mixed(**table) for table in mixed))

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
        return share(step, self.warmup_steps, 1 - tokens / self.tokens, self.decay)


def share(step: int, warmup: int, left: float, decay: float) -> float:
    """Return the share of the full learning rate: it rises over `warmup` steps, stays, and falls linearly to 0.

    `left` is the part of the run that is still to come, `decay` the last part of it over which it falls, both of 1.
    """
    return max(0.0, min(1.0, (step + 1) / warmup, left / decay))


def _check(path: Path, data: dict[str, Any], kind: type, optional: frozenset[str] | set[str] = frozenset()) -> None:
    """Hold a table of a recipe against the fields of its dataclass."""
    known = {
        item.name: {"int": int, "float": float, "str": str}[str(item.type)] for item in fields(kind) if item.name not in optional
    }
    for key in data.keys() ^ known.keys():
        raise SettingsError(f"{path}: {'unknown' if key in data else 'missing'} key {key!r}")
    for key, wanted in known.items():
        if type(data[key]) is not wanted and not (wanted is float and type(data[key]) is int):
            raise SettingsError(f"{path}: {key} must be a {wanted.__name__}")


@dataclass(slots=True)
class Position:
    """Where a run stands: everything that decides what comes next, but the weights."""

    step: int = 0
    tokens: int = 0
    drawn: int = 0
    """Chunks begun, of every source."""
    used: int = 0
    """Batches used of the last of them."""
    taken: list[int] = field(default_factory=list)
    """Chunks begun of each source: the curriculum, then the mixed files."""
    source: int = 0
    """Where the last one came from."""


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


def loss_of(model: CodeGen, batch: Batch, *, half: bool = False) -> tuple[torch.Tensor, float]:
    """Weighted sum of the cross entropies, and the sum of the weights. Only what counts goes through `lm_head`.

    With `half` the products are of bfloat16, the weights and the sums stay as they are.
    """
    device = model.lm_head.weight.device
    ids = torch.from_numpy(batch.ids).to(device)
    weights = torch.from_numpy(batch.weights).to(device)
    counts = weights > 0
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        hidden = model(ids[:, :-1])[counts]
        losses = cross_entropy(model.lm_head(hidden), ids[:, 1:][counts], reduction="none")
    return (losses * weights[counts]).sum(), float(batch.weights.sum())


def groups(model: CodeGen) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Part the parameters into the blocks' matrices and the rest."""
    matrices = [p for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
    chosen = set(matrices)
    return matrices, [p for p in model.parameters() if p not in chosen]


class Run:
    """One worker's half of a training run."""

    def __init__(self, recipe: Recipe, folder: Path, rank: int, device: str = "cpu") -> None:
        self.recipe, self.folder, self.rank = recipe, folder, rank
        self.half = device == "cuda"
        self.workers = 1 if device == "cuda" else recipe.workers
        self.tokenizer = Tokenizer.load(folder)
        self.model = fresh(recipe.config(), recipe.seed).to(device)
        matrices, rest = groups(self.model)
        self.parameters = [*matrices, *rest]
        self.muon = Muon(matrices, lr=recipe.muon_lr)
        self.adam = torch.optim.AdamW(rest, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.01, fused=device == "cuda")
        files = {mixed.file: folder / mixed.file for mixed in recipe.mixed}
        documents = {name: read(path, self.tokenizer, recipe.longest) for name, path in files.items()}
        self.mixed = [documents[mixed.file] for mixed in recipe.mixed]
        self.at = Position(taken=[0] * (1 + len(self.mixed)))
        self.pending: list[Batch] = []
        self.made: list[Documents] = []
        self.unseen: list[Batch] = []
        if (saved := folder / "state.pt").is_file():
            state = torch.load(saved, weights_only=True, map_location=device)
            self.model.load_state_dict(state["model"])
            self.muon.load_state_dict(state["muon"])
            self.adam.load_state_dict(state["adam"])
            self.at = Position(**state["at"])
        again = self.at.taken[0] if recipe.fresh == 0 else 0  # chunks that come again are made again, to have them
        self.feed = Feed(
            folder,
            seed=recipe.seed,
            sessions=recipe.sessions,
            longest=recipe.longest,
            makers=max(1, (os.cpu_count() or 2) - 1) if device == "cuda" else 0,
            first=max(0, again - 1) * self.workers + rank,
            share=slice(rank, None, self.workers),
        )
        if self.at.drawn:
            self.pending = self.chunk(self.at.source, self.at.taken[self.at.source] - 1)[self.at.used :]
        if device == "cuda":
            for block in self.model.blocks:
                block.compile(dynamic=True)

    def chunk(self, source: int, number: int) -> list[Batch]:
        """Return this worker's batches of a source's chunk."""
        recipe = self.recipe
        if source:
            documents = self.mixed[source - 1]
            mine = number * self.workers + self.rank
            cycle, place = divmod(mine * recipe.sessions, len(documents))
            order = list(range(len(documents)))
            Random(f"{recipe.seed}/{source}/{cycle}").shuffle(order)
            taken = documents.take(order[place : place + recipe.sessions])
        elif recipe.fresh:
            while len(self.made) <= min(number, recipe.fresh - 1):
                self.made.append(self.feed.chunk(len(self.made) * self.workers + self.rank))
            documents = self.made[number % recipe.fresh]
            taken = documents.take()
        else:
            documents = self.feed.chunk(number * self.workers + self.rank)
            taken = documents.take()
        batches = cut(
            taken,
            tokens=recipe.batch_tokens // self.workers,
            step=recipe.width,
            pad=self.tokenizer.end_of_text,
            seed=f"{recipe.seed}/{source}/{number}",
            words=recipe.words,
        )
        count = torch.tensor(len(batches))
        together(count, dist.ReduceOp.MIN)
        return batches[: int(count)]

    def source(self) -> int:
        """Draw where the next chunk comes from, as the recipe mixes them at this point: the same for all workers."""
        progress = self.at.tokens / self.recipe.tokens
        draw = Random(f"{self.recipe.seed}/{self.at.drawn}").random()
        for number, mixed in enumerate(self.recipe.mixed, 1):
            if mixed.start <= progress < mixed.end:
                if draw < mixed.share:
                    return number
                draw -= mixed.share
        return 0

    def step(self) -> float:
        """Train on one batch; return the loss per token that counts, over all workers."""
        while not self.pending:
            self.at.source, self.at.used = self.source(), 0
            number = self.at.taken[self.at.source]
            self.at.taken[self.at.source] += 1
            self.at.drawn += 1
            self.pending = self.chunk(self.at.source, number)
        batch = self.pending.pop(0)
        loss, scored = loss_of(self.model, batch, half=self.half)
        loss.backward()  # type: ignore[no-untyped-call]
        seen = int((batch.ids != self.tokenizer.end_of_text).sum())
        totals = torch.tensor([float(loss.detach()), scored, float(seen)], dtype=torch.float64)
        together(totals)
        flat = torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None])
        together(flat)
        flat /= totals[1].item()
        flat *= (1.0 / (flat.norm() + 1e-9)).clamp(max=1.0)
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
        self.at.step, self.at.tokens, self.at.used = self.at.step + 1, self.at.tokens + int(totals[2]), self.at.used + 1
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
        """Loss per token of code on sessions that are never trained on."""
        recipe = self.recipe
        if not self.unseen:
            documents = make(
                Curriculum(),
                self.tokenizer,
                seed=VALIDATION_SEED,
                number=0,
                sessions=min(VALIDATION_SESSIONS, recipe.sessions),
                longest=recipe.longest,
            )
            self.unseen = cut(
                documents.take(),
                tokens=recipe.batch_tokens,
                step=recipe.width,
                pad=self.tokenizer.end_of_text,
                seed="",
            )
        total, count = 0.0, 0.0
        for batch in self.unseen:
            loss, scored = loss_of(self.model, batch, half=self.half)
            total, count = total + float(loss), count + scored
        return total / count


def together(tensor: torch.Tensor, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> None:
    """Reduce a tensor over all workers, in place; alone, it stays as it is."""
    if dist.is_initialized():
        dist.all_reduce(tensor, op=operation)


def work(rank: int, recipe: Recipe, folder: Path, minutes: float, events: Any, device: str) -> None:
    """Train in one worker process until the tokens or the minutes are used up. Rank 0 reports and saves."""
    if device == "cpu":
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=recipe.workers)
    torch.backends.cuda.matmul.allow_tf32 = True
    began = saved = time.monotonic()
    run = Run(recipe, folder, rank, device)
    tokens = run.at.tokens
    while run.at.tokens < recipe.tokens:
        before = run.at.tokens
        loss = run.step()
        now = time.monotonic()
        stop = torch.tensor(int(now - began > 60 * minutes))
        together(stop)
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
        if rank == 0 and recipe.keep and run.at.tokens // recipe.keep > before // recipe.keep:
            publish(run.model, folder, folder / f"model-{run.at.tokens // recipe.keep * recipe.keep}")
        if rank == 0 and (stop or now - saved > 180):
            run.save()
            saved = time.monotonic()
        if stop:
            break
    if rank == 0:
        run.save()
        publish(run.model, folder, folder / "model")
        events.put({"step": run.at.step, "tokens": run.at.tokens, "validation": round(run.validate(), 4)})
        events.put(None)
    if dist.is_initialized():
        dist.destroy_process_group()


def prepare(recipe: Recipe, folder: Path) -> None:
    """Learn the tokenizer: from the curriculum, and as many texts of each mixed file."""
    sessions = islice(Curriculum().sessions(recipe.seed), recipe.vocabulary_sessions)
    conversations = ("\n\n".join(f"# {step.words}\n{step.code}" for step in steps) for steps in sessions)
    others = (islice(texts(folder / mixed.file), recipe.vocabulary_sessions) for mixed in recipe.mixed)
    learn([*conversations, *chain(*others)], recipe.vocab_size, folder)  # a list: the library reads from other threads


def publish(model: CodeGen, folder: Path, out: Path) -> None:
    """Write a run's model as a checkpoint folder: int8 safetensors, config, tokenizer."""
    save(model, out, int8=True)
    (out / "generation_config.json").write_text('{"do_sample": false}\n', encoding="utf-8")
    shutil.copyfile(folder / "tokenizer.json", out / "tokenizer.json")


def _next(events: Queue[dict[str, Any] | None], workers: list[SpawnProcess]) -> dict[str, Any] | None:
    """Wait for an event. Raises RuntimeError where a worker has died, which otherwise nobody would hear of."""
    while True:
        try:
            return events.get(timeout=2)
        except Empty:
            if any(worker.exitcode for worker in workers):
                raise RuntimeError("a training worker has died; what it said stands above") from None


def train(path: Path, folder: Path, *, minutes: float = float("inf"), device: str = "auto") -> Iterator[dict[str, Any]]:
    """Run a recipe in `folder` (resuming what is there) and yield progress: step, tokens, loss, tokens per second.

    The state (`state.pt`) is saved every three minutes and at the end. A line of each event goes to `curve.jsonl`, the model
    to the subfolder `model` at the end. `device`: cpu, cuda, or auto, which is cuda where there is one.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe, folder = Recipe.read(path), folder.absolute()
    for mixed in recipe.mixed:
        if not (folder / mixed.file).is_file():
            raise SettingsError(
                f"{folder / mixed.file} is not there, and {path.name} mixes it in: corpus.txt beside it says how to make it"
            )
    os.environ["PYTHONHASHSEED"] = "0"  # for the processes to come: programs of the curriculum go through sets of strings
    context = torch.multiprocessing.get_context("spawn")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rendezvous").unlink(missing_ok=True)
    if not (folder / "tokenizer.json").is_file():
        preparing = context.Process(target=prepare, args=(recipe, folder))
        preparing.start()
        preparing.join()
    events: Queue[dict[str, Any] | None] = context.Queue()
    workers = [
        context.Process(target=work, args=(rank, recipe, folder, minutes, events, device))
        for rank in range(1 if device == "cuda" else recipe.workers)
    ]
    for worker in workers:
        worker.start()
    try:
        with (folder / "curve.jsonl").open("a", encoding="utf-8") as curve:
            while (event := _next(events, workers)) is not None:
                curve.write(json.dumps(event) + "\n")
                curve.flush()
                yield event
    finally:
        for worker in workers:
            worker.join(60)
            worker.terminate()
