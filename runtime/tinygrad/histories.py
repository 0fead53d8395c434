"""Histories: the last W entries of each token, this block's and those in the ring.

Input: this block's entries `new` [B, T, *S]; `ring` [B, W-1, *S], where the entry of the document's token n lies at
n % (W-1) (None when W is 1); `pos` [B, T], each token's place in its document.
Output: attention, or windows and what of them is there.  Age 0 is the token itself; age a is there when a <= pos.

The ring keeps its old entries until all has been read: `remember` writes the block's last ones into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod

from tinygrad import Tensor, dtypes

from .arrange import joined
from .kernel import UOp, block, buffer, finish, has_blocks, lane, launch, loop

THREADS = 64


def attend(
    q: Sequence[Tensor],
    new_k: Sequence[Tensor],
    new_v: Tensor,
    old_k: Sequence[Tensor | None],
    old_v: Tensor | None,
    pos: Tensor,
    window: int,
    scale: float,
    bias: Tensor | None = None,
) -> Tensor:
    """y[h] = sum over ages of softmax(scale * sum over parts of q[h].k[age] + bias[h, age]) v[age]: [B, T, H, M].

    A part's q [B, T, H, N] and keys [B, T | W-1, G, N], N its own; values [.., G, M]: head h reads key h // (H/G);
    bias [1, 1, H, W].
    """
    # Else whatever made them (a rotation, say) is computed again for every pair of a query and a key.
    q, new_k, new_v = [x.contiguous() for x in q], [x.contiguous() for x in new_k], new_v.contiguous()
    B, T, H = q[0].shape[:3]
    values = _timeline(new_v, old_v)
    G, M = values.shape[2:]
    age = _ages(pos, window)  # [B, T, S]
    seen = (age >= 0) & (age < window) & (age <= pos.unsqueeze(2))
    scores = Tensor.zeros(1)
    for asks, new, old in zip(q, new_k, old_k, strict=True):
        N, keys = asks.shape[3], _timeline(new, old)
        asked = asks.reshape(B, T, G, H // G, 1, N) * keys.permute(0, 2, 1, 3).reshape(B, 1, G, 1, -1, N)
        scores = scores + asked.sum(-1)  # [B, T, G, H/G, S]
    scores = scores * scale
    if bias is not None:
        by_age = bias.reshape(G, H // G, window)[:, :, age.clamp(0, window - 1)]  # [G, H/G, B, T, S]
        scores = scores + by_age.permute(2, 3, 0, 1, 4)
    weights = seen.reshape(B, T, 1, 1, -1).where(scores, -float("inf")).softmax(-1)
    y = weights.unsqueeze(-1) * values.permute(0, 2, 1, 3).reshape(B, 1, G, 1, -1, M)
    return y.sum(-2).reshape(B, T, H, M)


def _timeline(new: Tensor, old: Tensor | None) -> Tensor:
    """The ring's slots and then the block's entries."""
    return new if old is None else joined(old, new)


def _ages(pos: Tensor, window: int) -> Tensor:
    """The age of each entry of the timeline as each token sees it: [B, T, W-1 + T]; beyond `pos` it is not there."""
    T, size = int(pos.shape[1]), window - 1
    t, place = Tensor.arange(T).unsqueeze(1), Tensor.arange(size + T)
    new = t - (place - size)  # [T, W-1 + T]
    if size == 0:
        return new.expand(pos.shape[0], T, T)
    newest = (pos[:, :1] - 1 - place) % size  # how many tokens lie between a slot's and the block
    return (place < size).where(newest.unsqueeze(1) + 1 + t, new)


def windows(ring: Tensor | None, new: Tensor, pos: Tensor, window: int) -> Tensor:
    """The entries of ages 0 … W-1 as each token sees them: [B, T, W, *S]."""
    B, T, *S = new.shape
    if ring is None:
        return new.unsqueeze(2)
    size = window - 1
    flat = new.reshape(B, T, -1)
    at = (pos[:, :1] + Tensor.arange(size)) % size  # the ring in order of time, oldest first
    old = ring.reshape(B, size, -1).gather(1, at.unsqueeze(2).expand(B, size, flat.shape[2]))
    line = joined(old, flat)  # [B, W-1 + T, *]
    return line.unfold(1, window, 1).permute(0, 1, 3, 2).flip(2).reshape(B, T, window, *S)


def there(pos: Tensor, window: int) -> Tensor:
    """Which ages have an entry: bool [B, T, W]."""
    return Tensor.arange(window) <= pos.unsqueeze(2)


def remember(ring: Tensor, new: Tensor, pos: Tensor) -> Tensor:
    """The ring with the block's last entries in their places; written in place."""
    B, T = new.shape[:2]
    sink = _written(B, T, int(ring.shape[1]), prod(ring.shape[2:]), has_blocks(ring.device))
    return launch(sink, [ring], [new, pos[:, 0]])[0]


@cache
def _written(B: int, T: int, size: int, width: int, blocks: bool) -> UOp:
    """A thread a number; only the entries that stay are written."""
    kept = min(T, size)
    items = B * kept * width
    axes: tuple[UOp, ...]
    if blocks:
        far, near = block(-(-items // THREADS), 0), lane(min(THREADS, items), 1)
        at, axes = far * THREADS + near, (far, near)
    else:
        at = loop(items, 0)
        axes = (at,)
    ring, new, pos = buffer(0, B * size * width), buffer(1, B * T * width), buffer(2, B, dtypes.int32)
    b, t, i = at // (kept * width), at // width % kept + (T - kept), at % width
    slot = (pos[b].load() + t) % size
    place = (b * size + slot) * width + i
    value = new[(b * T + t) * width + i].load()
    if blocks and items > THREADS and items % THREADS:
        place = place.valid(at < items)
    return finish(f"remember_{B}x{T}x{size}x{width}", axes, ring[place].store(value))
