"""Which reads stay on a core: whether a step's units read only the same units of an array.

Input: the indices a step runs over (outermost first), a load, and a number of units.
Output: whether unit u of the step reads within unit u of the array, for every u and every token.

The answer is worked out, not guessed from the form: the places along the leading axes that settle the unit are
evaluated for all values of the indices.  What depends on the token (`pos`, picks, values) is no place of a unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd, prod
from typing import Any

import numpy as np

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.places import evaluate
from cdrmix.ir.steps import Load, Product, Step, TopK

from ..plan import Array, Split, by_owner

ALIGNED = 16
"""Elements of 32 bits in 64 bytes: cores' shares begin at such places of the whole."""


def split_of(lead: int, cores: int, least: int = 1) -> Split:
    """`lead` units over at most `cores` cores, in whole multiples of `least` units; the coarsest name of that deal."""
    each = -(-lead // cores)
    each = -(-each // least) * least
    common = gcd(lead, each)
    return Split(lead // common, each // common)


def used(split: Split) -> int:
    """How many cores hold units of a split."""
    return -(-split.lead // split.each)


def is_aligned(elements: int, split: Split) -> bool:
    """Whether every core's share of so many elements begins where DRAM and NoC can move it without a shift."""
    return used(split) == 1 or (elements % split.lead == 0 and split.each * elements // split.lead % ALIGNED == 0)


def own(split: Split, core: int) -> range:
    """The units of a core."""
    return range(min(split.lead, core * split.each), min(split.lead, (core + 1) * split.each))


def is_local(space: Sequence[Index], view: Sequence[int], at: Sequence[Node], units: int) -> bool:
    """Whether a step over `space` reads `view` at `at` in its own unit, both of so many units."""
    if walk.size(space) % units or prod(view) % units:
        return False
    sizes = [i.axis.size for i in space]
    mine, theirs = _leading(sizes, units), _leading(view, units)
    leading = at[:theirs]
    if any(m.op in ("context", "read") for n in leading for m in walk.nodes(n)):
        return False
    over = build.union((space[:mine], *(n.free for n in leading)))
    own_unit = _flat([build.index(i) for i in space[:mine]], over, sizes[:mine]) // (prod(sizes[:mine]) // units)
    its_unit = _flat(leading, over, view[:theirs]) // (prod(view[:theirs]) // units)
    return bool(np.all(own_unit == its_unit))


def finest(space: Sequence[Index], load: Load, lead: int = 0) -> int:
    """The most units, at the ends of the view's axes, with which the load stays in the step's own unit; 1 when none.

    They are whole parts of `lead`, the units that the step can be dealt out in (0: any).
    """
    for axes in range(len(load.view), 0, -1):
        units = prod(load.view[:axes])
        if units > 1 and lead % units == 0 and is_local(space, load.view, load.at, units):
            return units
    return 1


def _leading(sizes: Sequence[int], units: int) -> int:
    """How many axes settle the unit."""
    return next(axes for axes in range(len(sizes) + 1) if prod(sizes[:axes]) % units == 0)


def _flat(places: Sequence[Node], over: Sequence[Index], sizes: Sequence[int]) -> np.ndarray[Any, Any]:
    """The flat place at every value of some indices."""
    total: np.ndarray[Any, Any] = np.zeros((), np.int64)
    for place, size in zip(places, sizes, strict=True):
        total = total * size + evaluate(place, over)
    return total


def loaded(step: Step) -> dict[str, None]:
    """The arrays that a step's loads are of, in order."""
    return dict.fromkeys(load.array for load in step.parts.loads)


def wants_all(step: Step) -> bool:
    """Whether a step wants all of what it reads on every core, whatever the core's own units are."""
    return isinstance(step, TopK) or isinstance(step, Product) and step.streamed is not None and not step.lead


def stays(step: Step, name: str, split: Split, arrays: Mapping[str, Array]) -> bool:
    """Whether a step that is dealt out so reads an array of the same split at its own units only."""
    parts = step.parts
    if wants_all(step) or any(by_owner(step, arrays[out]) for out in parts.outs):
        return False
    return all(is_local(parts.space, x.view, x.at, split.lead) for x in parts.loads if x.array == name)
