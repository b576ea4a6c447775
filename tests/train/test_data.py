"""Batches: what is trained on is what is prompted with."""

from __future__ import annotations

import json
import lzma
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from codegen_chat import prompt
from codegen_chat.lm.tokenizer import Tokenizer
from codegen_chat.train.curriculum.sessions import Curriculum
from codegen_chat.train.data import Batch, cut, document, make, pieces, read
from codegen_chat.train.vocabulary import learn
from codegen_chat.turn import Turn


@pytest.fixture(scope="module")
def curriculum() -> Curriculum:
    return Curriculum()


@pytest.fixture(scope="module")
def tokenizer(curriculum: Curriculum, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("vocabulary")
    learn(("".join(text for text, _ in pieces(steps)) for steps in islice(curriculum.sessions(1), 300)), 600, folder)
    return Tokenizer.load(folder)


def test_a_document_is_the_prompt_and_its_tokens(curriculum: Curriculum, tokenizer: Tokenizer) -> None:
    """Training and use cannot drift apart: the same text, and no token across the border between words and code."""
    for steps in islice(curriculum.sessions(2), 100):
        text = prompt.render([Turn(str(n), None, step.words, step.code) for n, step in enumerate(steps)])
        assert "".join(piece for piece, _ in pieces(steps)) == text
        ids, scored = document(steps, tokenizer)
        assert ids == [*tokenizer.encode(text), tokenizer.end_of_text]
        assert len(ids) == len(scored)
        learned = tokenizer.decode([token for token, flag in zip(ids[:-1], scored, strict=False) if flag])
        assert learned == "#".join(f"{step.code}\n\n" for step in steps)


def test_batches_are_the_same_for_the_same_place(curriculum: Curriculum, tokenizer: Tokenizer) -> None:
    def batches(seed: int, number: int) -> list[Batch]:
        documents = make(curriculum, tokenizer, seed=seed, number=number, sessions=64, longest=448)
        assert len(documents) == 64
        taken = documents.take(list(range(64)))
        return cut(taken, tokens=4096, step=16, pad=tokenizer.end_of_text, seed=f"{seed}")

    once, again, other = batches(1, 3), batches(1, 3), batches(2, 3)
    assert all(np.array_equal(a.ids, b.ids) and np.array_equal(a.weights, b.weights) for a, b in zip(once, again, strict=True))
    assert not np.array_equal(once[0].ids, other[0].ids)
    for batch in once:
        rows, width = batch.ids.shape
        assert (width - 1) % 16 == 0
        assert rows == 4096 // (width - 1)
        assert batch.weights.shape == (rows, width - 1)


def test_other_documents_are_learned_whole_or_in_their_last_turn(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl.xz"
    steps = [["x is 3", "x = 3"], ["print it", "print(x)"]]
    lines: list[dict[str, object]] = [{"text": "# Add\nx += 1\n"}, {"steps": steps}, {"steps": steps, "learned": "last"}]
    with lzma.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    learned = [tokenizer.decode(ids[scored].tolist()) for ids, scored in read(path, tokenizer, 448).take([0, 1, 2])]
    assert learned == [
        "# Add\nx += 1\n<|endoftext|>",
        "x = 3\n\n#print(x)\n\n<|endoftext|>",
        "print(x)\n\n<|endoftext|>",
    ]
    assert len(read(path, tokenizer, 10)) < 3


def test_digits_stand_alone_and_names_are_the_same_tokens_everywhere(tokenizer: Tokenizer) -> None:
    name = tokenizer.encode("zebra_two")
    for before, after in (("x = ", "\n"), ('"', '"'), ("`", "`"), ("the value of ", "."), ("", " + 1"), ("(", ")")):
        assert tokenizer.encode(f"{before}zebra_two{after}") == tokenizer.encode(before) + name + tokenizer.encode(after)
    assert [tokenizer.decode([token]) for token in tokenizer.encode("1234")] == list("1234")


def test_any_text_survives(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for text in ("x\t=\r\n  1", "naïve 🙂 \u200b", "    if x:\n        y", "#" * 7, " \n \n", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
