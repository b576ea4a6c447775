"""LoRA (Hu et al., 2021): the blocks' matrices stay as they are, and each learns a product of two thin ones beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from codegen_chat.lm.model import CodeGen

ADAPTED = ("qkv", "out", "fc_in", "fc_out")


class LowRank(nn.Module):
    """A frozen linear layer and what is learned beside it: x -> Wx + up(down(x)). It begins as the layer alone."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        wide: Tensor = self.linear(x) + (x @ self.down.T) @ self.up.T
        return wide


def adapt(model: CodeGen, rank: int) -> None:
    """Freeze a model and put a LowRank in the place of each block's matrices."""
    model.requires_grad_(requires_grad=False)
    for block in model.blocks:
        for name in ADAPTED:
            setattr(block, name, LowRank(getattr(block, name), rank))


@torch.no_grad()
def merge(model: CodeGen) -> None:
    """Undo `adapt`: what was learned becomes a part of the matrices, and the model is one of the published shape again."""
    for block in model.blocks:
        for name in ADAPTED:
            adapted = getattr(block, name)
            adapted.linear.weight += adapted.up @ adapted.down
            setattr(block, name, adapted.linear)
