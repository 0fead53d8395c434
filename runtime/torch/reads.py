"""Scans of matrix states as generated code calls them: which reads, before or after the token, with documents.

Input: the operands of `S' = (S (Φ + Σ_r a_r b_rᵀ)) ∘ wv + Σ_m v_m k_mᵀ` over [B, T]; Φ = none, scalar, diag(w), a mix.
Output: what the reads see, and the last state.  Kernels of the GPU or the CPU run where they can, else plain torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import gpu, native
from .chunked import chunked_scan


def chunk_scan(
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
) -> tuple[Tensor, Tensor]:
    """S' = (S (diag(w) + Σ_r a_r b_rᵀ)) ∘ wv + Σ_m v_m k_mᵀ;  y = S q with S before the token.

    q [B, T, H, K], or n queries in one pass: [B, T, H, n, K].   k [B, T, H, m, K].   v [B, T, H, m, V].
    a, b [B, T, H, r, K] or None.   S0 [B, H, V, K].
    w: None (no decay), [B, T, H, 1], [B, T, H, K], or [B, T, H, G, G, K/G]: G coupled states side by side on the key
    axis, S'_f = Σ_g S_g w[g, f].   wv [B, T, H, V] or None: a decay along the value axis.
    Any number may stand in w and wv: 0, 1e-30, negative.  T >= 1, any B, H, K, V.
    `reset` [B, T]: this token is a document's first, so S before it is `initial` (broadcasts to S0; zero when None).

    Returns y [B, T, H, V] (or [B, T, H, n, V]) and the state after the last token, both in S0's dtype.
    """
    many = q.dim() == 5
    asks = q if many else q.unsqueeze(-2)
    if gpu.takes(S0, w):  # operands stay in their own types
        y, S = gpu.chunk_scan(asks, w, k, v, S0, a, b, wv, reset, initial)
        return (y if many else y.squeeze(-2)), S
    asks, k, v = (x.to(S0.dtype) for x in (asks, k, v))
    w, a, b, wv, initial = (x if x is None else x.to(S0.dtype) for x in (w, a, b, wv, initial))
    scan = native.chunk_scan if native.usable(S0) and native.counts(asks, k, a) else chunked_scan
    with torch.autocast(q.device.type, enabled=False):  # the state's dtype is the arithmetic's
        y, S = scan(asks, w, k, v, S0, a, b, wv, reset, initial)
    return (y if many else y.squeeze(-2)), S


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

    The other operands as for `chunk_scan`.  Returns the answers, each [B, T, H, V], and the state after the last token.
    """
    asked, extra = [], []
    for x, late in zip(q, after, strict=True):
        ask, add = read_after(x, w, a, b, k, v) if late else (x, None)
        asked.append(ask)
        extra.append(add)
    y, S = chunk_scan(_beside(asked), w, k, v, S0, a, b, wv, reset, initial)
    answers = []
    for x, add in zip(y.unbind(3) if len(asked) > 1 else [y.squeeze(3)], extra, strict=True):
        answers.append(x if add is None else x + add if wv is None else x * wv + add)
    return answers, S


def _beside(asked: Sequence[Tensor]) -> Tensor:
    """The queries along an axis of their own; one alone is not copied."""
    return torch.stack(list(asked), 3) if len(asked) > 1 else asked[0].unsqueeze(3)
