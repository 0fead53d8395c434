"""What the scans are held to: the same states, one token at a time, and the decay regimes they must survive.

Output: loops over any dtype (the tests run them in float64), `gradients` of a scan, and their relative RMS distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DECAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "0.55 to 1": lambda x: torch.exp(-0.6065 * torch.sigmoid(x)),
    "wide": lambda x: torch.exp(-torch.exp(2 * x)),
    "1e-30 among 0.99": lambda x: torch.where(x > 1.28, 1e-30, 0.99),
    "1e-4 among 0.99": lambda x: torch.where(x > 1.28, 1e-4, 0.99),
    "all 1e-30": lambda x: torch.full_like(x, 1e-30),
    "0 among 1": lambda x: torch.where(x > 1.28, 0.0, 1.0),
    "all 1": torch.ones_like,
    "-1 to 1": torch.tanh,
}


@dataclass(frozen=True, slots=True)
class Operands:
    """What `chunk_scan` takes, in its order."""

    q: Tensor  # [B, T, H, n, K]
    w: Tensor | None
    k: Tensor
    v: Tensor
    S0: Tensor
    a: Tensor | None = None
    b: Tensor | None = None
    wv: Tensor | None = None

    def all(self) -> list[Tensor | None]:
        return [self.q, self.w, self.k, self.v, self.S0, self.a, self.b, self.wv]


def operands(
    T: int,
    K: int,
    V: int,
    queries: int = 1,
    rank: int = 0,
    addends: int = 1,
    decay: str | Callable[[Tensor], Tensor] | None = "0.55 to 1",
    width: int | None = None,
    batch: tuple[int, int] = (2, 2),
) -> Operands:
    """Random float32 operands; `width` is w's last axis (K when None), `rank` normalised pairs like DeltaNet's."""
    torch.manual_seed(0)
    B, H = batch
    draw = torch.randn
    w = None
    if decay is not None:
        w = (DECAYS[decay] if isinstance(decay, str) else decay)(draw(B, T, H, width or K)).float()
    k, v, S0 = 0.3 * draw(B, T, H, addends, K), draw(B, T, H, addends, V), draw(B, H, V, K)
    if not rank:
        return Operands(draw(B, T, H, queries, K), w, k, v, S0)
    key = F.normalize(draw(B, T, H, rank, K), dim=-1)
    strength = torch.sigmoid(draw(B, T, H, rank, 1)) / rank
    return Operands(draw(B, T, H, queries, K), w, k, v, S0, -key, key * strength)


def correlated(strength: float, seed: int = 0) -> list[Tensor | None]:
    """A delta rule whose keys nearly agree, each token removing `strength` times what it finds."""
    q, _, k, v, S0, _, _, _ = operands(200, 64, 64, batch=(1, 2)).all()
    torch.manual_seed(seed)
    key = F.normalize(torch.randn(1, 1, 2, 1, 64) + 0.05 * torch.randn(1, 200, 2, 1, 64), dim=-1)
    return [q, None, k, v, S0, -key, strength * key]


def matrix_loop(
    q: Tensor,
    w: Tensor | None,
    k: Tensor,
    v: Tensor,
    S0: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    wv: Tensor | None = None,
    after: Sequence[bool] | None = None,
    reset: Tensor | None = None,
    initial: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """S' = (S (Φ + Σ a bᵀ)) ∘ wv + Σ v kᵀ; query n reads S' where after[n], else S; `reset` restores `initial`."""
    after = after or [False] * q.shape[3]
    S, read = S0, []
    for t in range(q.shape[1]):
        if reset is not None:
            start = torch.zeros_like(S) if initial is None else initial.expand_as(S)
            S = torch.where(reset[:, t, None, None, None], start, S)
        if w is None:
            new = S
        elif w.dim() == 6:
            new = torch.einsum("bhvgk,bhgfk->bhvfk", S.unflatten(-1, w.shape[-2:]), w[:, t]).flatten(-2)
        else:
            new = S * w[:, t].unsqueeze(-2)
        if a is not None and b is not None:
            new = new + (S @ a[:, t].mT) @ b[:, t]
        if wv is not None:
            new = new * wv[:, t].unsqueeze(-1)
        new = new + v[:, t].mT @ k[:, t]
        seen = [new if late else S for late in after]
        read.append(torch.stack([(s @ q[:, t, :, n].unsqueeze(-1)).squeeze(-1) for n, s in enumerate(seen)], 2))
        S = new
    return torch.stack(read, 1), S


def element_loop(
    step: Callable[[Tensor, int], Tensor], h: Tensor, T: int, reset: Tensor | None = None, initial: Tensor | None = None
) -> Tensor:
    """h after each of T tokens, h_t = step(h_{t-1}, t)."""
    out = []
    for t in range(T):
        if reset is not None:
            start = torch.zeros_like(h) if initial is None else initial.expand_as(h)
            h = torch.where(reset[:, t].reshape(-1, *[1] * (h.dim() - 1)), start, h)
        h = step(h, t)
        out.append(h)
    return torch.stack(out, 1)


def gradients(
    scan: Callable[..., Tensor | tuple[Tensor, ...]], given: Sequence[Tensor | None], dtype: torch.dtype
) -> list[Tensor]:
    """The outputs of `scan(*given)` in a dtype and every gradient, under fixed random weights of the outputs."""
    xs = [x if x is None else x.detach().to(dtype).clone().requires_grad_() for x in given]
    outputs = scan(*xs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    weigh = torch.Generator().manual_seed(1)
    loss = sum((y * torch.randn(y.shape, generator=weigh).to(y.dtype)).sum() for y in outputs)
    assert isinstance(loss, Tensor)
    given = [x for x in xs if x is not None]
    return [*outputs, *torch.autograd.grad(loss, given, allow_unused=True, materialize_grads=True)]


def worst(found: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """The largest relative RMS distance of the pairs; infinite where one is not finite."""
    assert len(found) == len(true)
    distances = []
    for x, y in zip(found, true, strict=True):
        assert x.shape == y.shape
        size = float(y.detach().double().norm())
        far = float((x.detach().double() - y.detach().double()).norm())
        distances.append(0.0 if far == 0.0 else far / size if size else math.inf)
    return max(math.inf if math.isnan(x) else x for x in distances)
