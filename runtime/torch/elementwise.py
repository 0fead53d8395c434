"""Scans of states whose elements do not meet, and of a few states that mix element by element.

Input: decays and addends over [B, T, *S], the state before the first token [B, *S], `reset` [B, T] or None (True: this
token is a document's first) and what a document starts from (`initial`, zero when None).
Output: the state after each token, [B, T, *S]; `delay.shift` turns it into the state before each token.

Kernels of the GPU or the CPU run where they can, plain torch elsewhere, to which a reset is an ordinary addend: at that
token the decay becomes 0 and decay · initial is added.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import gpu, native
from .delay import keep, shift

FAR = -1e30  # below every maximum; not -inf, whose differences are NaN in gradients
CHUNK = 16
SMALL = 8192  # elements of a token's slice below which a loop over tokens is all overhead


def kernels_of(state: Tensor) -> Any | None:
    """The kernels that are right for a state, the GPU's or the CPU's; None: the forms in plain torch."""
    return gpu if gpu.usable(state) else native if native.usable(state) else None


def linear_scan(a: Tensor, b: Tensor, h0: Tensor, reset: Tensor | None = None, initial: Tensor | None = None) -> Tensor:
    """h_t = a_t ∘ h_{t-1} + b_t.

    h0 [B, *S]; a and b broadcast to [B, T, *S].  Any decay: 0, tiny, negative.  Returns h [B, T, *S] in h0's dtype.
    """
    T = max(a.shape[1], b.shape[1]) if reset is None else reset.shape[1]
    a = a.to(h0.dtype).expand(h0.shape[0], T, *h0.shape[1:])
    b = b.to(h0.dtype).expand(a.shape)
    initial = initial if initial is None else initial.to(h0.dtype)
    if kernels := kernels_of(h0):
        return kernels.linear_scan(a, b, h0, reset, initial)  # type: ignore[no-any-return]
    if reset is not None:
        kept = keep(a, reset)
        b = b if initial is None else b + (a - kept) * initial
        a = kept
    return _LinearScan.apply(a, b, h0)  # type: ignore[no-any-return, no-untyped-call]


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
        h = scan(a, b, h0)
        ctx.save_for_backward(a, h, h0)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, h, h0 = ctx.saved_tensors
        # g_t = dh_t + a_{t+1} g_{t+1}: the same scan, backwards in time
        later = torch.cat([a[:, 1:], torch.ones_like(a[:, :1])], 1)
        g = scan(later.flip(1), dh.flip(1), torch.zeros_like(h0)).flip(1)
        return g * shift(h, h0), g, a[:, 0] * g[:, 0]


def scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """The plain torch form: token by token where a token's slice is large, else in chunks side by side."""
    T = b.shape[1]
    if (h0.numel() >= SMALL or T <= CHUNK) and not torch.compiler.is_compiling():  # whose graphs take no `out`
        h = torch.empty_like(b, memory_format=torch.contiguous_format)
        before = h0
        for t in range(T):
            before = torch.addcmul(b[:, t], a[:, t].expand_as(before), before, out=h[:, t])
        return h
    h, p = _chunks(b, 0.0).clone(), _chunks(a, 1.0).clone()  # [B, *S, chunks, CHUNK]
    decay = p.clone()
    for t in range(1, CHUNK):  # all chunks at once, one place after the other
        h[..., t] += decay[..., t] * h[..., t - 1]
        p[..., t] *= p[..., t - 1]
    before, starts = h0, []
    for i in range(h.shape[-2]):
        starts.append(before)
        before = p[..., i, -1] * before + h[..., i, -1]
    h += p * torch.stack(starts, -1).unsqueeze(-1)
    return _whole(h, T)


def _chunks(x: Tensor, fill: float) -> Tensor:
    """[B, T, *S] to [B, *S, chunks, CHUNK]."""
    return torch.unflatten(F.pad(x.movedim(1, -1), (0, -x.shape[1] % CHUNK), value=fill), -1, (-1, CHUNK))


def _whole(x: Tensor, T: int) -> Tensor:
    return x.flatten(-2)[..., :T].movedim(-1, 1).contiguous()


def maxplus_scan(
    d: Tensor,
    b: Tensor,
    p0: Tensor,
    combine: Literal["max", "logaddexp"] = "max",
    reset: Tensor | None = None,
    initial: Tensor | None = None,
) -> Tensor:
    """p_t = combine(p_{t-1} + d_t, b_t), combine being the maximum or log(exp + exp).

    p0 [B, *S]; d and b broadcast to [B, T, *S].  Returns p [B, T, *S] in p0's dtype.
    """
    T = max(d.shape[1], b.shape[1]) if reset is None else reset.shape[1]
    full = (p0.shape[0], T, *p0.shape[1:])
    d, b = d.to(p0.dtype).expand(full), b.to(p0.dtype).expand(full)
    initial = initial if initial is None else initial.to(p0.dtype)
    if kernels := kernels_of(p0):
        return kernels.maxplus_scan(d, b, p0, combine == "logaddexp", reset, initial)  # type: ignore[no-any-return]
    join = torch.maximum if combine == "max" else torch.logaddexp
    if reset is not None:
        at = reset.reshape(*reset.shape, *[1] * (p0.dim() - 1))
        start = d if initial is None else d + initial
        b = torch.where(at, join(start, b), b)
        d = torch.where(at, FAR, d)
    d, b = _chunks(d, 0.0), _chunks(b, FAR)
    h, s = [b[..., 0]], [d[..., 0]]
    for t in range(1, CHUNK):
        h.append(join(h[-1] + d[..., t], b[..., t]))
        s.append(s[-1] + d[..., t])
    inside, gone = torch.stack(h, -1), torch.stack(s, -1)
    before, starts = p0, []
    for i in range(inside.shape[-2]):
        starts.append(before)
        before = join(before + gone[..., i, -1], inside[..., i, -1])
    return _whole(join(inside, gone + torch.stack(starts, -1).unsqueeze(-1)), T)


def coupled_scan(
    A: Tensor, b: Tensor, h0: Tensor, reset: Tensor | None = None, initial: Tensor | None = None
) -> Tensor:
    """h_t[f] = Σ_g A_t[f, g] ∘ h_{t-1}[g] + b_t[f]: G states that mix element by element.

    b [B, T, G, *S]; A (target, source) broadcasts to [B, T, G, G, *S]; h0 [B, G, *S]; `initial` broadcasts to h0.
    Returns h [B, T, G, *S] in h0's dtype.
    """
    b = b.to(h0.dtype)
    A = A.to(h0.dtype).expand(*b.shape[:3], *b.shape[2:])
    initial = initial if initial is None else initial.to(h0.dtype).expand(h0.shape)
    if kernels := kernels_of(h0):
        return kernels.coupled_scan(A, b, h0, reset, initial)  # type: ignore[no-any-return]
    if reset is not None:
        kept = keep(A, reset)
        if initial is not None:
            b = b + _act(A - kept, initial.unsqueeze(1), 2)
        A = kept
    T = b.shape[1]
    steps, adds = _chunks(A, 0.0).unbind(-1), _chunks(b, 0.0).unbind(-1)  # the padding comes after the last token
    h, P = [adds[0]], [steps[0]]
    for t in range(1, CHUNK):
        h.append(_act(steps[t], h[-1], 1) + adds[t])
        P.append((steps[t].unsqueeze(3) * P[-1].unsqueeze(1)).sum(2))
    before, starts = h0, []
    for i in range(h[-1].shape[-1]):
        starts.append(before)
        before = _act(P[-1][..., i], before, 1) + h[-1][..., i]
    first = torch.stack(starts, -1)
    return _whole(torch.stack([_act(p, first, 1) + x for p, x in zip(P, h, strict=True)], -1), T)


def _act(M: Tensor, h: Tensor, axis: int) -> Tensor:
    """Σ_g M[f, g] ∘ h[g]; f stands at `axis` of M, g after it and at `axis` of h."""
    return (M * h.unsqueeze(axis)).sum(axis + 1)
