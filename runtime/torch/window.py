"""Histories over sequences: the last W tokens of each token, across calls and documents.

Input: this call's entries x [B, T, *S]; those before it, `old` [B, W-1, *S], the most recent first, of which the first
`count` [B] (int64) are there and the others are zero (`old` None: nothing came before); `reset` [B, T] or None (True:
this token is a document's first; earlier entries are not there for it).
Output: windows, the mask of what is there, the history after the last token; a convolution over the windows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import native


def ages(reset: Tensor | None, count: Tensor | None, batch: int, T: int, device: torch.device) -> Tensor:
    """How many entries before each token belong to its document: [B, T] (not cut at the window)."""
    t = torch.arange(T, device=device).expand(batch, T)
    before = t if count is None else t + count.unsqueeze(1)
    if reset is None:
        return before
    last = torch.where(reset, t, -1).cummax(1).values  # the document's first token, or -1: it began earlier
    return torch.where(last >= 0, t - last, before)


def unfold(
    x: Tensor, window: int, old: Tensor | None = None, count: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The windows [B, T, W, *S] (0 is this token, t the one t before it) and the mask [B, T, W] of what is there.

    Entries that are not there are zero.  Where nothing came before, no more than T ages are: W is the less of the two.
    """
    B, T = x.shape[:2]
    window = window if old is not None else min(window, T)
    line = timeline(x, window, old)
    windows = line.unfold(1, window, 1).movedim(-1, 2).flip(2)  # [B, T, W, *S]
    there = torch.arange(window, device=x.device) <= ages(reset, count, B, T, x.device).unsqueeze(-1)
    if reset is None:  # what came before x is zero where it is not there
        return windows, there
    return windows.masked_fill(~there.reshape(B, T, window, *[1] * (x.dim() - 2)), 0.0), there


def convolve(
    x: Tensor, taps: Tensor, old: Tensor | None = None, count: Tensor | None = None, reset: Tensor | None = None
) -> Tensor:
    """y_t = Σ_w taps[w] ∘ x_{t-w} over the entries that are there: taps [W, *S], a window of W; y [B, T, *S]."""
    (B, T), W = x.shape[:2], taps.shape[0]
    age = None if reset is None else ages(reset, count, B, T, x.device)
    old = old if old is None else old.to(x.dtype)
    if native.usable(x) and taps.dtype == x.dtype:
        return native.convolve(x, taps, old, age)
    line, y = timeline(x, W, old), x * taps[0]
    for w in range(1, W):
        entry = line[:, W - 1 - w : W - 1 - w + T]
        if age is not None:
            entry = entry.masked_fill((age < w).reshape(B, T, *[1] * (x.dim() - 2)), 0.0)
        y = y + taps[w] * entry
    return y


def timeline(x: Tensor, window: int, old: Tensor | None) -> Tensor:
    """Entries in order of time, W - 1 from before this call and then x: [B, W-1+T, *S]."""
    before = x.new_zeros(x.shape[0], window - 1, *x.shape[2:]) if old is None else old.to(x.dtype).flip(1)
    return torch.cat([before, x], 1)


def advance(
    x: Tensor, window: int, old: Tensor | None = None, count: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The history after the last token: the last W - 1 entries [B, W-1, *S], most recent first, and their count [B]."""
    B, T = x.shape[:2]
    recent = timeline(x, window, old)[:, T:].flip(1)  # [B, W-1, *S]
    held = (ages(reset, count, B, T, x.device)[:, -1] + 1).clamp(max=window - 1)
    there = torch.arange(window - 1, device=x.device) < held.unsqueeze(1)
    return recent.masked_fill(~there.reshape(B, window - 1, *[1] * (x.dim() - 2)), 0.0), held
