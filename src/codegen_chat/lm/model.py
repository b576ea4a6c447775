"""CodeGen in torch: the network, and the reference step that every faster path must equal.

Architecture of "A Conversational Paradigm for Program Synthesis" (Nijkamp et al., 2022), weights as published: one LayerNorm,
then attention and MLP in parallel, rotary positions on the first `rotary_dim` of each head, an untied head with bias. The rows of
`qkv` are q, k, v in head order: `checkpoint.py` permutes the published layout once, at load.

Shapes: B sequences, T tokens, H heads of D, C = H·D = n_embd, V = vocabulary.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from codegen_chat.lm.config import Config


def rotary_tables(config: Config, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """Return sin and cos, each (n_positions, rotary_dim / 2) in float32: base 10000, frequencies over `rotary_dim`."""
    inverse = 10000.0 ** (-torch.arange(0, config.rotary_dim, 2, device=device, dtype=torch.float32) / config.rotary_dim)
    angles = torch.outer(torch.arange(config.n_positions, device=device, dtype=torch.float32), inverse)
    return angles.sin(), angles.cos()


def rotate(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Turn the first 2·sin.shape[-1] entries of each head of x (…, T, D), even and odd entries in pairs (interleaved)."""
    width = 2 * sin.shape[-1]
    even, odd = x[..., 0:width:2], x[..., 1:width:2]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)
    return turned if width == x.shape[-1] else torch.cat((turned, x[..., width:]), dim=-1)


class KeyValues:
    """The keys and values of one layer's past: (B, H, n_positions, D), the first `length` of them valid."""

    def __init__(self, batch: int, config: Config, dtype: torch.dtype, device: torch.device | str) -> None:
        shape = (batch, config.n_head, config.n_positions, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def extend(self, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write T new positions from `start` on; return everything up to and with them."""
        end = start + keys.shape[2]
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]


class Block(nn.Module):
    """One layer: x + attention(h) + mlp(h), with h = ln_1(x)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.fc_in = nn.Linear(config.n_embd, config.inner)
        self.fc_out = nn.Linear(config.inner, config.n_embd)

    def forward(self, x: Tensor, sin: Tensor, cos: Tensor, past: KeyValues | None = None, start: int = 0) -> Tensor:
        """(B, T, C) -> (B, T, C). `sin` and `cos` are those of positions start … start + T."""
        batch, tokens, width = x.shape
        h = self.ln_1(x)
        qk, v = self.qkv(h).view(batch, tokens, 3, self.n_head, -1).permute(2, 0, 3, 1, 4).split((2, 1))
        (q, k), v = rotate(qk, sin, cos), v[0]
        if past is not None:
            k, v = past.extend(start, k, v)
        attended = attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        after: Tensor = x + self.out(attended) + self.fc_out(gelu(self.fc_in(h), approximate="tanh"))
        return after


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of the last T positions over all S: q (B, H, T, D), k and v (B, H, S, D) -> (B, H, T, D).

    Scores and softmax in float32, as the reference has them. Written out: on a CPU this is faster than SDPA at the lengths of a
    conversation, forward and backward, and a query of one token needs no mask. On a GPU a whole prompt goes through SDPA.
    """
    batch, heads, tokens, width = q.shape
    span = k.shape[2]
    if q.is_cuda and tokens == span:
        return scaled_dot_product_attention(q, k, v, is_causal=True)
    flat_q = q.reshape(batch * heads, tokens, width).float()
    flat_k = k.reshape(batch * heads, span, width).float()
    if tokens == 1:
        scores = torch.bmm(flat_q, flat_k.transpose(1, 2)) / math.sqrt(width)
    else:
        mask = torch.full((tokens, span), -torch.inf, device=q.device).triu_(span - tokens + 1)
        scores = torch.baddbmm(mask, flat_q, flat_k.transpose(1, 2), alpha=1 / math.sqrt(width))
    weights = scores.softmax(dim=-1).to(v.dtype)
    attended: Tensor = torch.bmm(weights, v.reshape(batch * heads, span, width)).view(batch, heads, tokens, width)
    return attended


class CodeGen(nn.Module):
    """The whole network."""

    sin: Tensor
    cos: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size)
        sin, cos = rotary_tables(config)
        self.register_buffer("sin", sin, persistent=False)
        self.register_buffer("cos", cos, persistent=False)

    def forward(self, ids: Tensor, past: list[KeyValues] | None = None, start: int = 0) -> Tensor:
        """Return the last hidden states, after `ln_f`: ids (B, T) -> (B, T, C). Logits are `lm_head` of them."""
        end = start + ids.shape[1]
        x = self.wte(ids)
        for i, block in enumerate(self.blocks):
            x = block(x, self.sin[start:end], self.cos[start:end], past[i] if past else None, start)
        hidden: Tensor = self.ln_f(x)
        return hidden


SMALL = 50_000_000
"""Parameters below which one thread is as fast as several, and many times faster where the cores are busy: OpenMP's threads wait
for each other at every operation, and a small model has hundreds of short ones a token."""


class TorchStep:
    """Runs tokens through the weights and the cache: the reference for every other step.

    The cache holds `length` positions, preallocated for the whole window; `truncate` goes back to an earlier one at no cost.
    """

    def __init__(self, model: CodeGen) -> None:
        self.model = model.eval().requires_grad_(requires_grad=False)
        for linear in model.modules():
            if isinstance(linear, nn.Linear) and linear.out_features > linear.in_features:
                # A token is a matrix times a vector. Where the matrix is taller than wide, MKL reads columns 1.6 times faster.
                linear.weight.data = linear.weight.data.t().contiguous().t()
        weight = model.lm_head.weight
        if sum(parameter.numel() for parameter in model.parameters()) < SMALL:
            torch.set_num_threads(1)
        self._past = [KeyValues(1, model.config, weight.dtype, weight.device) for _ in model.blocks]
        self.length = 0

    @property
    def config(self) -> Config:
        """The shape of the model."""
        return self.model.config

    @torch.inference_mode()
    def hidden(self, ids: NDArray[np.int64]) -> Tensor:
        """Append T tokens to the cache; return their last hidden states (T, C) on the model's device."""
        end = self.length + len(ids)
        if end > self.config.n_positions:
            raise ValueError(f"{end} tokens do not fit a window of {self.config.n_positions}")
        batch = torch.from_numpy(ids)[None].to(self.model.lm_head.weight.device)
        out: Tensor = self.model(batch, self._past, self.length)[0]
        self.length = end
        return out

    @torch.inference_mode()
    def __call__(self, ids: NDArray[np.int64], *, every: bool = False) -> NDArray[np.float32]:
        """Append T tokens; return float32 logits: (V,) of the last token, or (T, V) of each."""
        hidden = self.hidden(ids)
        logits: NDArray[np.float32] = self.model.lm_head(hidden if every else hidden[-1]).float().cpu().numpy()
        return logits

    def features(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Append T tokens; return their last hidden states, float32 (T, C)."""
        states: NDArray[np.float32] = self.hidden(ids).float().cpu().numpy()
        return states

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} to {length}")
        self.length = length
