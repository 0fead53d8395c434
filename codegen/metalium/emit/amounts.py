"""Amounts in the kernels: how many of something a core has, and where its part begins.

An `Amount` is a number that is known now, or the C++ of one; which it is decides whether there is a loop, a condition
or neither, before any text is put together.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan import TILE, Array, Split
from .names import share_name


@dataclass(frozen=True, slots=True)
class Amount:
    """`known`, or the text `cpp`; `single` where it is no sum or product."""

    known: int | None = None
    cpp: str = ""
    single: bool = True

    def __str__(self) -> str:
        return self.cpp if self.known is None else str(self.known)

    def times(self, factor: int) -> Amount:
        """So many times as much."""
        if self.known is not None:
            return Amount(self.known * factor)
        return self if factor == 1 else Amount(None, f"{self} * {factor}", False)

    def tiles(self) -> Amount:
        """The tiles that hold so many rows or columns."""
        if self.known is not None:
            return Amount(tiles_of(self.known))
        return Amount(None, f"(({self} + TILE_SIDE - 1) / TILE_SIDE)")


ZERO, ONE = Amount(0), Amount(1)


def total(*parts: Amount) -> Amount:
    """A sum."""
    found = [p for p in parts if p.known != 0]
    if len(found) < 2:
        return found[0] if found else ZERO
    return Amount(None, " + ".join(map(str, found)), False)


def tiles_of(size: int) -> int:
    """Tiles that hold so many rows or columns."""
    return -(-size // TILE)


def portion(count: int, split: Split | None) -> tuple[Amount, Amount]:
    """First and number of a core's part of `count` things that a split deals out evenly."""
    if split is None:
        return ZERO, Amount(count)
    share = share_name(split)
    first, own = Amount(None, f"{share}.first"), Amount(None, f"{share}.count")
    return first.times(count // split.lead), own.times(count // split.lead)


def own_elements(array: Array) -> tuple[Amount, Amount]:
    """First element and number of elements of an array that a core holds; of tiles, words."""
    return portion(array.words, array.split)
