"""The shape of a CodeGen model: `config.json`, and the four published sizes beside the embedded one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codegen_chat.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

END_OF_TEXT = 50256
"""`<|endoftext|>` of the GPT-2 vocabulary. Configs before October 2022 said 2, which is the token `#`."""

EIGHT = {(16, 2048), (16, 4096)}
"""Layers and width of CodeGen2 1B and 3.7B, whose qkv rows lie in eight groups, which their config.json does not say."""


@dataclass(frozen=True, slots=True)
class Config:
    """The numbers of one architecture; names as in the published `config.json`."""

    n_layer: int
    n_embd: int
    n_head: int
    rotary_dim: int
    vocab_size: int = 51200
    n_positions: int = 2048
    n_inner: int | None = None
    layer_norm_epsilon: float = 1e-5
    eos_token_id: int = END_OF_TEXT
    partitions: int = 4
    """How many groups the rows of the stored `qkv_proj` lie in (mp_num of the reference)."""

    def __post_init__(self) -> None:
        """Refuse numbers that do not fit each other."""
        if min(self.n_layer, self.n_embd, self.n_head, self.vocab_size, self.n_positions) < 1:
            raise CheckpointError("config.json: n_layer, n_embd, n_head, vocab_size and n_positions must be positive")
        if self.n_embd % self.n_head:
            raise CheckpointError(f"config.json: n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        if self.n_head % self.partitions:
            raise CheckpointError(f"config.json: n_head {self.n_head} is not a multiple of {self.partitions}")
        if not 0 < self.rotary_dim <= self.head_dim or self.rotary_dim % 2:
            raise CheckpointError(f"config.json: rotary_dim {self.rotary_dim} is odd or larger than a head ({self.head_dim})")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def inner(self) -> int:
        """Width of the MLP's hidden layer."""
        return self.n_inner or 4 * self.n_embd

    @classmethod
    def read(cls, path: Path) -> Config:
        """Read a `config.json`. Raises CheckpointError with one line that names what is wrong."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{path.parent} holds no config.json: name the folder of a checkpoint") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from None
        if not isinstance(data, dict):
            raise CheckpointError(f"{path} holds no configuration")
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Config:
        """Build from the published keys. Raises CheckpointError where one is missing or of another architecture."""
        if data.get("model_type", "codegen") != "codegen":
            raise CheckpointError(f"config.json describes a model of type {data['model_type']!r}: only 'codegen' can be loaded")
        needed = ("n_layer", "n_embd", "n_head", "rotary_dim", "vocab_size", "n_positions")
        for key in needed:
            if not isinstance(data.get(key), int):
                raise CheckpointError(f"config.json lacks a whole number for {key!r}")
        if data.get("activation_function", "gelu_new") != "gelu_new":
            raise CheckpointError(f"config.json asks for {data['activation_function']!r}: CodeGen computes with 'gelu_new'")
        inner, epsilon, eos = data.get("n_inner"), data.get("layer_norm_epsilon", 1e-5), data.get("eos_token_id")
        if not isinstance(inner, int | None) or not isinstance(epsilon, float | int):
            raise CheckpointError("config.json: n_inner must be null or a whole number, layer_norm_epsilon a number")
        if not isinstance(eos, int) or (eos == 2 and data["vocab_size"] > END_OF_TEXT):
            eos = END_OF_TEXT
        partitions = data.get("mp_num", _usual_partitions(data["n_layer"], data["n_embd"]))
        numbers = {key: data[key] for key in needed} | {"n_inner": inner, "eos_token_id": eos, "partitions": partitions}
        return cls(**numbers, layer_norm_epsilon=float(epsilon))

    def to_dict(self) -> dict[str, Any]:
        """Return the published keys, readable by transformers' CodeGenConfig."""
        return {
            "architectures": ["CodeGenForCausalLM"],
            "model_type": "codegen",
            "activation_function": "gelu_new",
            "n_layer": self.n_layer,
            "n_embd": self.n_embd,
            "n_head": self.n_head,
            "rotary_dim": self.rotary_dim,
            "vocab_size": self.vocab_size,
            "n_positions": self.n_positions,
            "n_ctx": self.n_positions,
            "n_inner": self.n_inner,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "bos_token_id": self.eos_token_id,
            "eos_token_id": self.eos_token_id,
            "tie_word_embeddings": False,
        } | ({} if self.partitions == _usual_partitions(self.n_layer, self.n_embd) else {"mp_num": self.partitions})


def _usual_partitions(n_layer: int, n_embd: int) -> int:
    return 8 if (n_layer, n_embd) in EIGHT else 4


PUBLISHED = {
    "350M": Config(n_layer=20, n_embd=1024, n_head=16, rotary_dim=32),
    "2B": Config(n_layer=32, n_embd=2560, n_head=32, rotary_dim=64),
    "6B": Config(n_layer=33, n_embd=4096, n_head=16, rotary_dim=64),
    "16B": Config(n_layer=34, n_embd=6144, n_head=24, rotary_dim=64),
}
"""The four sizes of the family, the same for `nl`, `multi` and `mono`."""

NANO = Config(n_layer=6, n_embd=384, n_head=8, rotary_dim=24, vocab_size=6144, eos_token_id=0)
"""The embedded model that this repository trains."""
