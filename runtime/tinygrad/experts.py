"""Tokens grouped by the expert they chose, in static shapes, so that a block reads each chosen expert about once.

    group_by_expert(pick [N, k] int32, experts, tile) -> Tiles
    rows(x, tiles, each=False) -> [tiles, tile, *X]   what the slots are given: x [N, *X]; each: x [N, k, *X]
    back(y, tiles) -> [N, k, *Y]                      the answers y [tiles, tile, *Y] in the order of `pick`

Input: picks in [0, experts) (others count as the nearest expert).
Output: `Tiles`: each chosen expert fills whole tiles of `tile` slots; how many tiles there are is static,
min(N*k, N*k // tile + min(experts, N*k)), so some may be empty.
- pair  [tiles, tile] int32: the pair n*k + j that lies in a slot, or N*k: none (its row is zero).
- slot  [N, k] int32: t*tile + i, where pair (n, j) lies.
- expert [tiles] int32: the expert of a tile, or -1: an empty tile.  `row_product(W, rows, pick=expert)` reads nothing
  for it.
In a step with N*k <= experts no grouping is needed: row_product(W, x [N*k, 1, K], pick=pick.flatten()).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod

from tinygrad import Tensor, dtypes

from .kernel import UOp, buffer, finish, has_blocks, lane, launch, least, loop, shared, total

THREADS = 256
MOST = 1024  # pairs, and experts, of one block


@dataclass(frozen=True, slots=True)
class Tiles:
    """See the module."""

    pair: Tensor
    slot: Tensor
    expert: Tensor


def group_by_expert(pick: Tensor, experts: int, tile: int) -> Tiles:
    """See the module."""
    N, k = (int(n) for n in pick.shape)
    pairs = N * k
    tiles = min(pairs, pairs // tile + min(experts, pairs))
    if has_blocks(pick.device) and pairs <= MOST and experts <= MOST:
        shapes = ((tiles, tile), (N, k), (tiles,))
        out = [Tensor.empty(*shape, dtype=dtypes.int32, device=pick.device) for shape in shapes]
        return Tiles(*launch(_written(pairs, experts, tile, tiles), out, [pick.cast(dtypes.int32)]))
    chosen = pick.cast(dtypes.int32).reshape(pairs).clip(0, experts - 1).contiguous()
    each = Tensor.arange(experts, dtype=dtypes.int32)
    place = Tensor.arange(pairs, dtype=dtypes.int32)
    counts = (chosen.unsqueeze(0) == each.unsqueeze(1)).sum(1)  # [E]
    full = ((counts + (tile - 1)) // tile).contiguous()  # tiles of an expert
    ends = (each.unsqueeze(0) <= each.unsqueeze(1)).where(full.unsqueeze(0), 0).sum(1).contiguous()  # [E]
    start = (each.unsqueeze(0) == chosen.unsqueeze(1)).where((ends - full).unsqueeze(0), 0).sum(1)  # [pairs]
    same = (chosen.unsqueeze(0) == chosen.unsqueeze(1)) & (place.unsqueeze(0) < place.unsqueeze(1))
    slot = (start * tile + same.sum(1)).cast(dtypes.int32).contiguous()  # an expert's tiles follow one another
    spots = Tensor.arange(tiles * tile, dtype=dtypes.int32)
    found = (slot.unsqueeze(0) == spots.unsqueeze(1)).where(place.unsqueeze(0) - pairs, 0).sum(1) + pairs
    number = Tensor.arange(tiles, dtype=dtypes.int32)
    before = (ends.unsqueeze(0) <= number.unsqueeze(1)).sum(1)
    expert = (before < experts).where(before, -1)
    return Tiles(
        found.cast(dtypes.int32).reshape(tiles, tile).contiguous(),
        slot.reshape(N, k),
        expert.cast(dtypes.int32).contiguous(),
    )


@cache
def _written(pairs: int, experts: int, tile: int, tiles: int) -> UOp:
    """The same in one kernel of one block: a thread an expert, then a pair, then a slot."""
    at, number = lane(THREADS, 0), dtypes.int32
    pair, slot, expert = (buffer(n, size, number) for n, size in enumerate((tiles * tile, pairs, tiles)))
    pick = buffer(3, pairs, number)

    def chosen(p: UOp) -> UOp:
        return pick[p].load().maximum(0).minimum(experts - 1)

    def count(condition: UOp, axis: UOp) -> UOp:
        return total(condition.cast(number), axis)

    def each(size: int) -> list[UOp]:
        """The places a thread looks after; spare threads repeat the last one."""
        return [least(at + n, size - 1) for n in range(0, size, THREADS)]

    full, ends, lies = (shared(n, size, number) for n, size in enumerate((experts, experts, pairs)))
    p = loop(pairs, 1)
    found = [full[e].store((count(chosen(p).eq(e.cast(number)), p) + (tile - 1)) // tile) for e in each(experts)]
    full = full.after(*found)
    f = loop(experts, 2)
    found = [ends[e].store(total((f <= e).where(full[f].load(), 0), f)) for e in each(experts)]
    ends = ends.after(*found)
    q = loop(pairs, 3)
    stores, placed = [], []
    for n in each(pairs):
        mine = chosen(n)
        e = mine.cast(dtypes.weakint)
        place = (ends[e].load() - full[e].load()) * tile + count(chosen(q).eq(mine) & (q < n), q)
        placed.append(lies[n].store(place))
        stores.append(slot[n].store(place))
    lies = lies.after(*placed)
    r, g = loop(pairs, 4), loop(experts, 5)
    for s in each(tiles * tile):
        there = lies[r].load().eq(s.cast(number))
        stores.append(pair[s].store(total(there.where(r.cast(number) - pairs, 0), r) + pairs))
    for t in each(tiles):
        before = count(ends[g].load() <= t.cast(number), g)
        stores.append(expert[t].store((before < experts).where(before, -1)))
    return finish(f"tiles_{pairs}_of_{experts}", (at,), *stores)


def rows(x: Tensor, tiles: Tiles, each: bool = False) -> Tensor:
    """See the module; `each`: x has a row for each pair."""
    N, k = (int(n) for n in tiles.slot.shape)
    shape = tuple(int(n) for n in x.shape[2 if each else 1 :])
    flat = x.reshape(N * k if each else N, prod(shape)).contiguous()
    there = tiles.pair < N * k
    at = there.where(tiles.pair, 0) if each else there.where(tiles.pair // k, 0)
    return there.unsqueeze(-1).where(flat[at], 0.0).reshape(*tiles.pair.shape, *shape)


def back(y: Tensor, tiles: Tiles) -> Tensor:
    """See the module."""
    shape = tuple(int(n) for n in y.shape[2:])
    flat = y.reshape(prod(int(n) for n in y.shape[:2]), prod(shape)).contiguous()
    return flat[tiles.slot].reshape(*tiles.slot.shape, *shape)
