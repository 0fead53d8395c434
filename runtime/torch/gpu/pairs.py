"""What a chunk of C tokens needs of itself, and back from there to the operands: a program a chunk and head.

Input: the operands as `chunks` says.
Output: Q [heads, chunks, N, C, K], the asks decayed from the chunk's start; E, B [heads, chunks, C, K], the keys k and
b decayed to its end; X, the asks `a` solved; total [heads, chunks, K]; QV, XV, QB, L [heads, chunks, …, C, C], asks
with the keys before them (L: the inverse of the triangle of a and b).  All f32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def decay_of(w, reset, batch, t, T, o, j, K: tl.constexpr, KP: tl.constexpr, W: tl.constexpr, RESET: tl.constexpr):
    """What the state is multiplied by at token t, 1 beyond the last; and whether it is there to be met at all."""
    on = (j < K) & (t < T)
    decay = tl.full((KP,), 1.0, tl.float32)
    if W == 1:
        decay = tl.load(w + o + 0 * j, mask=on, other=1.0).to(tl.float32)
    if W > 1:
        decay = tl.load(w + o * K + j, mask=on, other=1.0).to(tl.float32)
    if RESET:
        on = on & (tl.load(reset + batch * T + tl.minimum(t, T - 1)) == 0)
        decay = tl.where(on | (t >= T), decay, 0.0)
    return decay, on


@triton.jit
def pairs_kernel(
    q, w, k, a, b, reset, Q, X, E, B, total, QV, XV, QB, L, T, H,
    N: tl.constexpr, R: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, W: tl.constexpr, RESET: tl.constexpr,
    C: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """One program: one query with one chunk of a head; that of the first query writes what is of no query."""
    head, c, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    batch = (head // H).to(tl.int64)
    place = head.to(tl.int64) * tl.num_programs(1) + c
    r, j = tl.arange(0, C), tl.arange(0, KP)
    col = j < K
    keys, query, into = tl.zeros((C, KP), tl.float32), tl.zeros((C, KP), tl.float32), tl.full((KP,), 1.0, tl.float32)
    qk = tl.zeros((C, C), tl.float32)
    if R:
        outs, asks = tl.zeros((C, KP), tl.float32), tl.zeros((C, KP), tl.float32)
        qb, ak, solved = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    for i in range(0, C):
        t = c * C + i
        o = (batch * T + t) * H + head % H
        on = col & (t < T)
        decay, old = decay_of(w, reset, batch, t, T, o, j, K, KP, W, RESET)
        here = (r == i)[:, None]
        x = tl.load(q + (o * N + n) * K + j, mask=old, other=0.0).to(tl.float32)
        qk = tl.where(here, tl.sum(keys * x[None, :], 1)[None, :], qk)
        query = tl.where(here, (x * into)[None, :], query)
        if R:
            ask = tl.load(a + o * K + j, mask=old, other=0.0).to(tl.float32)
            qb = tl.where(here, tl.sum(outs * x[None, :], 1)[None, :], qb)
            ak = tl.where(here, tl.sum(keys * ask[None, :], 1)[None, :], ak)
            asks = tl.where(here, (ask * into)[None, :], asks)
            met = tl.sum(tl.sum(outs * ask[None, :], 1)[:, None] * solved, 0)  # row i of (1 - ab)⁻¹, less its diagonal
            solved = tl.where(here, tl.where(r == i, 1.0, met)[None, :], solved)
            out = tl.load(b + o * K + j, mask=on, other=0.0).to(tl.float32)
            outs = tl.where(here, out[None, :], outs * decay[None, :])
        key = tl.load(k + o * K + j, mask=on, other=0.0).to(tl.float32)
        keys = tl.where(here, key[None, :], keys * decay[None, :])
        into = into * decay
    wide = r[:, None] * K + j[None, :]
    square = r[:, None] * C + r[None, :]
    whole = (r[:, None] < C) & col[None, :]
    first = whole & (n == 0)
    if R:
        X_ = tl.dot(solved, asks, input_precision=P)
        XV_ = tl.dot(solved, ak, input_precision=P)
        query += tl.dot(qb, X_, input_precision=P)
        qk += tl.dot(qb, XV_, input_precision=P)
        tl.store(X + place * C * K + wide, X_, mask=first)
        tl.store(B + place * C * K + wide, outs, mask=first)
        tl.store(XV + place * C * C + square, XV_, mask=(square >= 0) & (n == 0))
        tl.store(L + place * C * C + square, solved, mask=(square >= 0) & (n == 0))
        tl.store(QB + (place * N + n) * C * C + square, qb)
    tl.store(Q + (place * N + n) * C * K + wide, query, mask=whole)
    tl.store(QV + (place * N + n) * C * C + square, qk)
    tl.store(E + place * C * K + wide, keys, mask=first)
    tl.store(total + place * K + j, into, mask=col & (n == 0))


@triton.jit
def solve_backward_kernel(
    X, XV, QB, L, dQ, dX, dQV, dXV, dQB, dab, N: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, C: tl.constexpr,
    P: tl.constexpr,
):  # fmt: skip
    """One program: one chunk of a head, through the solve; dX becomes the gradient of the asks `a` decayed, dXV, dQB
    and dab those of the pairs of a and k, q and b, a and b."""
    place = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    r, j = tl.arange(0, C), tl.arange(0, KP)
    wide, square = r[:, None] * K + j[None, :], r[:, None] * C + r[None, :]
    whole = (r[:, None] < C) & (j < K)[None, :]
    X_ = tl.trans(tl.load(X + place * C * K + wide, mask=whole, other=0.0))
    XV_ = tl.trans(tl.load(XV + place * C * C + square))
    gX = tl.load(dX + place * C * K + wide, mask=whole, other=0.0)
    gXV = tl.load(dXV + place * C * C + square)
    for n in tl.static_range(N):
        gQ = tl.load(dQ + (place * N + n) * C * K + wide, mask=whole, other=0.0)
        gQV = tl.load(dQV + (place * N + n) * C * C + square)
        qb = tl.trans(tl.load(QB + (place * N + n) * C * C + square))
        gX += tl.dot(qb, gQ, input_precision=P)
        gXV += tl.dot(qb, gQV, input_precision=P)
        gqb = tl.dot(gQ, X_, input_precision=P) + tl.dot(gQV, XV_, input_precision=P)
        tl.store(dQB + (place * N + n) * C * C + square, gqb)
    solved = tl.trans(tl.load(L + place * C * C + square))
    gX = tl.dot(solved, gX, input_precision=P)
    gXV = tl.dot(solved, gXV, input_precision=P)
    gab = tl.dot(gX, X_, input_precision=P) + tl.dot(gXV, XV_, input_precision=P)
    tl.store(dX + place * C * K + wide, gX, mask=whole)
    tl.store(dXV + place * C * C + square, gXV)
    tl.store(dab + place * C * C + square, gab)


@triton.jit
def pairs_backward_kernel(
    q, w, k, a, b, reset, dQ, dX, dE, dB, dtotal, dqk, dqb, dak, dab, dq, dw, dk, da, db, T, H,
    N: tl.constexpr, R: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, W: tl.constexpr, RESET: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    """One program: one chunk of a head, from its last token to its first, the running products made anew for each."""
    head, c = tl.program_id(0), tl.program_id(1)
    batch = (head // H).to(tl.int64)
    place = head.to(tl.int64) * tl.num_programs(1) + c
    r, j = tl.arange(0, C), tl.arange(0, KP)
    col = j < K
    each = (batch * T + c * C + r) * H + head % H
    there = (c * C + r < T)[:, None] & col[None, :]
    wide = r[:, None] * K + j[None, :]
    whole = (r[:, None] < C) & col[None, :]
    keys = tl.load(k + each[:, None] * K + j[None, :], mask=there, other=0.0).to(tl.float32)
    gkeys = tl.load(dE + place * C * K + wide, mask=whole, other=0.0)  # of the keys decayed to the token at hand
    if R:
        outs = tl.load(b + each[:, None] * K + j[None, :], mask=there, other=0.0).to(tl.float32)
        gouts = tl.load(dB + place * C * K + wide, mask=whole, other=0.0)
    ginto = tl.load(dtotal + place * K + j, mask=col, other=0.0)
    for block in range(0, C // 4):  # of four tokens, so that the products up to it are made once for them
        i0 = C - 4 - 4 * block
        since0, into0 = tl.full((C, KP), 1.0, tl.float32), tl.full((KP,), 1.0, tl.float32)
        for s in range(0, i0):
            o = (batch * T + c * C + s) * H + head % H
            decay, _ = decay_of(w, reset, batch, c * C + s, T, o, j, K, KP, W, RESET)
            since0 = tl.where((r < s)[:, None], since0 * decay[None, :], since0)
            into0 = into0 * decay
        for back in range(0, 4):
            i = i0 + 3 - back
            since, into = since0, into0
            for s in range(i0, i):
                o = (batch * T + c * C + s) * H + head % H
                decay, _ = decay_of(w, reset, batch, c * C + s, T, o, j, K, KP, W, RESET)
                since = tl.where((r < s)[:, None], since * decay[None, :], since)
                into = into * decay
            t = c * C + i
            o = (batch * T + t) * H + head % H
            on = col & (t < T)
            decay, old = decay_of(w, reset, batch, t, T, o, j, K, KP, W, RESET)
            here, earlier = (r == i)[:, None], (r < i)[:, None]
            since = tl.where(earlier, since, 0.0)
            held = keys * since
            tl.store(dk + o * K + j, tl.sum(tl.where(here, gkeys, 0.0), 0), mask=on)
            gdecay = ginto * into + tl.sum(gkeys * held, 0)
            gkeys = tl.where(earlier, gkeys * decay[None, :], 0.0)
            ginto = ginto * decay
            if R:
                found = outs * since
                tl.store(db + o * K + j, tl.sum(tl.where(here, gouts, 0.0), 0), mask=on)
                gdecay += tl.sum(gouts * found, 0)
                gouts = tl.where(earlier, gouts * decay[None, :], 0.0)
                ask = tl.load(a + o * K + j, mask=old, other=0.0).to(tl.float32)
                gask = tl.load(dX + (place * C + i) * K + j, mask=col, other=0.0)
                gak = tl.load(dak + (place * C + i) * C + r, mask=r < i, other=0.0)
                gab = tl.load(dab + (place * C + i) * C + r, mask=r < i, other=0.0)
                to_ask = gask * into + tl.sum(gak[:, None] * held + gab[:, None] * found, 0)
                tl.store(da + o * K + j, tl.where(old, to_ask, 0.0), mask=on)
                gkeys += gak[:, None] * ask[None, :]
                gouts += gab[:, None] * ask[None, :]
                ginto += gask * ask
            for n in tl.static_range(N):
                x = tl.load(q + (o * N + n) * K + j, mask=old, other=0.0).to(tl.float32)
                gx = tl.load(dQ + ((place * N + n) * C + i) * K + j, mask=col, other=0.0)
                gqk = tl.load(dqk + ((place * N + n) * C + i) * C + r, mask=r < i, other=0.0)
                to_x = gx * into + tl.sum(gqk[:, None] * held, 0)
                gkeys += gqk[:, None] * x[None, :]
                if R:
                    gqb = tl.load(dqb + ((place * N + n) * C + i) * C + r, mask=r < i, other=0.0)
                    to_x += tl.sum(gqb[:, None] * found, 0)
                    gouts += gqb[:, None] * x[None, :]
                ginto += gx * x
                tl.store(dq + (o * N + n) * K + j, tl.where(old, to_x, 0.0), mask=on)
            gdecay = tl.where(old, gdecay, 0.0)
            if W == 1:
                tl.store(dw + o + 0 * r, tl.sum(gdecay, 0) + 0.0 * r, mask=(r == 0) & (t < T))
            if W > 1:
                tl.store(dw + o * K + j, gdecay, mask=on)
