"""Muon: momentum whose update is orthogonalised by Newton-Schulz steps (Keller Jordan, 2024), for the matrices of the blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of a stack of matrices (N, rows, columns) near 1, by the quintic of Muon's author."""
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if x.is_cuda:
        x = x.bfloat16()
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    upright: Tensor = x.transpose(1, 2) if tall else x
    return upright


def shared(matrices: Tensor) -> Tensor:
    """Orthogonalise a stack; the workers of a distributed run do a share each, for all of them hold the same matrices."""
    if not dist.is_initialized():
        return orthogonalise(matrices)
    mine = slice(dist.get_rank(), None, dist.get_world_size())
    done = torch.zeros_like(matrices)
    done[mine] = orthogonalise(matrices[mine])
    dist.all_reduce(done)
    return done


class Muon(Optimizer):
    """Nesterov momentum, orthogonalised; a matrix with 3·columns rows (q, k, v) counts as three. Equal shapes go together."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # noqa: ARG002  torch's signature
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state: dict[str, Any] = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(state["momentum"], group["momentum"])
                rows, columns = parameter.shape
                parts = 3 if rows == 3 * columns else 1
                for part, piece in zip(update.chunk(parts), parameter.chunk(parts), strict=True):
                    shapes.setdefault((rows // parts, columns), []).append((part, piece))
            for (rows, columns), pairs in shapes.items():
                updates = shared(torch.stack([part for part, _ in pairs]))
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for (_, piece), update in zip(pairs, updates, strict=True):
                    piece.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)
