"""Matrix states token by token, S in registers: any rank, any number of addends and queries, every kind of decay.

S' = (S (diag(w) + Σ_r a_r b_rᵀ)) ∘ wv + Σ_m v_m k_mᵀ;  y_n = S q_n, S before the token.

Input: q [B, T, H, N, K], w [B, T, H, 1 | K] or None, k [B, T, H, M, K], v [B, T, H, M, V], a, b [B, T, H, R, K],
wv [B, T, H, V] or None, S0 [B, H, V, K] f32, `reset` [B, T] bool or None (S before that token is `initial`
[B, H, V, K] f32, zero when None); contiguous; the operands in f32, bf16 or f16.
Output: y and S in f32, gradients in the type of what they are the gradient of.

The rows of S do not meet within a token, so a program holds a block of rows of one head, and few heads fill a card
too.  States are kept every STEP tokens; backward replays those tokens into a scratch that stays in the cache, and
walks back through them.  What is summed over rows is written a block and added by torch: the same bits every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

STEP = 16  # tokens between two kept states
TILE = 1024  # elements of S that one warp holds in registers
FULL = 2048  # programs beyond which a card is full, and blocks of rows grow instead


@triton.jit
def forward_kernel(
    q, w, k, v, a, b, wv, S0, reset, initial, y, last, x, kept, T, H,
    N: tl.constexpr, R: tl.constexpr, M: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    KP: tl.constexpr, VB: tl.constexpr, W: tl.constexpr, WV: tl.constexpr, RESET: tl.constexpr,
    KEEP: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program: VB rows of one head's S.  W: 0 no decay, 1 scalar, K.  RESET: 0 none, 1 to zero, 2 to `initial`."""
    head = tl.program_id(0)
    batch = (head // H).to(tl.int64)
    i = tl.program_id(1) * VB + tl.arange(0, VB)
    j = tl.arange(0, KP)
    row, col = i < V, j < K
    tile = row[:, None] & col[None, :]
    cell = i[:, None] * K + j[None, :]
    place = head.to(tl.int64) * (V * K) + cell
    chunk = head.to(tl.int64) * tl.cdiv(T, STEP)  # the head's first
    S = tl.load(S0 + place, mask=tile, other=0.0)
    for t in tl.range(0, T, num_stages=3):
        o = (batch * T + t) * H + head % H
        if KEEP:
            tl.store(kept + (chunk + t // STEP) * (V * K) + cell, S, mask=tile & (t % STEP == 0))
        if RESET:
            fresh = tl.load(reset + batch * T + t) != 0
            start = tl.zeros((VB, KP), tl.float32)
            if RESET == 2:
                start = tl.load(initial + place, mask=tile & fresh, other=0.0)
            S = tl.where(fresh, start, S)
        for n in tl.static_range(N):
            ask = tl.load(q + (o * N + n) * K + j, mask=col, other=0.0).to(tl.float32)
            tl.store(y + (o * N + n) * V + i, tl.sum(S * ask[None, :], 1), mask=row)
        new = S
        if W == 1:
            new = S * tl.load(w + o).to(tl.float32)
        if W > 1:
            new = S * tl.load(w + o * K + j, mask=col, other=0.0).to(tl.float32)[None, :]
        for r in tl.static_range(R):
            ask = tl.load(a + (o * R + r) * K + j, mask=col, other=0.0).to(tl.float32)
            out = tl.load(b + (o * R + r) * K + j, mask=col, other=0.0).to(tl.float32)
            found = tl.sum(S * ask[None, :], 1)
            new += found[:, None] * out[None, :]
            if KEEP:
                tl.store(x + (o * R + r) * V + i, found, mask=row)
        if WV:
            new = new * tl.load(wv + o * V + i, mask=row, other=0.0).to(tl.float32)[:, None]
        for m in tl.static_range(M):
            key = tl.load(k + (o * M + m) * K + j, mask=col, other=0.0).to(tl.float32)
            value = tl.load(v + (o * M + m) * V + i, mask=row, other=0.0).to(tl.float32)
            new += value[:, None] * key[None, :]
        S = new
    tl.store(last + place, S, mask=tile)


@triton.jit
def backward_kernel(
    q, w, k, v, a, b, wv, reset, initial, x, kept, dy, dlast, scratch,
    dq, dw, dk, dv, da, db, dwv, dS0, dinitial, T, H, tokens,
    N: tl.constexpr, R: tl.constexpr, M: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    KP: tl.constexpr, VB: tl.constexpr, W: tl.constexpr, WV: tl.constexpr, RESET: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    """One program: VB rows of one head's S.  Gradients that sum over rows have a leading axis of blocks of rows."""
    head = tl.program_id(0)
    block = tl.program_id(1)
    batch = (head // H).to(tl.int64)
    i = block * VB + tl.arange(0, VB)
    j = tl.arange(0, KP)
    row, col = i < V, j < K
    tile = row[:, None] & col[None, :]
    cell = i[:, None] * K + j[None, :]
    place = head.to(tl.int64) * (V * K) + cell
    chunk = head.to(tl.int64) * tl.cdiv(T, STEP)  # the head's first
    mine = scratch + (head.to(tl.int64) * tl.num_programs(1) + block) * (STEP * VB * KP)
    mine += tl.arange(0, VB)[:, None] * KP + j[None, :]
    D = tl.load(dlast + place, mask=tile, other=0.0)
    if RESET == 2:
        begun = tl.zeros((VB, KP), tl.float32)
    for back in range(0, tl.cdiv(T, STEP)):
        c = tl.cdiv(T, STEP) - 1 - back
        here = tl.minimum(STEP, T - c * STEP)
        S = tl.load(kept + (chunk + c) * (V * K) + cell, mask=tile, other=0.0)
        for s in tl.range(0, here, num_stages=2):
            t = c * STEP + s
            o = (batch * T + t) * H + head % H
            if RESET:
                fresh = tl.load(reset + batch * T + t) != 0
                start = tl.zeros((VB, KP), tl.float32)
                if RESET == 2:
                    start = tl.load(initial + place, mask=tile & fresh, other=0.0)
                S = tl.where(fresh, start, S)
            tl.store(mine + s * (VB * KP), S)
            new = S
            if W == 1:
                new = S * tl.load(w + o).to(tl.float32)
            if W > 1:
                new = S * tl.load(w + o * K + j, mask=col, other=0.0).to(tl.float32)[None, :]
            for r in tl.static_range(R):
                out = tl.load(b + (o * R + r) * K + j, mask=col, other=0.0).to(tl.float32)
                new += tl.load(x + (o * R + r) * V + i, mask=row, other=0.0)[:, None] * out[None, :]
            if WV:
                new = new * tl.load(wv + o * V + i, mask=row, other=0.0).to(tl.float32)[:, None]
            for m in tl.static_range(M):
                key = tl.load(k + (o * M + m) * K + j, mask=col, other=0.0).to(tl.float32)
                value = tl.load(v + (o * M + m) * V + i, mask=row, other=0.0).to(tl.float32)
                new += value[:, None] * key[None, :]
            S = new
        tl.debug_barrier()  # the scratch is written
        for ago in tl.range(0, here, num_stages=2):
            s = here - 1 - ago
            t = c * STEP + s
            o = (batch * T + t) * H + head % H
            part = block.to(tl.int64) * tokens + o
            S = tl.load(mine + s * (VB * KP))
            for m in tl.static_range(M):
                key = tl.load(k + (o * M + m) * K + j, mask=col, other=0.0).to(tl.float32)
                value = tl.load(v + (o * M + m) * V + i, mask=row, other=0.0).to(tl.float32)
                tl.store(dv + (o * M + m) * V + i, tl.sum(D * key[None, :], 1), mask=row)
                tl.store(dk + (part * M + m) * K + j, tl.sum(D * value[:, None], 0), mask=col)
            decay = tl.full((KP,), 1.0, tl.float32)
            if W == 1:
                decay = decay * tl.load(w + o).to(tl.float32)
            if W > 1:
                decay = tl.load(w + o * K + j, mask=col, other=0.0).to(tl.float32)
            if WV:
                new = S * decay[None, :]
                for r in tl.static_range(R):
                    out = tl.load(b + (o * R + r) * K + j, mask=col, other=0.0).to(tl.float32)
                    new += tl.load(x + (o * R + r) * V + i, mask=row, other=0.0)[:, None] * out[None, :]
                tl.store(dwv + o * V + i, tl.sum(D * new, 1), mask=row)
                D = D * tl.load(wv + o * V + i, mask=row, other=0.0).to(tl.float32)[:, None]
            if W == 1:
                tl.store(dw + part, tl.sum(tl.sum(D * S, 0), 0))
            if W > 1:
                tl.store(dw + part * K + j, tl.sum(D * S, 0), mask=col)
            G = D * decay[None, :]
            for r in tl.static_range(R):
                ask = tl.load(a + (o * R + r) * K + j, mask=col, other=0.0).to(tl.float32)
                out = tl.load(b + (o * R + r) * K + j, mask=col, other=0.0).to(tl.float32)
                found = tl.load(x + (o * R + r) * V + i, mask=row, other=0.0)
                dfound = tl.sum(D * out[None, :], 1)
                tl.store(db + (part * R + r) * K + j, tl.sum(D * found[:, None], 0), mask=col)
                tl.store(da + (part * R + r) * K + j, tl.sum(S * dfound[:, None], 0), mask=col)
                G += dfound[:, None] * ask[None, :]
            for n in tl.static_range(N):
                ask = tl.load(q + (o * N + n) * K + j, mask=col, other=0.0).to(tl.float32)
                g = tl.load(dy + (o * N + n) * V + i, mask=row, other=0.0)
                tl.store(dq + (part * N + n) * K + j, tl.sum(S * g[:, None], 0), mask=col)
                G += g[:, None] * ask[None, :]
            if RESET:
                fresh = tl.load(reset + batch * T + t) != 0
                if RESET == 2:
                    begun += tl.where(fresh, G, 0.0)
                G = tl.where(fresh, 0.0, G)
            D = G
        tl.debug_barrier()  # the scratch is read
    tl.store(dS0 + place, D, mask=tile)
    if RESET == 2:
        tl.store(dinitial + place, begun, mask=tile)


# --- launching -----------------------------------------------------------------------------------------------------
def shapes(q: Tensor, w: Tensor | None, k: Tensor, v: Tensor, a: Tensor) -> dict[str, int]:
    """The constants of a launch that the operands' shapes give."""
    (N, K), (M, V) = q.shape[3:], v.shape[3:]
    decay = 0 if w is None else 1 if w.shape[-1] == 1 else K
    return {"N": N, "R": a.shape[3], "M": M, "K": K, "V": V, "W": decay}


def blocks(heads: int, K: int, V: int) -> dict[str, int]:
    """The padded key axis, the rows a program holds, and its warps: a warp each TILE elements."""
    KP, most = triton.next_power_of_2(K), triton.next_power_of_2(V)
    VB, warps = min(most, max(1, TILE // KP)), 1
    while most > VB and warps < 4 and heads * triton.cdiv(V, VB) > FULL:
        VB, warps = 2 * VB, 2 * warps
    return {"KP": KP, "VB": VB, "num_warps": warps}


def forward(
    q: Tensor, w: Tensor | None, k: Tensor, v: Tensor, a: Tensor, b: Tensor, wv: Tensor | None, S0: Tensor,
    reset: Tensor | None, initial: Tensor | None, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y [B, T, H, N, V], the state after the last token, and what `backward` needs, empty unless `keep`."""
    (B, T, H), size = q.shape[:3], shapes(q, w, k, v, a)
    y, last = S0.new_empty(B, T, H, size["N"], size["V"]), torch.empty_like(S0)
    x, kept = kept_of(S0, T, size["R"], keep)
    how = blocks(B * H, size["K"], size["V"])
    forward_kernel[(B * H, triton.cdiv(size["V"], how["VB"]))](
        q, given(w, q), k, v, a, b, given(wv, q), S0, flags(reset, q), given(initial, S0), y, last, x, kept, T, H,
        **size, **how, WV=wv is not None, RESET=kind(reset, initial), KEEP=keep, STEP=STEP,
    )  # fmt: skip
    return y, last, x, kept


def backward(
    q: Tensor, w: Tensor | None, k: Tensor, v: Tensor, a: Tensor, b: Tensor, wv: Tensor | None,
    reset: Tensor | None, initial: Tensor | None, x: Tensor, kept: Tensor, dy: Tensor, dlast: Tensor,
) -> list[Tensor | None]:  # fmt: skip
    """The gradients of q, w, k, v, a, b, wv, S0 and initial."""
    (B, T, H), size = q.shape[:3], shapes(q, w, k, v, a)
    how = blocks(B * H, size["K"], size["V"])
    parts = triton.cdiv(size["V"], how["VB"])

    def summed(like: Tensor) -> Tensor:
        return torch.empty_like(like) if parts == 1 else dlast.new_empty(parts, *like.shape)

    dq, dk, da, db = (summed(like) for like in (q, k, a, b))
    dw = None if w is None else summed(w)
    dv, dS0 = torch.empty_like(v), torch.empty_like(dlast)
    dwv = None if wv is None else torch.empty_like(wv)
    dinitial = None if reset is None or initial is None else torch.empty_like(initial)
    scratch = dlast.new_empty(B * H * parts * STEP * how["VB"] * how["KP"])
    backward_kernel[(B * H, parts)](
        q, given(w, q), k, v, a, b, given(wv, q), flags(reset, q), given(initial, q), x, kept, dy, dlast, scratch,
        dq, given(dw, q), dk, dv, da, db, given(dwv, q), dS0, given(dinitial, q), T, H, B * T * H,
        **size, **how, WV=wv is not None, RESET=kind(reset, initial), STEP=STEP,
    )  # fmt: skip

    def whole(d: Tensor, like: Tensor) -> Tensor:
        return d if parts == 1 else d.sum(0).to(like.dtype)

    return [
        whole(dq, q), None if dw is None or w is None else whole(dw, w), whole(dk, k), dv, whole(da, a), whole(db, b),
        dwv, dS0, dinitial,
    ]  # fmt: skip


def given(x: Tensor | None, other: Tensor) -> Tensor:
    """A pointer for an operand that is not there and is never read."""
    return other if x is None else x


def flags(reset: Tensor | None, other: Tensor) -> Tensor:
    """`reset` as bytes."""
    return other if reset is None else reset.view(torch.uint8)


def kind(reset: Tensor | None, initial: Tensor | None) -> int:
    """RESET of the kernels."""
    return 0 if reset is None else 1 if initial is None else 2


def kept_of(state: Tensor, T: int, R: int, keep: bool) -> tuple[Tensor, Tensor]:
    """Room for x = S a [B, T, H, R, V], and for the states before tokens 0, STEP, 2 STEP, …: [B, H, steps, V, K]."""
    B, H, V, K = state.shape
    return state.new_empty(B, T if keep else 0, H, R, V), state.new_empty(B, H, -(-T // STEP) if keep else 0, V, K)
