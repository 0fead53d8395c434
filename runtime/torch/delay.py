"""Values of the token before, and what a document's start does to them.

Input: sequences [B, T, ...], the state before the first token, `reset` [B, T] (True: this token is a document's
first) or None, and the state a document starts from (`initial`, zero when None).
Output: the value before each token, and the state after the last.
"""

from __future__ import annotations

from torch import Tensor, cat, where


def keep(x: Tensor, reset: Tensor | None) -> Tensor:
    """`x` [B, T, ...], zero at a document's first token.

    This is how scans in plain torch lower a reset to zero: whatever multiplies the old state goes through `keep`
    (decays, the `a` of a low-rank term, a query of the state before the token).
    """
    if reset is None:
        return x
    return x * (~reset).to(x.dtype).reshape(*reset.shape, *[1] * (x.dim() - 2))


def shift(x: Tensor, first: Tensor, reset: Tensor | None = None, initial: Tensor | None = None) -> Tensor:
    """The value before each token: first, x[:, 0], x[:, 1], ...; `initial` at a document's first token.

    x [B, T, *S]; first [B, *S]; initial broadcasts to [B, *S].  Returns [B, T, *S].
    """
    before = cat([first.unsqueeze(1), x[:, :-1]], 1)
    if reset is None:
        return before
    at = reset.reshape(*reset.shape, *[1] * (x.dim() - 2))
    if initial is None:
        return before.masked_fill_(at, 0.0)  # of its own
    return where(at, initial.to(before.dtype).expand(first.shape).unsqueeze(1), before)


def delay(x: Tensor, s0: Tensor, reset: Tensor | None = None, initial: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """s' = x.  Returns s before each token [B, T, *S] and the last state [B, *S]."""
    return shift(x, s0, reset, initial), x[:, -1].clone()  # a view would keep all of x in memory
