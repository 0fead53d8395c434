"""Attention over a window of tokens, in blocks of queries: no mask is ever T x T when the window is short.

Input: queries [B, T, H, N], this call's keys [B, T, G, N] and values [B, T, G, M] (H = G * Q heads: head h reads key
h // Q), and their histories (see `window`).
Output: [B, T, H, M]: y[h] = Σ_t softmax_t(scale · q[h]·k[t] + bias[h, t]) v[t], t the age, 0 this token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .window import ages, timeline

NARROW = (torch.bfloat16, torch.float16)
SHORT = 256  # a window up to this long runs all its blocks in one call; its masks take 2 * window a token
BLOCK = 512  # queries at a time with a longer one


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    scale: float,
    old_k: Tensor | None = None,
    old_v: Tensor | None = None,
    count: Tensor | None = None,
    reset: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """See the module.  bias [H, W] or [1, W], over the age.  old_k, old_v [B, W-1, G, N | M], count [B], reset [B, T].

    The histories after the last token are `advance(k, …)` and `advance(v, …)`.
    """
    if q.dtype in NARROW and q.device.type == "cpu":  # a GPU's kernel keeps scores in f32, a CPU's may not
        old_k, old_v = (None if x is None else x.float() for x in (old_k, old_v))
        return attend(q.float(), k.float(), v.float(), window, scale, old_k, old_v, count, reset, bias).to(q.dtype)
    if scale < 0:  # torch's kernel for CPUs subtracts the largest score as it is before it is scaled
        q, scale = -q, -scale
    B, T = q.shape[:2]
    if window == 1:  # one key has all the weight, however large its score
        return v.repeat_interleave(q.shape[2] // v.shape[2], 2) + _nothing(q) + _nothing(k) + _nothing(bias)
    if old_k is None and window > T:  # nothing came before: no key is older than the first token
        window = T
        bias = None if bias is None else bias[:, :window]
    if old_k is None and window == T and reset is None and bias is None:
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, scale=scale, enable_gqa=True
        )
        return y.transpose(1, 2)
    run = _banded if window <= min(SHORT, T // 2) else _in_turn
    if old_k is not None or run is _banded:
        k, v = timeline(k, window, old_k), timeline(v, window, old_v)
    age = ages(reset, count, B, T, q.device)
    return run(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), age, window, scale, bias).transpose(1, 2)


def _banded(
    q: Tensor, keys: Tensor, values: Tensor, age: Tensor, window: int, scale: float, bias: Tensor | None
) -> Tensor:
    """Blocks as long as the window, each seeing itself and the block before; all in one call."""
    B, _, T, _ = q.shape
    size = max(window, 32)
    count = -(-T // size)
    end = count * size - T

    def spans(x: Tensor) -> Tensor:  # [B, G, W-1+T, N] to [B*blocks, G, 2*size, N]
        x = torch.unflatten(F.pad(x, (0, 0, size - window + 1, end)), 2, (count + 1, size))
        return torch.cat([x[:, :, :-1], x[:, :, 1:]], 3).transpose(1, 2).flatten(0, 1)

    asks = torch.unflatten(F.pad(q, (0, 0, 0, end)), 2, (count, size)).transpose(1, 2).flatten(0, 1)
    place = torch.arange(2 * size, device=q.device)
    back = place[:size, None] + size - place
    mask = _mask(F.pad(age, (0, end)).reshape(B * count, size), back, window, bias, q.dtype)
    y = _attention(asks, spans(keys), spans(values), mask, scale)
    return torch.unflatten(y, 0, (B, count)).transpose(1, 2).flatten(2, 3)[:, :, :T]


def _in_turn(
    q: Tensor, keys: Tensor, values: Tensor, age: Tensor, window: int, scale: float, bias: Tensor | None
) -> Tensor:
    """One block of queries after the other, with the keys that its window reaches; no key need be older than q."""
    blocks, t0 = [], 0
    past = keys.shape[2] - q.shape[2]  # keys from before the first query
    place = torch.arange(keys.shape[2], device=q.device)
    for asks in q.split(BLOCK, 2):
        t1 = t0 + asks.shape[2]
        span = slice(max(0, t0 + past - window + 1), t1 + past)
        back = place[t0:t1, None] + past - place[span]
        mask = _mask(age[:, t0:t1], back, window, bias, q.dtype)
        blocks.append(_attention(asks, keys[:, :, span], values[:, :, span], mask, scale))
        t0 = t1
    return torch.cat(blocks, 2)


def _nothing(x: Tensor | None) -> Tensor | float:
    """Zero, of which `x` has a gradient of zero, also where it is not finite."""
    return 0.0 if x is None else (x * 0).nan_to_num(0.0).sum()


def _mask(age: Tensor, back: Tensor, window: int, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What each query sees, [rows, 1 | H, queries, keys]: True, or the bias.  `back` [queries, keys] is a key's age."""
    seen = ((back >= 0) & (back < window) & (back <= age.unsqueeze(-1))).unsqueeze(1)
    if bias is None:
        return seen
    return torch.where(seen, bias.to(dtype)[:, back.clamp(0, window - 1)], -torch.inf)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True)
