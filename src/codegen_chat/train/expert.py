"""Learning from execution (expert iteration): a model's answers to fresh sessions, those kept that did the right thing.

Two halves, since a GPU samples best and our sandbox executes: `sample` writes candidates, `judge` runs them and writes documents
that a recipe can mix in. An answer is right when it prints and leaves behind what the session's own code does.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codegen_chat.lm.model import CodeGen, attention
from codegen_chat.lm.tokenizer import Tokenizer
from codegen_chat.prompt import HEADER, code, conversation_stop, render
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.session.history import new_id
from codegen_chat.train.curriculum.sessions import Curriculum
from codegen_chat.train.curriculum.state import Step
from codegen_chat.turn import Execution, Turn, last_execution

SEED = -2
"""Sessions of this seed are for sampling: neither trained on as they are nor validated with."""


class _Past:
    """The keys and values of one layer for a batch of sequences of one length, (B, H, T, D), grown with each step."""

    def __init__(self) -> None:
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Remember k and v; attend to all there are."""
        self._keys = [torch.cat((*self._keys, k), dim=2)]
        self._values = [torch.cat((*self._values, v), dim=2)]
        return attention(q, self._keys[0], self._values[0])


@torch.inference_mode()
def generate(
    model: CodeGen, tokenizer: Tokenizer, prompts: list[list[int]], *, tokens: int, temperature: float, seed: int
) -> list[str]:
    """Continue prompts of one length (B, T) by up to `tokens` tokens each; return the texts, cut where a turn ends."""
    device = model.lm_head.weight.device
    ids = torch.tensor(prompts, device=device)
    past = [_Past() for _ in model.blocks]
    random = torch.Generator(device).manual_seed(seed)
    newline, mark = tokenizer.encode("\n")[0], tokenizer.encode("#")[0]
    drawn: list[Tensor] = []
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    start = 0
    with torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext():
        while len(drawn) < tokens and not ended.all():
            logits = model.lm_head(model(ids, [each.attend for each in past], start)[:, -1]).float()
            start += ids.shape[1]
            if temperature:
                chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=random)
            else:
                chosen = logits.argmax(-1, keepdim=True)
            ended |= (chosen[:, 0] == tokenizer.end_of_text) | ((chosen[:, 0] == mark) & (ids[:, -1] == newline))
            drawn.append(chosen)
            ids = chosen
    texts = [tokenizer.decode(row) for row in torch.cat(drawn, dim=1).tolist()]
    return [code(text[: conversation_stop(text)[0]]) for text in texts]


def sample(
    model: CodeGen,
    tokenizer: Tokenizer,
    out: Path,
    *,
    sessions: int,
    candidates: int,
    every: int = 4,
    longest: int = 320,
    temperature: float = 0.8,
) -> int:
    """Write the model's different answers to turns of fresh sessions, `{"steps": ..., "answers": [...]}`; return how many turns.

    Prompts of one length go together, so only those are taken whose length is a multiple of `every`.
    """
    by_length: dict[int, list[tuple[list[int], list[Step]]]] = {}
    for steps in islice(Curriculum().sessions(SEED), sessions):
        for turn in range(1, len(steps) + 1):
            before = [Turn("", None, step.words, step.code) for step in steps[: turn - 1]]
            ids = tokenizer.encode(render(before, steps[turn - 1].words))
            if len(ids) % every == 0 and len(ids) <= longest:
                by_length.setdefault(len(ids), []).append((ids, steps[:turn]))
    count = 0
    with lzma.open(out, "wt", encoding="utf-8") as lines:
        for length, asked in sorted(by_length.items()):
            for start in range(0, len(asked), 256):
                part = asked[start : start + 256]
                prompts = [ids for ids, _ in part]
                first = generate(model, tokenizer, prompts, tokens=64, temperature=0.0, seed=0)
                more = generate(
                    model, tokenizer, prompts * (candidates - 1), tokens=64, temperature=temperature, seed=length + start
                )
                answers = [list(dict.fromkeys([best, *more[row :: len(part)]])) for row, best in enumerate(first)]
                for (_, steps), found in zip(part, answers, strict=True):
                    record = {"steps": [[step.words, step.code] for step in steps], "answers": found}
                    lines.write(json.dumps(record) + "\n")
                    count += 1
    return count


def did(execution: Execution) -> tuple[Any, ...]:
    """What an execution did, as far as another can be compared with it."""
    changes = sorted((change.kind, change.name, change.summary) for change in execution.changes)
    return execution.status, execution.stdout, tuple(changes)


def judge(path: Path, out: Path, kernel: Kernel) -> Iterator[dict[str, int]]:
    """Run the answers of `sample` in the sandbox, write those that are right and not the session's own code; yield the counts."""
    counts = {"turns": 0, "greedy": 0, "answers": 0, "kept": 0}
    with lzma.open(path, "rt", encoding="utf-8") as records, out.open("w", encoding="utf-8") as kept:
        for line in records:
            record = json.loads(line)
            *before, (words, gold) = record["steps"]
            states = [new_id() for _ in range(len(before) + 1)]
            parent: str | None = None
            for state, source in zip(states, [HEADER, *(earlier for _, earlier in before)], strict=True):
                last_execution(kernel.execute(source, parent=parent, turn=state, timeout=5))
                parent = state
            wanted = did(last_execution(kernel.execute(gold, parent=parent, turn=None, timeout=5)))
            counts["turns"] += 1
            for number, answer in enumerate(record["answers"]):
                right = answer == gold
                if not right and answer.strip():
                    right = did(last_execution(kernel.execute(answer, parent=parent, turn=None, timeout=5))) == wanted
                    counts["answers"] += 1
                    if right:
                        kept.write(json.dumps({"steps": [*before, [words, answer]], "learned": "last"}) + "\n")
                        counts["kept"] += 1
                counts["greedy"] += right and number == 0
            for state in states:
                kernel.forget(state)
            yield dict(counts)
