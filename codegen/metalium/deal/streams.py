"""How a streamed matrix is dealt out: the grain of its columns, and the time that the cores then take for it.

Input: a product with a `Streamed` right, its tensor, the device, and the units its readers would like.
Output: a `Split` of the product's results; the filled-in `Tiled`.

Columns are dealt out in whole tiles of 32, unless readers want another grain (a head's columns on the head's core): the
finer or coarser deal is taken where it costs less than the gather it saves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import gcd

from cdrmix.ir.steps import Product
from cdrmix.ir.walk import size

from ..cost.devices import TILE_BYTES, TILE_CYCLES, Device
from ..plan import TILE, Split, Tensor, Tiled
from .locality import ALIGNED, split_of, used

BLOCK = 4
"""Column tiles that are summed at once: as many f32 tiles as there are destination registers."""

GATHER_SECONDS = 2e-6
"""What one more gather costs in the choice of a grain: two hops of the NoC and a semaphore, whatever its size."""


def deal(step: Product, tensor: Tensor, wanted: Iterable[int], cores: int, device: Device) -> Split:
    """The split of a streamed product's results."""
    if step.lead:
        return split_of(size(step.lead), cores)
    columns = size(step.columns)
    best = by_tiles(columns, cores)
    asked = sorted({units for units in wanted if columns % units == 0})
    if not asked:
        return best
    least = stream_seconds(step, tensor, best, device) + GATHER_SECONDS
    for units in sorted({*asked, gcd(*asked)}, reverse=True):
        split = split_of(units, cores, ALIGNED // gcd(ALIGNED, columns // units))
        missed = sum(a % split.lead != 0 for a in asked)
        seconds = stream_seconds(step, tensor, split, device) + missed * GATHER_SECONDS
        if split.each <= split.lead and seconds < least:
            best, least = split, seconds
    return best


def by_tiles(columns: int, cores: int) -> Split:
    """Columns dealt out in whole tiles; the last tile may be part of one."""
    split = split_of(columns, cores, TILE)
    return split if used(split) > 1 else Split(1, 1)


def column_tiles(columns: int, split: Split) -> int:
    """Tiles side by side that a core has of so many columns."""
    return -(-(split.each * columns) // (split.lead * TILE))


def tile_bytes(tensor: Tensor) -> int:
    """Bytes of a tile in DRAM: one page, or one for each plane."""
    planes = tensor.tiled.planes if tensor.tiled is not None else 1
    return TILE_BYTES[tensor.dtype] if planes == 1 else planes * TILE_BYTES["bf16"]


def stream_seconds(step: Product, tensor: Tensor, split: Split, device: Device) -> float:
    """Time to stream a product's matrix: the DRAM's, or a core's own port or matrix unit if that is slower."""
    tiles = column_tiles(size(step.columns), split) * -(-size(step.k) // TILE)
    bytes_ = tile_bytes(tensor)
    on_core = max(bytes_ / device.link_bytes, bytes_ / TILE_BYTES["bf16"] * TILE_CYCLES) / device.clock
    return tiles * max(used(split) * bytes_ / device.dram_bandwidth, on_core)


def fill(tiled: Tiled, shape: Sequence[int], split: Split | None) -> Tiled:
    """The order of a tensor whose product's results are split so (None: one core has all of it)."""
    deal = split or Split(1, 1)
    dealt = replace(tiled, split=deal, cores=used(deal))
    across = dealt.sizes(shape).column_tiles
    block = -(-across // -(-across // BLOCK))  # as few blocks as the registers allow, and those even
    return replace(dealt, block=block)
