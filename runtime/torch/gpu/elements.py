"""States whose elements do not meet, and G states that mix element by element: a thread a column, token by token.

Input: `mix`: A [B, T, G, G, C] (target, source; a token's numbers side by side, any strides of B and T), b
[B, T, G, C], h0 [B, G, C]: h'[f] = Σ_g A[f, g] ∘ h[g] + b[f].  `maxplus`: d, b [B, T, C], p0 [B, C]:
p' = max(p + d, b), or log(exp + exp) if `soft`.  `reset` [B, T] bool or None: the state before that token is
`initial` (shaped as h0; zero when None).  f32; all else contiguous.
Output: the state after every token; the gradients of everything.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tokens import flags, given, kind


@triton.jit
def mix_kernel(
    A, b, h0, reset, initial, h, T, C, A_row, A_token,
    G: tl.constexpr, GP: tl.constexpr, BLOCK: tl.constexpr, RESET: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK columns of a row of the batch."""
    batch = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, GP)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    one = (f < G)[:, None] & (c < C)[None, :]
    two = (f < G)[:, None, None] & one[None, :, :]
    cell = f[:, None] * C + c[None, :]
    pair = (f[:, None, None] * G + f[None, :, None]) * C + c[None, None, :]
    x = tl.load(h0 + batch * G * C + cell, mask=one, other=0.0)
    for t in tl.range(0, T, num_stages=4):
        if RESET:
            fresh = tl.load(reset + batch * T + t) != 0
            start = tl.zeros((GP, BLOCK), tl.float32)
            if RESET == 2:
                start = tl.load(initial + batch * G * C + cell, mask=one & fresh, other=0.0)
            x = tl.where(fresh, start, x)
        M = tl.load(A + batch * A_row + t * A_token + pair, mask=two, other=0.0)
        add = tl.load(b + (batch * T + t) * (G * C) + cell, mask=one, other=0.0)
        x = tl.sum(M * x[None, :, :], 1) + add
        tl.store(h + (batch * T + t) * (G * C) + cell, x, mask=one)


@triton.jit
def mix_backward_kernel(
    A, h, h0, reset, initial, dh, dA, db, dh0, dinitial, T, C, A_row, A_token,
    G: tl.constexpr, GP: tl.constexpr, BLOCK: tl.constexpr, RESET: tl.constexpr,
):  # fmt: skip
    """g_t[f] = dh_t[f] + Σ_e A_{t+1}[e, f] g_{t+1}[e] is the gradient of b_t; g_t[f] h_{t-1}[g] that of A_t[f, g]."""
    batch = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, GP)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    one = (f < G)[:, None] & (c < C)[None, :]
    two = (f < G)[:, None, None] & one[None, :, :]
    cell = f[:, None] * C + c[None, :]
    pair = (f[:, None, None] * G + f[None, :, None]) * C + c[None, None, :]
    first = tl.load(h0 + batch * G * C + cell, mask=one, other=0.0)
    carried = tl.zeros((GP, BLOCK), tl.float32)
    if RESET == 2:
        begun = tl.zeros((GP, BLOCK), tl.float32)
    for back in tl.range(0, T, num_stages=4):
        t = T - 1 - back
        g = carried + tl.load(dh + (batch * T + t) * (G * C) + cell, mask=one, other=0.0)
        before = tl.load(h + (batch * T + t - 1) * (G * C) + cell, mask=one & (t > 0), other=0.0)
        before = tl.where(t > 0, before, first)
        M = tl.load(A + batch * A_row + t * A_token + pair, mask=two, other=0.0)
        carried = tl.sum(M * g[:, None, :], 0)
        if RESET:
            fresh = tl.load(reset + batch * T + t) != 0
            start = tl.zeros((GP, BLOCK), tl.float32)
            if RESET == 2:
                start = tl.load(initial + batch * G * C + cell, mask=one & fresh, other=0.0)
                begun += tl.where(fresh, carried, 0.0)
            before = tl.where(fresh, start, before)
            carried = tl.where(fresh, 0.0, carried)
        tl.store(db + (batch * T + t) * (G * C) + cell, g, mask=one)
        tl.store(dA + (batch * T + t) * (G * G * C) + pair, g[:, None, :] * before[None, :, :], mask=two)
    tl.store(dh0 + batch * G * C + cell, carried, mask=one)
    if RESET == 2:
        tl.store(dinitial + batch * G * C + cell, begun, mask=one)


@triton.jit
def maxplus_kernel(
    d, b, p0, reset, initial, p, T, C, BLOCK: tl.constexpr, RESET: tl.constexpr, SOFT: tl.constexpr
):  # fmt: skip
    """One program: BLOCK columns of a row of the batch."""
    batch = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    on = c < C
    x = tl.load(p0 + batch * C + c, mask=on, other=0.0)
    for t in tl.range(0, T, num_stages=4):
        at = (batch * T + t) * C + c
        if RESET:
            fresh = tl.load(reset + batch * T + t) != 0
            start = tl.zeros((BLOCK,), tl.float32)
            if RESET == 2:
                start = tl.load(initial + batch * C + c, mask=on & fresh, other=0.0)
            x = tl.where(fresh, start, x)
        x += tl.load(d + at, mask=on, other=0.0)
        add = tl.load(b + at, mask=on, other=0.0)
        if SOFT:
            small = tl.exp(-tl.abs(x - add))
            whole = 1.0 + small  # log(1 + small) as log(whole) small / (whole - 1), which keeps what rounding loses
            log = tl.where(whole == 1.0, small, tl.log(whole) * (small / tl.where(whole == 1.0, 1.0, whole - 1.0)))
            x = tl.maximum(x, add) + log
        else:
            x = tl.maximum(x, add)
        tl.store(p + at, x, mask=on)


@triton.jit
def maxplus_backward_kernel(
    d, b, p, p0, reset, initial, dp, dd, db, dp0, dinitial, T, C,
    BLOCK: tl.constexpr, RESET: tl.constexpr, SOFT: tl.constexpr,
):  # fmt: skip
    """The gradient goes the way of the larger, to both by half where they are equal; soft, by their shares."""
    batch = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    on = c < C
    first = tl.load(p0 + batch * C + c, mask=on, other=0.0)
    carried = tl.zeros((BLOCK,), tl.float32)
    if RESET == 2:
        begun = tl.zeros((BLOCK,), tl.float32)
    for back in tl.range(0, T, num_stages=4):
        t = T - 1 - back
        at = (batch * T + t) * C + c
        g = carried + tl.load(dp + at, mask=on, other=0.0)
        before = tl.load(p + at - C, mask=on & (t > 0), other=0.0)
        before = tl.where(t > 0, before, first)
        if RESET:
            fresh = tl.load(reset + batch * T + t) != 0
            start = tl.zeros((BLOCK,), tl.float32)
            if RESET == 2:
                start = tl.load(initial + batch * C + c, mask=on & fresh, other=0.0)
            before = tl.where(fresh, start, before)
        x = before + tl.load(d + at, mask=on, other=0.0)
        add = tl.load(b + at, mask=on, other=0.0)
        if SOFT:
            small = tl.exp(-tl.abs(x - add))
            share = tl.where(x >= add, 1.0, small) / (1.0 + small)
        else:
            share = tl.where(x > add, 1.0, tl.where(x == add, 0.5, 0.0))
        carried = g * share
        tl.store(dd + at, carried, mask=on)
        tl.store(db + at, g * (1.0 - share), mask=on)
        if RESET:
            if RESET == 2:
                begun += tl.where(fresh, carried, 0.0)
            carried = tl.where(fresh, 0.0, carried)
    tl.store(dp0 + batch * C + c, carried, mask=on)
    if RESET == 2:
        tl.store(dinitial + batch * C + c, begun, mask=on)


# --- launching -----------------------------------------------------------------------------------------------------
def columns(rows: int, C: int) -> int:
    """Columns of a program: as many as one warp loads at once, fewer where that leaves a card empty."""
    most = 128 if rows * C >= 128 * 1024 else 32
    return most if most <= C else int(triton.next_power_of_2(C))


def mix(A: Tensor, b: Tensor, h0: Tensor, reset: Tensor | None, initial: Tensor | None) -> Tensor:
    """h [B, T, G, C]."""
    B, T, G, C = b.shape
    h, BLOCK = torch.empty_like(b), columns(B, C)
    mix_kernel[(B, triton.cdiv(C, BLOCK))](
        A, b, h0, flags(reset, h0), given(initial, h0), h, T, C, A.stride(0), A.stride(1),
        G=G, GP=triton.next_power_of_2(G), BLOCK=BLOCK, RESET=kind(reset, initial), num_warps=1,
    )  # fmt: skip
    return h


def mix_backward(
    A: Tensor, h: Tensor, h0: Tensor, reset: Tensor | None, initial: Tensor | None, dh: Tensor
) -> list[Tensor | None]:
    """The gradients of A, b, h0 and initial."""
    B, T, G, C = h.shape
    dA, db, dh0 = h.new_empty(A.shape), torch.empty_like(h), torch.empty_like(h0)
    dinitial, BLOCK = None if initial is None else torch.empty_like(initial), columns(B, C)
    mix_backward_kernel[(B, triton.cdiv(C, BLOCK))](
        A, h, h0, flags(reset, h0), given(initial, h0), dh, dA, db, dh0, given(dinitial, h0), T, C,
        A.stride(0), A.stride(1),
        G=G, GP=triton.next_power_of_2(G), BLOCK=BLOCK, RESET=kind(reset, initial), num_warps=1,
    )  # fmt: skip
    return [dA, db, dh0, dinitial]


def maxplus(
    d: Tensor, b: Tensor, p0: Tensor, reset: Tensor | None, initial: Tensor | None, soft: bool
) -> Tensor:  # fmt: skip
    """p [B, T, C]."""
    B, T, C = b.shape
    p, BLOCK = torch.empty_like(b), columns(B, C)
    maxplus_kernel[(B, triton.cdiv(C, BLOCK))](
        d, b, p0, flags(reset, p0), given(initial, p0), p, T, C,
        BLOCK=BLOCK, RESET=kind(reset, initial), SOFT=soft, num_warps=1,
    )  # fmt: skip
    return p


def maxplus_backward(
    d: Tensor, b: Tensor, p: Tensor, p0: Tensor, reset: Tensor | None, initial: Tensor | None, soft: bool, dp: Tensor
) -> list[Tensor | None]:
    """The gradients of d, b, p0 and initial."""
    B, T, C = b.shape
    dd, db, dp0, BLOCK = torch.empty_like(p), torch.empty_like(p), torch.empty_like(p0), columns(B, C)
    dinitial = None if initial is None else torch.empty_like(initial)
    maxplus_backward_kernel[(B, triton.cdiv(C, BLOCK))](
        d, b, p, p0, flags(reset, p0), given(initial, p0), dp, dd, db, dp0, given(dinitial, p0), T, C,
        BLOCK=BLOCK, RESET=kind(reset, initial), SOFT=soft, num_warps=1,
    )  # fmt: skip
    return [dd, db, dp0, dinitial]
