"""The chunked form of diagonal and delta states in plain torch: products only, no logarithm, no division.

S' = (S (diag(w) + Σ_r a_r b_rᵀ)) ∘ wv + Σ_m v_m k_mᵀ,   y_n = S q_n,   S before the token.

Input: q [B, T, H, n, K], k [B, T, H, m, K], v [B, T, H, m, V], a, b [B, T, H, r, K] or None, w (see `chunked_scan`),
S0 [B, H, V, K].
Output: y [B, T, H, n, V] and the state after the last token [B, H, V, K].

Decays are only ever multiplied, so exactly 0, 1e-30 and negative ones are ordinary numbers with exact gradients,
and nothing overflows that the token loop would not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .delay import keep


class Within(NamedTuple):
    """What a chunk of C tokens needs of itself; `R` is whatever batches the chunks ([B, H, chunks])."""

    pairs: Tensor  # [*R, C*x, C*m]: ask (t, x) meets key (s, m), decayed over s+1 .. t-1; zero unless s < t
    into: Tensor  # [*R, C, x, K]: asks decayed from the chunk's start
    out: Tensor  # [*R, C, m, K]: keys decayed to the chunk's end
    total: Tensor | None  # [*R, 1, K | 1] or [*R, G, G, K/G]: the decay of the whole chunk


def chunked_scan(
    q: Tensor,
    w: Tensor | None,
    k: Tensor,
    v: Tensor,
    S0: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    wv: Tensor | None = None,
    reset: Tensor | None = None,
    initial: Tensor | None = None,
    chunk: int = 32,
) -> tuple[Tensor, Tensor]:
    """See the module.  w: None, [B, T, H, 1], [B, T, H, K] or [B, T, H, G, G, K/G] (source, target: G coupled states
    side by side on the key axis).  wv [B, T, H, V]: a decay along the value axis.  `reset` [B, T]: S before this token
    is `initial` (broadcasts to S0; zero when None).  `chunk` is a power of two; above 32 strongly correlated keys lose
    accuracy.  A value decay together with a low rank or with an `initial` has no chunked form: token by token.
    """
    T, K = q.shape[1], S0.shape[-1]
    if wv is not None and (a is not None or (reset is not None and initial is not None)):
        return _by_token(q, w, k, v, S0, a, b, wv, reset, initial)
    if reset is not None and initial is None:  # what meets the old state is 0 there
        w = keep(k.new_ones(*k.shape[:3], 1) if w is None else w, reset)
        q, a = keep(q, reset), a if a is None else keep(a, reset)
    elif reset is not None and initial is not None:
        q, w, k, S0, a, b = _beside_initial(q, w, k, S0, a, b, reset, initial)
    C = min(chunk, 1 << (T - 1).bit_length())
    q, k, v = _cut(q, C), _cut(k, C), _cut(v, C)
    w = None if w is None else _cut_mix(w, C) if w.dim() == 6 else _cut(w, C, 1.0)
    if wv is not None:
        y, S = _scan_two_sided(_within(q, w, k), v, _cut(wv, C, 1.0), S0)
    elif a is None or b is None:
        y, S = _scan_diagonal(_within(q, w, k), v, S0)
    else:
        a, b = _cut(a, C), _cut(b, C)
        within = _within(torch.cat([q, a], -2), w, torch.cat([b, k], -2))
        y, S = _scan_delta(within, v, S0, rank=a.shape[-2])
    return y.movedim(1, 3).flatten(1, 2)[:, :T], S[..., :K]


def _beside_initial(
    q: Tensor,
    w: Tensor | None,
    k: Tensor,
    S0: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    reset: Tensor,
    initial: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """The operands of [S, initial] side by side on the key axis, of which nothing changes the second: a document's
    first token reads it and decays it in place of S."""
    w = k.new_ones(*k.shape[:3], S0.shape[-1]) if w is None else w
    if w.dim() == 4:
        w = w.expand(*w.shape[:3], S0.shape[-1])[:, :, :, None, None]
    going_on = keep(w, reset)
    same = torch.eye(w.shape[3], dtype=w.dtype, device=w.device)[:, :, None].expand(w.shape)
    from_S = torch.cat([going_on, torch.zeros_like(w)], -2)
    from_initial = torch.cat([w - going_on, same], -2)

    def asking(x: Tensor) -> Tensor:
        held = keep(x, reset)
        return torch.cat([held, x - held], -1)

    def adding(x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros_like(x)], -1)

    S0 = torch.cat([S0, initial.expand(S0.shape)], -1)
    low_rank = (None, None) if a is None or b is None else (asking(a), adding(b))
    return asking(q), torch.cat([from_S, from_initial], -3), adding(k), S0, *low_rank


def _by_token(
    q: Tensor,
    w: Tensor | None,
    k: Tensor,
    v: Tensor,
    S: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    wv: Tensor,
    reset: Tensor | None,
    initial: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One token after the other; operands are cut once: an index a token makes a full-size gradient each time."""
    T = q.shape[1]
    ws, as_, bs, starts = ([None] * T if x is None else x.unbind(1) for x in (w, a, b, reset))
    begin = S.new_zeros(()) if initial is None else initial
    read = []
    for ask, key, value, rows, decay, A, B, first in zip(
        *(x.unbind(1) for x in (q, k, v, wv)), ws, as_, bs, starts, strict=True
    ):
        if first is not None:
            S = torch.where(first[:, None, None, None], begin, S)
        read.append(ask @ S.mT)
        new = S if decay is None else mix_rows(S, decay) if decay.dim() == 5 else S * decay.unsqueeze(-2)
        if A is not None and B is not None:
            new = new + (S @ A.mT) @ B
        S = new * rows.unsqueeze(-1) + value.mT @ key
    return torch.stack(read, 1), S


def _cut(x: Tensor, C: int, fill: float = 0.0) -> Tensor:
    """[B, T, H, ...] to [B, H, chunks, C, ...]; padding tokens change nothing (decay 1, zeros elsewhere)."""
    x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, -x.shape[1] % C), value=fill)
    return torch.unflatten(x, 1, (-1, C)).movedim(3, 1)


def _cut_mix(w: Tensor, C: int) -> Tensor:
    """`_cut` for a mix of G states, whose padding is the identity."""
    B, T, H, G = w.shape[:4]
    eye = torch.eye(G, dtype=w.dtype, device=w.device)[:, :, None]
    return _cut(torch.cat([w, eye.expand(B, -T % C, H, *w.shape[3:])], 1), C)


def _within(asks: Tensor, w: Tensor | None, keys: Tensor) -> Within:
    """All pairs of a chunk, by doubling.

    A block of tokens holds its asks decayed from its start, its keys decayed to its end and its whole decay.  Two
    neighbours: the right one's asks meet the left one's keys in one product, and each side takes the other's decay.
    log2(C) steps.
    """
    C, x = asks.shape[-3:-1]
    m = keys.shape[-2]
    if w is None:
        later = torch.ones(C, C, dtype=torch.bool, device=asks.device).triu()
        later = later.repeat_interleave(x, 0).repeat_interleave(m, 1)
        pairs = asks.flatten(-3, -2) @ keys.flatten(-3, -2).mT
        return Within(pairs.masked_fill(later, 0.0), asks, keys, None)
    mixed = w.dim() == keys.dim() + 1
    into, out = asks, keys  # [*R, blocks, rows, K]
    pairs = asks.new_zeros(*asks.shape[:-1], m)  # a token's asks do not meet its own keys
    while into.shape[-3] > 1:
        (L, R), (Lk, Rk), (top, low) = _halves(into), _halves(out), _halves(pairs)
        wL, wR = _halves(w, -4 if mixed else -2)
        cross = R @ Lk.mT
        pairs = torch.cat([F.pad(top, (0, top.shape[-1])), torch.cat([cross, low], -1)], -2)
        if mixed:
            into = torch.cat([L, _mix_columns(wL, R)], -2)
            out = torch.cat([mix_rows(Lk, wR), Rk], -2)
            w = torch.einsum("...gfk,...fhk->...ghk", wL, wR)
        else:
            into = torch.cat([L, R * wL.unsqueeze(-2)], -2)
            out = torch.cat([Lk * wR.unsqueeze(-2), Rk], -2)
            w = wL * wR
    total = w.squeeze(-4) if mixed else w
    into, out = torch.unflatten(into.squeeze(-3), -2, (C, x)), torch.unflatten(out.squeeze(-3), -2, (C, m))
    return Within(pairs.squeeze(-3), into, out, total)


def _halves(x: Tensor, axis: int = -3) -> tuple[Tensor, Tensor]:
    """Left and right of each pair of neighbouring blocks."""
    left, right = torch.unflatten(x, axis, (-1, 2)).unbind(axis)
    return left, right


def mix_rows(rows: Tensor, w: Tensor) -> Tensor:
    """rows [..., s, K] times the mix w [..., G, G, K/G]: row vectors, target f = Σ_g source g · w[g, f]."""
    return torch.einsum("...sgk,...gfk->...sfk", torch.unflatten(rows, -1, w.shape[-2:]), w).flatten(-2)


def _mix_columns(w: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("...gfk,...sfk->...sgk", w, torch.unflatten(x, -1, w.shape[-2:])).flatten(-2)


def _decayed(S: Tensor, total: Tensor | None, i: int) -> Tensor:
    """S [B, H, V, K] after chunk i's decay."""
    if total is None:
        return S
    return mix_rows(S, total[:, :, i]) if total.dim() == 6 else S * total[:, :, i]


def _scan_diagonal(c: Within, v: Tensor, S0: Tensor) -> tuple[Tensor, Tensor]:
    values = v.flatten(-3, -2)  # [*R, C*m, V]
    add = values.mT @ c.out.flatten(-3, -2)  # [*R, V, K]
    S, starts = S0, []
    for i in range(add.shape[2]):
        starts.append(S)
        S = _decayed(S, c.total, i) + add[:, :, i]
    y = c.pairs @ values + c.into.flatten(-3, -2) @ torch.stack(starts, 2).mT
    return torch.unflatten(y, -2, c.into.shape[-3:-1]), S


def _scan_delta(c: Within, v: Tensor, S0: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Asks are the queries and then the a; keys are the b and then the k.

    With A strictly lower, X = (I - A_ab)⁻¹ [A_ak V, A_in] = [Xv, Xs] gives every S_t a_t = Xv + Xs Sᵀ of the chunk.
    """
    C, n, r = c.into.shape[-3], c.into.shape[-2] - rank, rank
    pairs = torch.unflatten(torch.unflatten(c.pairs, -1, (C, -1)), -3, (C, -1))  # [*R, C, n+r, C, r+m]
    qb, qk = _flat(pairs[..., :n, :, :r]), _flat(pairs[..., :n, :, r:])
    ab, ak = _flat(pairs[..., n:, :, :r]), _flat(pairs[..., n:, :, r:])
    q_in, a_in = c.into[..., :n, :].flatten(-3, -2), c.into[..., n:, :].flatten(-3, -2)
    b_out, k_out = c.out[..., :r, :].flatten(-3, -2), c.out[..., r:, :].flatten(-3, -2)
    values = v.flatten(-3, -2)
    # only the strictly lower triangle of -A is read: the unit diagonal is implied
    X = torch.linalg.solve_triangular(-ab, torch.cat([ak @ values, a_in], -1), upper=False, unitriangular=True)
    Xv, Xs = X.split([values.shape[-1], a_in.shape[-1]], -1)
    add = values.mT @ k_out + Xv.mT @ b_out
    S, starts = S0, []
    for i in range(add.shape[2]):
        starts.append(S)
        S = _decayed(S, c.total, i) + add[:, :, i] + (S @ Xs[:, :, i].mT) @ b_out[:, :, i]
    y = qk @ values + qb @ Xv + (q_in + qb @ Xs) @ torch.stack(starts, 2).mT
    return torch.unflatten(y, -2, (C, n)), S


def _flat(pairs: Tensor) -> Tensor:
    """[*R, C, x, C, m] to the matrix [*R, C*x, C*m]."""
    return pairs.flatten(-2).flatten(-3, -2)


def _scan_two_sided(c: Within, v: Tensor, wv: Tensor, S0: Tensor) -> tuple[Tensor, Tensor]:
    """The value axis decays too: y_t = Σ_s pairs[t, s] (wv_{s+1} … wv_{t-1} v_s): the same doubling on the values."""
    C, x = c.into.shape[-3:-1]
    m = v.shape[-2]
    values = v  # [*R, blocks, tokens*m, V]: decayed to the block's end
    since = torch.ones_like(wv).unsqueeze(-2)  # [*R, blocks, tokens, V]: decay from the block's start to the token
    total = wv  # [*R, blocks, V]
    y = v.new_zeros(*v.shape[:-2], 1, x, v.shape[-1])  # [*R, blocks, tokens, x, V]
    size = 1
    while size < C:
        blocks = torch.unflatten(torch.unflatten(c.pairs, -1, (-1, 2, size * m)), -4, (-1, 2, size * x))
        blocks = blocks[..., 1, :, :, 0, :]  # asks of right blocks, keys of left ones
        cross = blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)  # [*R, blocks/2, size*x, size*m]
        (Lv, Rv), (Ls, Rs), (wL, wR), (Ly, Ry) = _halves(values), _halves(since), _halves(total, -2), _halves(y, -4)
        Ry = Ry + torch.unflatten(cross @ Lv, -2, (size, x)) * Rs.unsqueeze(-2)
        values = torch.cat([Lv * wR.unsqueeze(-2), Rv], -2)
        since = torch.cat([Ls, Rs * wL.unsqueeze(-2)], -2)
        y = torch.cat([Ly, Ry], -3)
        total, size = wL * wR, 2 * size
    end = total.squeeze(-2).unsqueeze(-1)  # [*R, V, 1]
    add = values.squeeze(-3).mT @ c.out.flatten(-3, -2)
    S, starts = S0, []
    for i in range(add.shape[2]):
        starts.append(S)
        S = _decayed(S, c.total, i) * end[:, :, i] + add[:, :, i]
    carried = torch.unflatten(c.into.flatten(-3, -2) @ torch.stack(starts, 2).mT, -2, (C, x))
    return y.squeeze(-4) + carried * since.squeeze(-3).unsqueeze(-2), S
