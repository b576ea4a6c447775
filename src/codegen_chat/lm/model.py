"""CodeGen in torch: the network, and the reference step that every faster path must equal.

Architecture of "A Conversational Paradigm for Program Synthesis" (Nijkamp et al., 2022), weights as published: one LayerNorm,
then attention and MLP in parallel, rotary positions on the first `rotary_dim` of each head, an untied head with bias. The rows of
`qkv` are q, k, v in head order: `checkpoint.py` permutes the published layout once, at load.

Shapes: B sequences, T tokens, H heads of D, C = H·D = n_embd, V = vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from codegen_chat.lm.stored import shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from codegen_chat.lm.config import Config
    from codegen_chat.lm.engine import Branches


def rotary_tables(config: Config, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """Return sin and cos, each (n_positions, rotary_dim / 2) in float32: base 10000, frequencies over `rotary_dim`.

    The inverse is taken as the reference takes it, so that its rounding is the reference's: at position 2000 that shows.
    """
    inverse = 1.0 / 10000.0 ** (torch.arange(0, config.rotary_dim, 2, device=device, dtype=torch.float32) / config.rotary_dim)
    angles = torch.outer(torch.arange(config.n_positions, device=device, dtype=torch.float32), inverse)
    return angles.sin(), angles.cos()


def rotate(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Turn the first 2·sin.shape[-1] entries of each head of x (…, T, D), even and odd entries in pairs (interleaved)."""
    width = 2 * sin.shape[-1]
    even, odd = x[..., 0:width:2], x[..., 1:width:2]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)
    return turned if width == x.shape[-1] else torch.cat((turned, x[..., width:]), dim=-1)


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What a layer does with q, k and v (B, H, T, D): remember k and v, and return what q finds, (B, H, T, D)."""


class KeyValues:
    """The keys and values of one layer's past: (1, H, n_positions, D)."""

    def __init__(self, config: Config, dtype: torch.dtype, device: torch.device | str) -> None:
        shape = (1, config.n_head, config.n_positions, config.head_dim)
        # Nothing is read that was not written, and what is not touched takes no memory.
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)

    def attend(self, start: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write T new positions from `start` on; attend to everything up to and with them."""
        end = start + k.shape[2]
        self.keys[:, :, start:end] = k
        self.values[:, :, start:end] = v
        return attention(q, self.keys[:, :, :end], self.values[:, :, :end])


class Tails:
    """One layer's keys and values of several continuations of one past: (N, H, positions, D) behind the P that they share."""

    def __init__(self, past: KeyValues, shared: int, count: int) -> None:
        self._keys, self._values = past.keys[:, :, :shared], past.values[:, :, :shared]
        self.keys, self.values = (past.keys.new_zeros(count, past.keys.shape[1], 0, past.keys.shape[3]) for _ in "kv")

    def attend(self, which: Tensor, lengths: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write a position behind the first `lengths` ones of the tails `which`; each of B attends to the past and its own."""
        span = int(lengths.max()) + 1
        while self.keys.shape[2] < span:  # grown by halves of a typical answer: the window times N would be much
            more = self.keys.new_zeros(*self.keys.shape[:2], 64, self.keys.shape[3])
            self.keys, self.values = torch.cat((self.keys, more), 2), torch.cat((self.values, more), 2)
        self.keys[which, :, lengths] = k[:, :, 0]
        self.values[which, :, lengths] = v[:, :, 0]
        keys, values = self.keys[which, :, :span].float(), self.values[which, :, :span]
        beyond = torch.arange(span, device=q.device) > lengths[:, None, None, None]
        # The queries of all continuations meet the shared past as if they were T of one sequence: it is read once.
        queries = q.transpose(0, 2).float() / math.sqrt(q.shape[-1])  # (1, H, B, D)
        old = (queries @ self._keys.float().transpose(2, 3)).transpose(0, 2)  # (B, H, 1, P)
        new = (queries.transpose(0, 2) @ keys.transpose(2, 3)).masked_fill(beyond, -torch.inf)
        weights = torch.cat((old, new), -1).softmax(dim=-1).to(v.dtype)
        past, own = weights[..., :-span], weights[..., -span:]
        found: Tensor = (past.transpose(0, 2) @ self._values).transpose(0, 2) + own @ values
        return found


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

    def forward(self, x: Tensor, sin: Tensor, cos: Tensor, attend: Attend) -> Tensor:
        """(B, T, C) -> (B, T, C). `sin` and `cos`: (T, rotary_dim / 2), or (B, 1, 1, rotary_dim / 2) where T is 1."""
        batch, tokens, width = x.shape
        qkv, inner = self.enter(self.ln_1(x))
        qkv = qkv.view(batch, tokens, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)
        (q, k), v = rotate(qkv[:2], sin, cos), qkv[2]
        attended = attend(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        return self.leave(x, attended, gelu(inner, approximate="tanh"))

    def enter(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return q, k and v as one, (B, T, 3C), and what goes into the MLP's gelu, (B, T, inner), of h (B, T, C)."""
        return self.qkv(h), self.fc_in(h)

    def leave(self, x: Tensor, attended: Tensor, inner: Tensor) -> Tensor:
        """Return x (B, T, C) with what attention (B, T, C) and the MLP's inside (B, T, inner) add to it."""
        after: Tensor = x + self.out(attended) + self.fc_out(inner)
        return after


def weigh(q: Tensor, k: Tensor) -> Tensor:
    """Return how much each of the last T positions attends to each of all S: q (B, H, T, D), k (B, H, S, D) -> (B·H, T, S).

    Scores and softmax in float32, as the reference has them; 0 for what comes later. A query of one token needs no mask.
    """
    batch, heads, tokens, width = q.shape
    span = k.shape[2]
    flat_q = q.reshape(batch * heads, tokens, width).float()
    flat_k = k.reshape(batch * heads, span, width).float()
    if tokens == 1:
        scores = torch.bmm(flat_q, flat_k.transpose(1, 2)) / math.sqrt(width)
    else:
        mask = torch.full((tokens, span), -torch.inf, device=q.device).triu_(span - tokens + 1)
        scores = torch.baddbmm(mask, flat_q, flat_k.transpose(1, 2), alpha=1 / math.sqrt(width))
    return scores.softmax(dim=-1)


def gather(weights: Tensor, v: Tensor) -> Tensor:
    """Return what positions find with weights (B·H, T, S) in v (B, H, S, D): (B, H, T, D)."""
    found: Tensor = torch.bmm(weights.to(v.dtype), v.reshape(-1, *v.shape[2:])).view(*v.shape[:2], -1, v.shape[3])
    return found


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of the last T positions over all S: q (B, H, T, D), k and v (B, H, S, D) -> (B, H, T, D).

    Written out: on a CPU this is faster than SDPA at the lengths of a conversation, forward and backward. On a GPU a whole prompt
    goes through SDPA.
    """
    if q.is_cuda and q.shape[2] == k.shape[2]:
        return scaled_dot_product_attention(q, k, v, is_causal=True)
    return gather(weigh(q, k), v)


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

    @property
    def dtype(self) -> torch.dtype:
        """What activations are kept in, and weights but where those are smaller."""
        return self.ln_f.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.ln_f.weight.device

    def forward(self, ids: Tensor, attends: Sequence[Attend] | None = None, start: int | Tensor = 0) -> Tensor:
        """Return the last hidden states, after `ln_f`: ids (B, T) -> (B, T, C). Logits are `lm_head` of them.

        `attends` are the layers' pasts. The tokens stand at `start` and after it; a tensor (B,) has a start for each, and T is 1.
        """
        where = slice(start, start + ids.shape[1]) if isinstance(start, int) else start[:, None, None]
        sin, cos = self.sin[where], self.cos[where]
        x = self.wte(ids)
        for block, attend in zip(self.blocks, attends or repeat(attention), strict=False):
            x = block(x, sin, cos, attend)
        hidden: Tensor = self.ln_f(x)
        return hidden


@torch.inference_mode()
def attentions(model: CodeGen, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return what T tokens attend to, float32 (layers, H, T, T): `[l, h, i, j]` is how much i does to j, 0 where j is later."""
    config, device = model.config, model.device
    seen = np.empty((config.n_layer, config.n_head, len(ids), len(ids)), dtype=np.float32)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = weigh(q, k)
        seen[layer] = weights.cpu().numpy()
        return gather(weights, v)

    model(torch.from_numpy(ids)[None].to(device), [partial(attend, layer) for layer in range(config.n_layer)])
    return seen


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
        if sum(map(math.prod, shapes(model.config).values())) < SMALL:
            torch.set_num_threads(1)
        self._past = [KeyValues(model.config, model.dtype, model.device) for _ in model.blocks]
        self.length = 0

    @property
    def config(self) -> Config:
        """The shape of the model."""
        return self.model.config

    @property
    def dtype(self) -> str:
        """How the weights are kept."""
        return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.model.dtype]

    @property
    def device(self) -> str:
        """Where it computes."""
        return str(self.model.device)

    @property
    def backend(self) -> str:
        """What computes."""
        device = self.model.device
        gpu = f" on {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
        return f"torch {torch.__version__}{gpu}"

    @torch.inference_mode()
    def hidden(self, ids: NDArray[np.int64]) -> Tensor:
        """Append T tokens to the cache; return their last hidden states (T, C) on the model's device."""
        end = self.length + len(ids)
        if end > self.config.n_positions:
            raise ValueError(f"{end} tokens do not fit a window of {self.config.n_positions}")
        batch = torch.from_numpy(ids)[None].to(self.model.device)
        attends = [partial(past.attend, self.length) for past in self._past]
        out: Tensor = self.model(batch, attends, self.length)[0]
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

    def branch(self, count: int) -> Branches:
        """Return `count` empty continuations of what the cache holds now. They are void once it changes."""
        shared = self.length
        device = self.model.device
        tails = [Tails(past, shared, count) for past in self._past]

        @torch.inference_mode()
        def run(which: Sequence[int], lengths: Sequence[int], ids: Sequence[int]) -> NDArray[np.float32]:
            rows, kept, tokens = (torch.tensor(numbers, device=device) for numbers in (which, lengths, ids))
            attends = [partial(tail.attend, rows, kept) for tail in tails]
            hidden = self.model(tokens[:, None], attends, shared + kept)
            logits: NDArray[np.float32] = self.model.lm_head(hidden[:, 0]).float().cpu().numpy()
            return logits

        return run
