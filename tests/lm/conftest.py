"""A tiny random checkpoint with its tokenizer, built on the fly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from codegen_chat.lm import checkpoint
from codegen_chat.lm.config import Config
from codegen_chat.lm.engine import Engine
from codegen_chat.lm.model import CodeGen, TorchStep
from codegen_chat.lm.tokenizer import END_OF_TEXT, Tokenizer

MERGES = [
    *[
        ("Ġ", "Ġ"),
        ("ĠĠ", "ĠĠ"),
        ("Ċ", "Ċ"),
        (":", "Ċ"),
        (")", "Ċ"),
        ("Ċ", "#"),
        ("i", "n"),
        ("p", "r"),
        ("pr", "in"),
        ("prin", "t"),
    ],
    *[
        ("d", "e"),
        ("de", "f"),
        ("Ġ", "="),
        ("Ġ", "x"),
        ("r", "e"),
        ("t", "u"),
        ("re", "tu"),
        ("retu", "r"),
        ("retur", "n"),
        ("'", "'"),
    ],
]


@pytest.fixture(scope="session")
def tiny_backend() -> tokenizers.Tokenizer:
    """Byte-level BPE: the end of text is 0, then the 256 bytes, then a few merges, some of which no text is encoded to."""
    words = [END_OF_TEXT, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in MERGES)]
    backend = tokenizers.Tokenizer(models.BPE({word: token for token, word in enumerate(words)}, MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([END_OF_TEXT])
    return backend


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_backend: tokenizers.Tokenizer) -> Tokenizer:
    return Tokenizer(tiny_backend)


def random_model(heads: int, size: int, rotary: int, inner: int | None, vocabulary: int) -> CodeGen:
    """Return two layers of a shape, whose weights spread as those of a trained model might."""
    config = Config(
        n_layer=2, n_embd=heads * size, n_head=heads, rotary_dim=rotary, vocab_size=vocabulary, n_positions=100, n_inner=inner
    )
    torch.manual_seed(heads + size)
    model = CodeGen(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "ln" in name and "weight" in name else 0.0, 1.0 if "wte" in name else 0.2)
    return model


@pytest.fixture(scope="session")
def tiny_config(tiny_tokenizer: Tokenizer) -> Config:
    return Config(
        n_layer=2, n_embd=32, n_head=4, rotary_dim=4, vocab_size=len(tiny_tokenizer) + 3, n_positions=256, eos_token_id=0
    )


@pytest.fixture(scope="session")
def tiny_folder(tiny_config: Config, tiny_backend: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint of random weights: config.json, model.safetensors, tokenizer.json, generation_config.json."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(5)
    model = CodeGen(tiny_config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    checkpoint.save(model, folder)
    tiny_backend.save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False}), encoding="utf-8")
    return folder


@pytest.fixture
def tiny_engine(tiny_folder: Path) -> Engine:
    return Engine(TorchStep(checkpoint.load(tiny_folder)), Tokenizer.load(tiny_folder))
