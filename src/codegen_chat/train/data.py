"""Training batches: the curriculum's conversations and other texts as tokens, the same for the same seed and position."""

from __future__ import annotations

import json
import lzma
import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from codegen_chat.lm.tokenizer import Tokenizer
from codegen_chat.prompt import HEADER, block, comment
from codegen_chat.train.curriculum.sessions import Curriculum
from codegen_chat.train.curriculum.state import Step

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from pathlib import Path

    from numpy.typing import NDArray

_Item = TypeVar("_Item")

AHEAD = 2
"""Chunks that a maker may have ready before they are asked for."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids (B, T + 1), right-padded, and how much each of the T predictions counts: code 1, padding 0."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Documents:
    """Many documents end to end: their tokens, which of them are scored, and where each ends."""

    ids: NDArray[np.uint16]
    scored: NDArray[np.bool_]
    ends: NDArray[np.int64]

    @classmethod
    def gather(cls, documents: list[tuple[list[int], list[bool]]]) -> Documents:
        """Put documents end to end."""
        return cls(
            np.fromiter(chain.from_iterable(ids for ids, _ in documents), np.uint16),
            np.fromiter(chain.from_iterable(scored for _, scored in documents), np.bool_),
            np.cumsum([len(ids) for ids, _ in documents]),
        )

    def take(self, numbers: Iterable[int] | None = None) -> list[tuple[NDArray[np.uint16], NDArray[np.bool_]]]:
        """Return some of the documents, by their numbers; all of them where none are named."""
        chosen = range(len(self)) if numbers is None else numbers
        spans = [(self.ends[number - 1] if number else 0, self.ends[number]) for number in chosen]
        return [(self.ids[start:end], self.scored[start:end]) for start, end in spans]

    def __len__(self) -> int:
        return len(self.ends)


def pieces(steps: list[Step]) -> Iterator[tuple[str, bool]]:
    """Split a conversation, as `prompt.render` writes it, into (text, scored): the words are read, the code is learned.

    Code without words is the person's own, and read only.
    """
    opening = HEADER
    for step in steps:
        yield opening + comment(step.words), False
        yield block("", step.code), bool(step.words)
        opening = ""


def document(steps: list[Step], tokenizer: Tokenizer, *, only_last: bool = False) -> tuple[list[int], list[bool]]:
    """Turn a conversation into token ids and which of them are scored: code, the empty line after it, and what follows that.

    `only_last` scores the last turn alone.
    """
    ids: list[int] = []
    scored: list[bool] = []
    last = 2 * len(steps) - 1
    for number, (text, code) in enumerate(pieces(steps)):
        tokens = tokenizer.encode(text)
        scored += [code and (number == last or not only_last)] * len(tokens)
        if number % 2 == 0 and tokens and ids and not only_last:
            scored[len(ids)] = True  # the '#' of the next turn: where this one ends
        ids += tokens
    return [*ids, tokenizer.end_of_text], [*scored, True]


def make(curriculum: Curriculum, tokenizer: Tokenizer, *, seed: int, number: int, sessions: int, longest: int) -> Documents:
    """Make one chunk of the curriculum: so many sessions, those of more than `longest` tokens left out."""
    r = Random(f"{seed}/{number}")
    short = (made for steps in curriculum.sessions(r.getrandbits(62)) if len((made := document(steps, tokenizer))[0]) <= longest)
    return Documents.gather(list(islice(short, sessions)))


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Read a file of JSON lines, compressed (`.xz`) or not."""
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def texts(path: Path) -> Iterator[str]:
    """Return the plain texts of a file of documents."""
    return (record["text"] for record in records(path) if "text" in record)


def read(path: Path, tokenizer: Tokenizer, longest: int) -> Documents:
    """Read documents from JSON lines (`.jsonl` or `.jsonl.xz`): `{"text": ...}`, or `{"steps": [[words, code], ...]}`.

    A text is learned whole, of a conversation the code; with `"learned": "last"` that of its last turn alone.
    """
    documents: list[tuple[list[int], list[bool]]] = []
    for some in batched(records(path), 10_000):
        plain = tokenizer.encode_batch([record["text"] for record in some if "text" in record])
        documents += [([*ids, tokenizer.end_of_text], [True] * (len(ids) + 1)) for ids in plain]
        for record in some:
            if "steps" in record:
                steps = [Step(*step) for step in record["steps"]]
                documents.append(document(steps, tokenizer, only_last=record.get("learned") == "last"))
    return Documents.gather([each for each in documents if len(each[0]) <= longest])


def batched(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    """Part items into lists of so many (itertools.batched is Python 3.12's)."""
    while part := list(islice(items, size)):
        yield part


def cut(
    documents: list[tuple[NDArray[np.uint16], NDArray[np.bool_]]],
    *,
    tokens: int,
    step: int,
    pad: int,
    seed: str,
    words: float = 0.0,
) -> list[Batch]:
    """Cut documents into batches of at most `tokens` padded tokens, each as wide as a multiple of `step`, like lengths together.

    A width always has the same number of rows, so that there are few shapes: what is missing is padding. What is not scored, a
    conversation's words, counts `words`.
    """
    ordered = sorted(documents, key=lambda each: len(each[0]))
    made: list[Batch] = []
    while ordered:
        width = -(-len(ordered[-1][0]) // step) * step
        rows = max(1, tokens // width)
        ids = np.full((rows, width + 1), pad, dtype=np.int64)
        weights = np.zeros((rows, width + 1), dtype=np.float32)
        for row, (document_ids, scored) in enumerate(ordered[-rows:]):
            ids[row, : len(document_ids)] = document_ids
            weights[row, : len(scored)] = np.where(scored, 1.0, words)
        made.append(Batch(ids, weights[:, 1:]))
        del ordered[-rows:]
    Random(seed).shuffle(made)
    return made


class Feed:
    """Chunks of the curriculum by number, made by `makers` other processes ahead of time; with none, here, when asked for."""

    def __init__(self, folder: Path, *, seed: int, sessions: int, longest: int, makers: int, first: int, share: slice) -> None:
        """`share` are the chunk numbers that are wanted at all, `first` the first of them that will be asked for."""
        self._order = {"seed": seed, "sessions": sessions, "longest": longest}
        self._tokenizer = Tokenizer.load(folder)
        self._curriculum = None if makers else Curriculum()
        context = multiprocessing.get_context("spawn")
        self._queues: list[Queue[tuple[int, Documents]]] = [context.Queue(AHEAD) for _ in range(makers)]
        self._next = first
        self._step = share.step or 1
        for rank, queue in enumerate(self._queues):
            arguments = (folder, self._order, first + rank * self._step, makers * self._step, queue)
            context.Process(target=_work, args=arguments, daemon=True).start()

    def chunk(self, number: int) -> Documents:
        """Return a chunk. With makers, the numbers come in order."""
        if self._curriculum is not None:
            return make(self._curriculum, self._tokenizer, number=number, **self._order)
        got, documents = self._queues[(number - self._next) // self._step % len(self._queues)].get()
        if got != number:
            raise RuntimeError(f"chunk {got} came where {number} was due")
        return documents


def _work(folder: Path, order: dict[str, int], number: int, step: int, queue: Queue[tuple[int, Documents]]) -> None:
    """Make every `step`-th chunk from `number` on, in a process of its own, until the trainer ends."""
    curriculum, tokenizer = Curriculum(), Tokenizer.load(folder)
    while True:
        queue.put((number, make(curriculum, tokenizer, number=number, **order)))
        number += step
