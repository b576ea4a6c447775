"""int8 in plain torch, on a CPU: for machines where the native step was not built.

A matrix is FBGEMM's packed int8, and its product with a token one of whole numbers, without rounding. torch's operation gives
all tokens of a call one scale, by which a token would depend on its company. So each is brought to the same range before, whose
ends stand in two more columns, where the weights are 0. And as seven bits of a token are few, it comes as two rows: the whole
numbers of its range, and what they leave, times 126. Together they are fourteen bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from codegen_chat.errors import UsageError
from codegen_chat.lm.model import Block, CodeGen, TorchStep, rotary_tables
from codegen_chat.lm.quantize import to_int8
from codegen_chat.lm.stored import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ENGINE = "fbgemm"
_MOST = 63
"""A token's largest number in that range. Of 7 bits, for FBGEMM adds two products of 7 bits and 8 in 16."""

_ENDS = (_MOST + 0.5, -_MOST - 0.5)
"""From these ends FBGEMM makes a scale of 1: 127 steps, as many as 7 bits have."""

_LEAST = torch.finfo(torch.float32).tiny

_FINER = 2 * _MOST
"""What is left of a whole number, at most a half, times this is at most `_MOST`."""

ROWS = 512
"""Rows of a tensor that are made int8 at once: bounds the memory beside what is packed."""


class Int8Linear(nn.Module):
    """A linear layer of int8 weights, or several of the same input as one."""

    def __init__(self, weights: Weights, names: Sequence[str]) -> None:
        super().__init__()
        parts = [_int8(weights, f"{name}.weight") for name in names]
        numbers, scales = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        biases = [_bias(weights, f"{name}.bias", len(rows)) for name, (rows, _) in zip(names, parts, strict=True)]
        self.bias = torch.from_numpy(np.concatenate(biases))
        padded = torch.from_numpy(np.pad(numbers, ((0, 0), (0, len(_ENDS)))))
        with warnings.catch_warnings():  # of a later torch, which will not have this; pyproject.toml asks for the one that has
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch._make_per_channel_quantized_tensor(  # noqa: SLF001  nothing public makes one of whole numbers
                padded, torch.from_numpy(scales).double(), torch.zeros(len(scales), dtype=torch.long), 0
            )
            self._packed: Any = torch.ops.quantized.linear_prepack(quantized, None)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, R), float32: for each token alone the same, to the last bit."""
        rows = x.reshape(-1, x.shape[-1])
        unit = (torch.linalg.vector_norm(rows, torch.inf, 1, keepdim=True) / _MOST).clamp_min_(_LEAST)
        exact = rows / unit
        both = rows.new_empty(2, len(rows), rows.shape[1] + len(_ENDS))
        whole, rest = both[:, :, : -len(_ENDS)]
        torch.round(exact, out=whole)
        torch.sub(exact, whole, out=rest).mul_(_FINER)
        both[:, :, -2], both[:, :, -1] = _ENDS
        found = torch.ops.quantized.linear_dynamic(both.view(-1, both.shape[-1]), self._packed, True)  # of 7 bits
        found = found.view(2, len(rows), -1)
        result = torch.addcmul(self.bias, torch.add(found[0], found[1], alpha=1 / _FINER), unit)
        return result.view(*x.shape[:-1], -1)


class Int8Embedding(nn.Module):
    """Rows of int8, looked up."""

    def __init__(self, weights: Weights, key: str) -> None:
        super().__init__()
        self.numbers, self.scales = map(torch.from_numpy, _int8(weights, key))

    def forward(self, ids: Tensor) -> Tensor:
        """(…) -> (…, C), float32."""
        return self.numbers[ids].float() * self.scales[ids][..., None]


class Int8Block(Block):
    """A layer with three matrices: what the same tokens go into is one. `out` and `fc_out` have each scales of their own."""

    def __init__(self, weights: Weights, layer: str) -> None:
        nn.Module.__init__(self)
        self.n_head = weights.config.n_head
        self.ln_1 = _norm(weights, f"{layer}.ln_1")
        self.into = Int8Linear(weights, [f"{layer}.attn.qkv_proj", f"{layer}.mlp.fc_in"])
        self.out = Int8Linear(weights, [f"{layer}.attn.out_proj"])  # type: ignore[assignment]
        self.fc_out = Int8Linear(weights, [f"{layer}.mlp.fc_out"])  # type: ignore[assignment]

    def enter(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """As `Block.enter`."""
        both = self.into(h)
        width = 3 * h.shape[-1]
        return both[..., :width], both[..., width:]


class Int8CodeGen(CodeGen):
    """The network over a checkpoint's weights, read and packed matrix by matrix: the peak is the model and its largest layer."""

    def __init__(self, weights: Weights) -> None:
        nn.Module.__init__(self)
        self.config = config = weights.config
        self.wte = Int8Embedding(weights, "transformer.wte.weight")  # type: ignore[assignment]
        self.blocks = nn.ModuleList(Int8Block(weights, f"transformer.h.{i}") for i in range(config.n_layer))
        self.ln_f = _norm(weights, "transformer.ln_f")
        self.lm_head = Int8Linear(weights, ["lm_head"])  # type: ignore[assignment]
        self.sin, self.cos = rotary_tables(config)


class Int8Step(TorchStep):
    """TorchStep with int8 weights."""

    @property
    def dtype(self) -> str:
        """How the weights are kept."""
        return "int8"


def available() -> bool:
    """Whether this machine's torch has FBGEMM: on x86."""
    return _ENGINE in torch.backends.quantized.supported_engines


def load(weights: Weights) -> Int8Step:
    """Return the step over a checkpoint's weights as int8, on the CPU. Raises UsageError where it is not available."""
    if not available():
        raise UsageError(
            "int8 needs the native step (a C++ compiler at installation) or an x86 CPU: use auto, fp32, bf16 or fp16"
        )
    torch.backends.quantized.engine = _ENGINE
    return Int8Step(Int8CodeGen(weights))


def _norm(weights: Weights, key: str) -> nn.LayerNorm:
    norm = nn.LayerNorm(weights.config.n_embd, eps=weights.config.layer_norm_epsilon)
    for name, parameter in norm.named_parameters():
        parameter.data = torch.from_numpy(weights.floats(f"{key}.{name}").astype(np.float32))
    return norm


def _bias(weights: Weights, key: str, rows: int) -> NDArray[np.float32]:
    """Return a layer's bias (R,), zeros where it has none."""
    return weights.floats(key).astype(np.float32) if key in weights.places else np.zeros(rows, dtype=np.float32)


def _int8(weights: Weights, key: str) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return a matrix as int8 (R, C) and the scales of its rows (R,), as it is stored or made so."""
    if weights.is_int8(key):
        return weights.ordered(key)
    rows = weights.shape(key)[0]
    step = rows if "qkv" in key else ROWS  # the order of its rows is seen in the whole
    pieces = [to_int8(weights.floats(key, start, min(start + step, rows))) for start in range(0, rows, step)]
    numbers, scales = zip(*pieces, strict=True)
    return np.concatenate(numbers), np.concatenate(scales)
