"""The loss of a batch: cross-entropy over the vocabulary, without the logits of all tokens at once.

Input: a generated module, what its `hidden` gives over [B, T], and the tokens that come next.
Output: nats, summed.  Logits are made for some tokens at a time and, where a gradient is wanted, theirs at once, in the
forward pass, so that no more than those of one part are ever in memory, and nothing is computed twice (as in Liger
Kernel, Hsu et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cdrmix.runtime.torch.module import Streaming
from cdrmix.train.batches import IGNORE

AT_ONCE = 1 << 24
"""Logits that are made at once: 64 MB of f32."""


@torch.no_grad()
def summed_nats(module: Streaming, hidden: Tensor, targets: Tensor) -> float:
    """Nats of all targets [B, T], summed, without a gradient.  `hidden` [B, T, …] is of `module.hidden`."""
    rows, ids = hidden.flatten(0, 1), targets.flatten()
    if not module.apart:
        return float(_nats(rows, ids, 0.0)[0])
    return sum(float(_nats(module.logits(rows[None, some])[0], ids[some], 0.0)[0]) for some in _parts(module, rows))


def _parts(module: Streaming, rows: Tensor) -> Iterator[slice]:
    """The rows whose logits are made at once."""
    size = max(1, AT_ONCE // module.logits(rows[None, :0]).shape[-1])
    return (slice(at, at + size) for at in range(0, len(rows), size))


def summed_loss(module: Streaming, hidden: Tensor, targets: Tensor, z: float = 0.0) -> Tensor:
    """Nats of all targets [B, T], summed.  `hidden` is what `module.hidden` gave, [B, T, …].

    The gradient, not the value, is also of `z` times the squares of the logarithms of the tokens' sums of exponentials,
    which keeps logits from drifting (Chowdhery et al. 2022, PaLM, section 5).
    """
    if not module.apart:  # there is nothing to put off: they are logits
        nats, penalty = _nats(hidden.flatten(0, 1), targets.flatten(), z)
        return nats + (penalty - penalty.detach())
    held = (p for path in module.last_line for p in module.get_submodule(path).parameters())
    params = [p for p in dict.fromkeys(held) if p.requires_grad]
    loss: Tensor = _Summed.apply(module, targets, z, hidden, *params)  # type: ignore[no-untyped-call]
    return loss


def _nats(logits: Tensor, targets: Tensor, z: float) -> tuple[Tensor, Tensor]:
    """The cross-entropy and the z-loss of logits [n, vocab], both summed."""
    logits = logits.float()
    nats = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    if not z:
        return nats, nats.new_zeros(())
    return nats, z * (logits.logsumexp(-1).square() * (targets != IGNORE)).sum()


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, module: Streaming, targets: Tensor, z: float, hidden: Tensor, *params: Tensor) -> Tensor:
        rows, ids = hidden.flatten(0, 1), targets.flatten()
        total = torch.zeros((), device=rows.device)
        of_rows = torch.zeros_like(rows) if hidden.requires_grad else None
        grads: list[Tensor | None] = [None] * len(params)
        for part in _parts(module, rows):
            some = rows[part].detach().requires_grad_(of_rows is not None)
            with torch.enable_grad():
                nats, penalty = _nats(module.logits(some[None])[0], ids[part], z)
                both = nats + penalty
            total += nats.detach()
            found = torch.autograd.grad(both, [*params, *[some] * some.requires_grad], allow_unused=True)
            for n, more in enumerate(found[: len(params)]):
                sum_so_far = grads[n]
                if more is not None:  # a parameter may be compared alone
                    grads[n] = more if sum_so_far is None else sum_so_far.add_(more)
            if of_rows is not None and found[-1] is not None:
                of_rows[part] = found[-1]
        ctx.shape = hidden.shape
        ctx.save_for_backward(of_rows, *grads)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by: Tensor) -> tuple[Tensor | None, ...]:
        of_rows, *grads = ctx.saved_tensors
        hidden = None if of_rows is None else (of_rows * by).reshape(ctx.shape)
        return None, None, None, hidden, *(None if grad is None else grad * by for grad in grads)
