"""Scans of matrix states as generated code calls them: which reads, before or after the token, with documents.

Input: the operands of `S' = (S (Φ + Σ_r a_r b_rᵀ)) ∘ wv + Σ_m v_m k_mᵀ` over [B, T]; Φ = none, scalar, diag(w), a mix.
Output: what the reads see, and the last state.  The CPU kernel runs where it can, its twin in plain torch elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import native
from .chunked import chunked_scan
from .delay import keep


def chunk_scan(
    q: Tensor,
    w: Tensor | None,
    k: Tensor,
    v: Tensor,
    S0: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    wv: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """S' = S (diag(w) + Σ_r a_r b_rᵀ) + Σ_m v_m k_mᵀ;  y = S q with S before the token.

    q [B, T, H, K], or n queries in one pass: [B, T, H, n, K].   k [B, T, H, m, K].   v [B, T, H, m, V].
    a, b [B, T, H, r, K] or None.   S0 [B, H, V, K].
    w: None (no decay), [B, T, H, 1], [B, T, H, K], or [B, T, H, G, G, K/G]: G coupled states side by side on the key
    axis, S'_f = Σ_g S_g w[g, f].   wv [B, T, H, V]: S' = (S diag(w)) ∘ wv + …, only without a, b.
    Any number may stand in w and wv: 0, 1e-30, negative.  T >= 1, any B, H, K, V.

    Returns y [B, T, H, V] (or [B, T, H, n, V]) and the state after the last token, both in S0's dtype.
    """
    many = q.dim() == 5
    q, k, v = q.to(S0.dtype), k.to(S0.dtype), v.to(S0.dtype)
    w, a, b, wv = (x if x is None else x.to(S0.dtype) for x in (w, a, b, wv))
    asks = q if many else q.unsqueeze(-2)
    with torch.autocast(q.device.type, enabled=False):  # the state's dtype is the arithmetic's
        if wv is None and (w is None or w.dim() == 4) and _countable(asks, k, a) and native.usable(S0):
            y, S = native.chunk_scan(asks, w, k, v, S0, a, b)
        else:
            y, S = chunked_scan(asks, w, k, v, S0, a, b, wv)
    return (y if many else y.squeeze(-2)), S


def _countable(q: Tensor, k: Tensor, a: Tensor | None) -> bool:
    """Few enough queries, ranks and addends for the kernel."""
    rank = 0 if a is None else a.shape[3]
    return max(q.shape[3], k.shape[3]) + rank <= native.MOST


def read_after(
    q: Tensor, w: Tensor | None, a: Tensor | None, b: Tensor | None, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """A read of S' as a read of S: S' q = S (Φ q + Σ_r a_r (b_r·q)) + Σ_m v_m (k_m·q).

    q [B, T, H, K] or [B, T, H, n, K].  Returns the query to put to `chunk_scan` and the addend to its answer
    [B, T, H, V] or [B, T, H, n, V].  With a value decay the answer is multiplied by wv before the addend.
    """
    many = q.dim() == 5
    q = q if many else q.unsqueeze(-2)  # [B, T, H, n, K]
    match w:
        case None:
            asked = q
        case Tensor() if w.dim() == 6:
            asked = torch.einsum("bthgfk,bthnfk->bthngk", w, torch.unflatten(q, -1, w.shape[-2:])).flatten(-2)
        case _:
            asked = q * w.unsqueeze(-2)
    if a is not None and b is not None:
        asked = asked + _through(q, b, a)
    extra = _through(q, k, v)
    return (asked, extra) if many else (asked.squeeze(-2), extra.squeeze(-2))


def _through(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(q keysᵀ) values of every token; with one key elementwise, products of so small matrices being slower."""
    if keys.shape[-2] == 1:
        return (q * keys).sum(-1, keepdim=True) * values
    return (q @ keys.mT) @ values


def chunk_reads(
    q: Sequence[Tensor],
    after: Sequence[bool],
    w: Tensor | None,
    k: Tensor,
    v: Tensor,
    S0: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    wv: Tensor | None = None,
    reset: Tensor | None = None,
    initial: Tensor | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Every read of one matrix state in one pass: `q[i]` [B, T, H, K] reads S' where `after[i]`, else S.

    The other operands as for `chunk_scan`.  `reset` [B, T]: this token is a document's first, so S before it is
    `initial` (broadcasts to [B, H, V, K]; zero when None).  A reset to zero multiplies whatever meets the old state
    by 0; a reset to another value is a full-rank addend at that token, so the sequence is cut there instead.
    Returns the answers, each [B, T, H, V], and the state after the last token.
    """
    if reset is not None and initial is not None:
        return _by_document(q, after, w, k, v, S0, a, b, wv, reset, initial)
    if reset is not None:
        w = keep(torch.ones_like(k[..., 0, :1]) if w is None else w, reset)
        a = None if a is None else keep(a, reset)
    asked, extra = [], []
    for x, late in zip(q, after, strict=True):
        ask, add = read_after(x, w, a, b, k, v) if late else (keep(x, reset), None)
        asked.append(ask)
        extra.append(add)
    y, S = chunk_scan(torch.stack(asked, 3), w, k, v, S0, a, b, wv)
    answers = []
    for x, add in zip(y.unbind(3), extra, strict=True):
        answers.append(x if add is None else x + add if wv is None else x * wv + add)
    return answers, S


def _by_document(
    q: Sequence[Tensor],
    after: Sequence[bool],
    w: Tensor | None,
    k: Tensor,
    v: Tensor,
    S0: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    wv: Tensor | None,
    reset: Tensor,
    initial: Tensor,
) -> tuple[list[Tensor], Tensor]:
    """Cut where a document starts in any row; each stretch begins from `initial` in the rows that start there."""
    T = reset.shape[1]
    starts = reset.any(0).nonzero().flatten().tolist()
    cuts = [0, *(t for t in starts if t > 0), T]
    S, parts = S0, []
    for t0, t1 in zip(cuts[:-1], cuts[1:], strict=True):
        S = torch.where(reset[:, t0, None, None, None], initial.to(S.dtype), S)

        def part(x: Tensor, t0: int = t0, t1: int = t1) -> Tensor:
            return x[:, t0:t1]

        def some(x: Tensor | None, t0: int = t0, t1: int = t1) -> Tensor | None:
            return None if x is None else x[:, t0:t1]

        y, S = chunk_reads([part(x) for x in q], after, some(w), part(k), part(v), S, some(a), some(b), some(wv))
        parts.append(y)
    return [torch.cat(x, 1) for x in zip(*parts, strict=True)], S
