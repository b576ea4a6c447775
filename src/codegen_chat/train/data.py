"""Training batches: conversations of the curriculum as tokens, made on the fly, the same for the same seed and position."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from codegen_chat.prompt import HEADER, block, comment
from codegen_chat.train.curriculum.sessions import Curriculum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from codegen_chat.lm.tokenizer import Tokenizer
    from codegen_chat.train.curriculum.sessions import Step

CHUNK = 256
"""Sessions that are made together, sorted by length and cut into batches."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids (B, T + 1), right-padded, and which of the T predictions are scored."""

    ids: NDArray[np.int64]
    scored: NDArray[np.bool_]


def pieces(steps: list[Step]) -> Iterator[tuple[str, bool]]:
    """Split a conversation, as `prompt.render` writes it, into (text, scored): the words are read, the code is learned."""
    opening = HEADER
    for step in steps:
        yield opening + comment(step.words), False
        yield block("", step.code), True
        opening = ""


def document(steps: list[Step], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Turn a conversation into token ids and which of them are scored: code, the empty line after it, and what follows that."""
    ids: list[int] = []
    scored: list[bool] = []
    for text, learned in pieces(steps):
        tokens = tokenizer.encode(text)
        scored += [learned] * len(tokens)
        if not learned and ids:
            scored[len(ids)] = True  # the '#' of the next turn: where this one ends
        ids += tokens
    return [*ids, tokenizer.end_of_text], [*scored, True]


def batches(curriculum: Curriculum, tokenizer: Tokenizer, *, seed: int, chunk: int, tokens: int, longest: int) -> list[Batch]:
    """Make the batches of one chunk, about `tokens` tokens each; a session longer than `longest` is left out."""
    r = Random(f"{seed}/{chunk}")
    documents: list[tuple[list[int], list[bool]]] = []
    for steps in curriculum.sessions(r.getrandbits(62)):
        ids, scored = document(steps, tokenizer)
        if len(ids) <= longest:
            documents.append((ids, scored))
        if len(documents) == CHUNK:
            break
    documents.sort(key=lambda each: len(each[0]))
    made: list[Batch] = []
    while documents:
        width = -(-len(documents[-1][0]) // 16) * 16 + 1
        rows = min(max(1, tokens // (width - 1)), len(documents))
        made.append(batch(documents[-rows:], width, tokenizer.end_of_text))
        del documents[-rows:]
    r.shuffle(made)
    return made


def batch(documents: list[tuple[list[int], list[bool]]], width: int, pad: int) -> Batch:
    """Pad documents on the right to one width."""
    ids = np.full((len(documents), width), pad, dtype=np.int64)
    scored = np.zeros((len(documents), width), dtype=np.bool_)
    for row, (tokens, flags) in enumerate(documents):
        ids[row, : len(tokens)] = tokens
        scored[row, : len(flags)] = flags
    return Batch(ids, scored[:, 1:])
