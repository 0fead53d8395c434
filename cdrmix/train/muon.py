"""Muon: matrices move along their momentum made orthogonal, everything else by AdamW.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), as `torch.optim.Muon`, but for matrices in banks and of
many layers too: those of one shape are made orthogonal in one batch of products.  Sharded ones are exchanged, so that
each rank makes a part of them orthogonal.

Input: groups of parameters; those whose `matrices` is true hold matrices [*banks, rows, columns].
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from cdrmix.train.shard import on_matrices, own

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
AT_ONCE = 1 << 27
"""Elements of matrices that are made orthogonal in one batch: half a gigabyte of f32, several times that on the way."""
MOMENTUM = "momentum"
"""What is kept of a matrix: a tensor of its shape."""


class Muon(torch.optim.AdamW):
    """AdamW whose groups of `matrices` move so instead: p ← p (1 - lr·decay) - lr √max(1, rows/columns) · O.

    O is g + μ m made orthogonal, where m ← μ m + g is the momentum (Nesterov's).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float, **adamw: Any):
        super().__init__(groups, **adamw)
        self.momentum = momentum

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        groups = [group["params"] for group in self.param_groups if group.get("matrices")]
        matrices = [p for params in groups for p in params if p.grad is not None]
        self._move_matrices()
        grads = [p.grad for p in matrices]
        for p in matrices:
            p.grad = None  # so that AdamW passes it by
        super().step()
        for p, grad in zip(matrices, grads, strict=True):
            p.grad = grad

    def _move_matrices(self) -> None:
        alike = dict[tuple[int, ...], list[tuple[Tensor, Tensor, dict[str, Any]]]]()
        for group in self.param_groups:
            for p in group["params"] if group.get("matrices") else ():
                if p.grad is not None:
                    if MOMENTUM not in self.state[p]:
                        self.state[p][MOMENTUM] = torch.zeros_like(p)
                    m, g = own(self.state[p][MOMENTUM]), own(p.grad)
                    m.mul_(self.momentum).add_(g)
                    alike.setdefault(tuple(p.shape[-2:]), []).append((p, g + self.momentum * m, group))
        for (rows, columns), found in alike.items():
            moved = on_matrices([p for p, _, _ in found], [u for _, u, _ in found], orthogonal)
            for (p, _, group), by in zip(found, moved, strict=True):
                rate, x = group["lr"], own(p)
                x.mul_(1 - rate * group["weight_decay"])
                x.add_(by, alpha=-rate * math.sqrt(max(1.0, rows / columns)))


def orthogonal(x: Tensor) -> Tensor:
    """The nearest matrices with singular values near 1, of x [n, rows, columns], by five rounds of Newton and Schulz.

    Their products are in bf16 on a GPU, which is as good (Jordan et al.), and in x's type on a CPU, which is faster
    there.
    """
    found = torch.empty_like(x)
    size = max(1, AT_ONCE // (x.shape[1] * x.shape[2]))
    for some, into in zip(x.split(size), found.split(size), strict=True):
        into.copy_(_newton_schulz(some.bfloat16() if x.device.type == "cuda" else some))
    return found


def _newton_schulz(x: Tensor) -> Tensor:
    tall = x.shape[1] > x.shape[2]
    y = x.mT if tall else x
    y = y / y.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        square = y @ y.mT
        y = a * y + (b * square + c * (square @ square)) @ y
    found: Tensor = y.mT if tall else y
    return found
