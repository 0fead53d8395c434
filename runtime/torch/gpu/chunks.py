"""Matrix states in chunks of C tokens, S by matrix products: rank 0 or 1, one addend, no value decay.

S' = S (diag(w) + a bᵀ) + v kᵀ;  y_n = S q_n, S before the token.  Operands as for `tokens`; resets to zero alone.

`pairs` sees each chunk alone: decayed by running products (no logarithm, no division: exact at 0, 1e-30, negative),
asks from the chunk's start, keys to its end, and each ask with the keys before it.  The rank-1 term is solved there by
forward substitution (by powers of the triangle, keys that agree would lose everything), so that with S before the chunk
    Y_n = Q_n Sᵀ + QV_n V;  U = X Sᵀ + XV V;  S' = S ∘ total + Vᵀ E + Uᵀ B        (C rows a matrix, a row a token)
`state` goes through the chunks, a program a block of rows of S.  Backward goes through them in reverse for the gradient
of S alone (`state_backward`); then chunks are again apart: `chunk_backward` for the gradients of the matrices above,
`solve_backward` and `pairs_backward` from there to the operands.  No sum crosses programs: the same bits every time.

Products are in f32: `tf32x3` on NVIDIA, three products of tensor cores that keep 22 of 24 bits; on AMD `ieee`, which
its matrix cores do themselves.  One product of tf32 would keep 11, and the solve amplifies what is lost.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .pairs import pairs_backward_kernel, pairs_kernel, solve_backward_kernel
from .tokens import STEP as C
from .tokens import flags, given, kept_of, kind, shapes


@triton.jit
def state_kernel(
    v, S0, Q, X, E, B, total, QV, XV, y, last, x, kept, T, H,
    N: tl.constexpr, R: tl.constexpr, K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VB: tl.constexpr,
    KEEP: tl.constexpr, C: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """One program: VB rows of one head's S through all chunks."""
    head = tl.program_id(0)
    batch = (head // H).to(tl.int64)
    chunks = tl.cdiv(T, C)
    i = tl.program_id(1) * VB + tl.arange(0, VB)
    r, j = tl.arange(0, C), tl.arange(0, KP)
    tile = (i < V)[:, None] & (j < K)[None, :]
    cell = i[:, None] * K + j[None, :]
    wide, square = r[:, None] * K + j[None, :], r[:, None] * C + r[None, :]
    whole = (r[:, None] < C) & (j < K)[None, :]
    S = tl.load(S0 + head.to(tl.int64) * (V * K) + cell, mask=tile, other=0.0)
    for c in range(0, chunks):
        place = head.to(tl.int64) * chunks + c
        if KEEP:
            tl.store(kept + place * (V * K) + cell, S, mask=tile)
        t = c * C + r
        o = (batch * T + t) * H + head % H
        there = (t < T)[:, None] & (i < V)[None, :]
        values = tl.load(v + o[:, None] * V + i[None, :], mask=there, other=0.0).to(tl.float32)
        for n in tl.static_range(N):
            asks = tl.load(Q + (place * N + n) * C * K + wide, mask=whole, other=0.0)
            pairs = tl.load(QV + (place * N + n) * C * C + square)
            Y = tl.dot(asks, tl.trans(S), input_precision=P) + tl.dot(pairs, values, input_precision=P)
            tl.store(y + (o[:, None] * N + n) * V + i[None, :], Y, mask=there)
        keys = tl.load(E + place * C * K + wide, mask=whole, other=0.0)
        add = tl.dot(tl.trans(values), keys, input_precision=P)
        if R:
            asks = tl.load(X + place * C * K + wide, mask=whole, other=0.0)
            pairs = tl.load(XV + place * C * C + square)
            U = tl.dot(asks, tl.trans(S), input_precision=P) + tl.dot(pairs, values, input_precision=P)
            if KEEP:
                tl.store(x + o[:, None] * V + i[None, :], U, mask=there)
            outs = tl.load(B + place * C * K + wide, mask=whole, other=0.0)
            add += tl.dot(tl.trans(U), outs, input_precision=P)
        S = S * tl.load(total + place * K + j, mask=j < K, other=0.0)[None, :] + add
    tl.store(last + head.to(tl.int64) * (V * K) + cell, S, mask=tile)


@triton.jit
def state_backward_kernel(
    Q, X, E, B, total, QV, XV, dy, dlast, D, dv, dx, dS0, T, H,
    N: tl.constexpr, R: tl.constexpr, K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VB: tl.constexpr,
    C: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """One program: the gradients of VB rows of one head's S after each chunk, kept in D, and of v and x = S a."""
    head = tl.program_id(0)
    batch = (head // H).to(tl.int64)
    chunks = tl.cdiv(T, C)
    i = tl.program_id(1) * VB + tl.arange(0, VB)
    r, j = tl.arange(0, C), tl.arange(0, KP)
    tile = (i < V)[:, None] & (j < K)[None, :]
    cell = i[:, None] * K + j[None, :]
    wide, square = r[:, None] * K + j[None, :], r[:, None] * C + r[None, :]
    whole = (r[:, None] < C) & (j < K)[None, :]
    G = tl.load(dlast + head.to(tl.int64) * (V * K) + cell, mask=tile, other=0.0)
    for back in range(0, chunks):
        c = chunks - 1 - back
        place = head.to(tl.int64) * chunks + c
        tl.store(D + place * (V * K) + cell, G, mask=tile)
        t = c * C + r
        o = (batch * T + t) * H + head % H
        there = (t < T)[:, None] & (i < V)[None, :]
        new = G * tl.load(total + place * K + j, mask=j < K, other=0.0)[None, :]
        keys = tl.load(E + place * C * K + wide, mask=whole, other=0.0)
        gV = tl.dot(keys, tl.trans(G), input_precision=P)
        for n in tl.static_range(N):
            asks = tl.load(Q + (place * N + n) * C * K + wide, mask=whole, other=0.0)
            dY = tl.load(dy + (o[:, None] * N + n) * V + i[None, :], mask=there, other=0.0)
            new += tl.dot(tl.trans(dY), asks, input_precision=P)
            pairs = tl.load(QV + (place * N + n) * C * C + square)
            gV += tl.dot(tl.trans(pairs), dY, input_precision=P)
        if R:
            outs = tl.load(B + place * C * K + wide, mask=whole, other=0.0)
            asks = tl.load(X + place * C * K + wide, mask=whole, other=0.0)
            dU = tl.dot(outs, tl.trans(G), input_precision=P)
            tl.store(dx + o[:, None] * V + i[None, :], dU, mask=there)
            new += tl.dot(tl.trans(dU), asks, input_precision=P)
            pairs = tl.load(XV + place * C * C + square)
            gV += tl.dot(tl.trans(pairs), dU, input_precision=P)
        tl.store(dv + o[:, None] * V + i[None, :], gV, mask=there)
        G = new
    tl.store(dS0 + head.to(tl.int64) * (V * K) + cell, G, mask=tile)


@triton.jit
def times(
    rows, stride, M, o, on, K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VB: tl.constexpr, C: tl.constexpr,
    P: tl.constexpr,
):  # fmt: skip
    """rows [C, V], a token's at `o`, times M [V, K]."""
    j = tl.arange(0, KP)
    found = tl.zeros((C, KP), tl.float32)
    for v0 in range(0, V, VB):
        i = v0 + tl.arange(0, VB)
        left = tl.load(rows + o[:, None] * stride + i[None, :], mask=on[:, None] & (i < V)[None, :], other=0.0)
        right = tl.load(M + i[:, None] * K + j[None, :], mask=(i < V)[:, None] & (j < K)[None, :], other=0.0)
        found += tl.dot(left.to(tl.float32), right, input_precision=P)
    return found


@triton.jit
def between(rows, stride, v, o, on, V: tl.constexpr, VB: tl.constexpr, C: tl.constexpr, P: tl.constexpr):
    """rows [C, V] times those of v: each token with each."""
    found = tl.zeros((C, C), tl.float32)
    for v0 in range(0, V, VB):
        i = v0 + tl.arange(0, VB)
        there = on[:, None] & (i < V)[None, :]
        left = tl.load(rows + o[:, None] * stride + i[None, :], mask=there, other=0.0)
        right = tl.load(v + o[:, None] * V + i[None, :], mask=there, other=0.0).to(tl.float32)
        found += tl.dot(left, tl.trans(right), input_precision=P)
    return found


@triton.jit
def chunk_backward_kernel(
    v, x, dx, kept, D, dy, dQ, dX, dE, dB, dtotal, dQV, dXV, T, H,
    N: tl.constexpr, R: tl.constexpr, K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VB: tl.constexpr,
    C: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """One program: one chunk of a head; the gradients of what `pairs` made, but of the solve."""
    head, c = tl.program_id(0), tl.program_id(1)
    place = head.to(tl.int64) * tl.num_programs(1) + c
    r, j = tl.arange(0, C), tl.arange(0, KP)
    wide, square = r[:, None] * K + j[None, :], r[:, None] * C + r[None, :]
    whole = (r[:, None] < C) & (j < K)[None, :]
    t = c * C + r
    o = ((head // H).to(tl.int64) * T + t) * H + head % H
    on = t < T
    S, G = kept + place * (V * K), D + place * (V * K)
    for n in tl.static_range(N):
        gQ = times(dy + n * V, N * V, S, o, on, K, V, KP, VB, C, P)
        tl.store(dQ + (place * N + n) * C * K + wide, gQ, mask=whole)
        gQV = between(dy + n * V, N * V, v, o, on, V, VB, C, P)
        tl.store(dQV + (place * N + n) * C * C + square, gQV)
    tl.store(dE + place * C * K + wide, times(v, V, G, o, on, K, V, KP, VB, C, P), mask=whole)
    if R:
        tl.store(dX + place * C * K + wide, times(dx, V, S, o, on, K, V, KP, VB, C, P), mask=whole)
        tl.store(dB + place * C * K + wide, times(x, V, G, o, on, K, V, KP, VB, C, P), mask=whole)
        tl.store(dXV + place * C * C + square, between(dx, V, v, o, on, V, VB, C, P))
    gtotal = tl.zeros((KP,), tl.float32)
    for v0 in range(0, V, VB):
        i = v0 + tl.arange(0, VB)
        tile = (i < V)[:, None] & (j < K)[None, :]
        cell = i[:, None] * K + j[None, :]
        gtotal += tl.sum(tl.load(S + cell, mask=tile, other=0.0) * tl.load(G + cell, mask=tile, other=0.0), 0)
    tl.store(dtotal + place * K + j, gtotal, mask=j < K)


# --- launching -----------------------------------------------------------------------------------------------------
class Chunks(NamedTuple):
    """What `pairs` makes: f32, [heads, chunks, …]."""

    Q: Tensor  # [N, C, K]
    X: Tensor  # [C, K], as all that follow of the rank-1 term empty without one
    E: Tensor  # [C, K]
    B: Tensor  # [C, K]
    total: Tensor  # [K]
    QV: Tensor  # [N, C, C]
    XV: Tensor  # [C, C]
    QB: Tensor  # [N, C, C]
    L: Tensor  # [C, C]


def suits(k: Tensor, v: Tensor, a: Tensor, wv: Tensor | None, initial: Tensor | None) -> bool:
    """Whether this form computes such a state, and is the better one: sizes and lengths that fill a product, and a
    card that has one."""
    (M, K), V, T = k.shape[3:], v.shape[4], k.shape[1]
    computes = M == 1 and a.shape[3] <= 1 and wv is None and initial is None
    # beyond 64, what a product of three tf32 needs no longer fits a thread's registers
    return computes and 16 <= K <= 64 and V >= 16 and T > C and multiplies(architecture(k.device))


def multiplies(card: int | str) -> bool:
    """Whether a card multiplies matrices of f32: NVIDIA since sm_80 (tf32), AMD's CDNA; its RDNA does not."""
    return card >= 80 if isinstance(card, int) else card.startswith(("gfx908", "gfx90a", "gfx94", "gfx95"))


@functools.cache
def architecture(device: torch.device) -> int | str:
    """90 for sm_90, or AMD's name; what is no GPU interprets the kernels, and is as good as any."""
    if device.type != "cuda":
        return 90
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def precision(backend: str) -> str:
    """P of the kernels; `backend` as triton calls it."""
    return "tf32x3" if backend == "cuda" else "ieee"


PRECISION = precision("cuda" if torch.version.hip is None else "hip")


def sizes(K: int, products: bool) -> dict[str, int | str]:
    """The padded key axis, and warps enough for products or to hold [C, KP] a few times."""
    KP = triton.next_power_of_2(K)
    return {"K": K, "KP": KP, "C": C, "num_warps": 4 if products else max(2, KP // 32)}


def pairs(
    q: Tensor, w: Tensor | None, k: Tensor, v: Tensor, a: Tensor, b: Tensor, reset: Tensor | None, state: Tensor
) -> Chunks:
    """The chunks, each alone."""
    (B, T, H), size = q.shape[:3], shapes(q, w, k, v, a)
    N, R, K, n = size["N"], size["R"], size["K"], triton.cdiv(T, C)

    def empty(*shape: int) -> Tensor:
        return state.new_empty(B * H, n, *shape)

    made = Chunks(
        empty(N, C, K), empty(R * C, K), empty(C, K), empty(R * C, K), empty(K), empty(N, C, C), empty(R * C, C),
        empty(N, R * C, C), empty(R * C, C),
    )  # fmt: skip
    pairs_kernel[(B * H, n, N)](
        q, given(w, q), k, a, b, flags(reset, q), *made, T, H,
        N=N, R=R, W=size["W"], RESET=kind(reset, None), P=PRECISION, **sizes(K, False),
    )  # fmt: skip
    return made


def forward(
    q: Tensor, w: Tensor | None, k: Tensor, v: Tensor, a: Tensor, b: Tensor, S0: Tensor, reset: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `tokens.forward`."""
    (B, T, H), size = q.shape[:3], shapes(q, w, k, v, a)
    made, V, K = pairs(q, w, k, v, a, b, reset, S0), size["V"], size["K"]
    y, last = S0.new_empty(B, T, H, size["N"], V), torch.empty_like(S0)
    x, kept = kept_of(S0, T, size["R"], keep)
    VB = rows(B * H, V)
    state_kernel[(B * H, triton.cdiv(V, VB))](
        v, S0, *made[:7], y, last, x, kept, T, H,
        N=size["N"], R=size["R"], V=V, VB=VB, KEEP=keep, P=PRECISION, **sizes(K, True),
    )  # fmt: skip
    return y, last, x, kept


def rows(heads: int, V: int) -> int:
    """Rows of S a program holds: few, so that few heads fill a card; more where they do not."""
    return 16 if heads * triton.cdiv(V, 32) < 512 else min(32, triton.next_power_of_2(V))


def backward(
    q: Tensor, w: Tensor | None, k: Tensor, v: Tensor, a: Tensor, b: Tensor, reset: Tensor | None, x: Tensor,
    kept: Tensor, dy: Tensor, dlast: Tensor,
) -> list[Tensor | None]:  # fmt: skip
    """The gradients of q, w, k, v, a, b, wv (None), S0 and initial (None)."""
    (B, T, H), size = q.shape[:3], shapes(q, w, k, v, a)
    N, R, K, V = (size[x] for x in "NRKV")
    made, how, VB, n = pairs(q, w, k, v, a, b, reset, dlast), sizes(K, True), rows(B * H, V), triton.cdiv(T, C)
    D, dv, dx, dS0 = (torch.empty_like(like) for like in (kept, v, x, dlast))
    state_backward_kernel[(B * H, triton.cdiv(V, VB))](
        *made[:7], dy, dlast, D, dv, dx, dS0, T, H, N=N, R=R, V=V, VB=VB, P=PRECISION, **how
    )
    g = Chunks(*(torch.empty_like(like) for like in made))
    chunk_backward_kernel[(B * H, n)](
        v, x, dx, kept, D, dy, *g[:7], T, H,
        N=N, R=R, V=V, VB=min(32, triton.next_power_of_2(V)), P=PRECISION, **how,
    )  # fmt: skip
    if R:
        solve_backward_kernel[(B * H, n)](
            made.X, made.XV, made.QB, made.L, g.Q, g.X, g.QV, g.XV, g.QB, g.L, N=N, P=PRECISION, **how
        )
    dq, dk, da, db = (torch.empty_like(like) for like in (q, k, a, b))
    dw = None if w is None else torch.empty_like(w)
    pairs_backward_kernel[(B * H, n)](
        q, given(w, q), k, a, b, flags(reset, q), *g[:5], g.QV, g.QB, g.XV, g.L, dq, given(dw, q), dk, da, db, T, H,
        N=N, R=R, W=size["W"], RESET=kind(reset, None), **sizes(K, False),
    )  # fmt: skip
    return [dq, dw, dk, dv, da, db, None, dS0, None]
