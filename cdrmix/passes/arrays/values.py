"""Arrays made of arrays: place by place, along axes, between types, and across the border of a function.

Input: `Array`s and the draft they are in.  Output: their sum or product; the same value as data, as float64, as a truth
value, over all axes; as it is held, where that is narrower than what is computed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cdrmix.ir.arrays import Array, Type, seen, union
from cdrmix.ir.nodes import Axis, DType, Index
from cdrmix.ir.types import NARROW, rounded
from cdrmix.ir.walk import size, sizes

from .draft import Draft

MOVES = frozenset({"view", "permute", "expand", "rename", "at", "slice", "flip", "spread"})
"""Ways in which a tensor is seen, its elements being what they are."""
BOOLS = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not"})


def number(value: int | float | bool) -> Array:
    """A literal."""
    return Array("number", arg=value, type="number")


def elementwise(op: str, args: Sequence[Array], kind: Type, draft: Draft, zero: bool = False) -> Array:
    """An operation on arrays place by place."""
    return Array(op, tuple(args), None, kind, union(args, draft.order), any(x.lead for x in args), zero)


def along(op: str, x: Array, indices: Sequence[Index]) -> Array:
    """A reduction over axes that the value has."""
    return Array(op, (x,), tuple(indices), x.type, tuple(d for d in x.dims if d not in indices), x.lead)


# --- types ---------------------------------------------------------------------------------------------------------
def cast(x: Array, to: Type) -> Array:
    """The value as another type."""
    return x if x.type == to else replace(seen("cast", x, None, x.dims), type=to)


def held(x: Array, dtype: DType, draft: Draft) -> Array:
    """The value rounded to the type it is held in; anything but a narrow type changes nothing."""
    if dtype not in NARROW:
        return x
    if x.const is not None:
        return number(float(rounded(np.asarray(float(x.const)), dtype)))
    return bare(x, dtype) or cast(to_float(x, draft), dtype)  # type: ignore[arg-type]


def bare(x: Array, dtype: DType) -> Array | None:
    """The value as it was before it was widened from this type; a product of such as one that is rounded at once."""
    if x.type == dtype:
        return x
    if x.op == "cast":
        return x.args[0] if x.args[0].type == dtype else None
    if x.op not in MOVES and not (x.op == "contract" and x.arg.weight is not None):
        return None
    found = [bare(a, dtype) for a in x.args]
    if None in found:
        return None
    return replace(x, args=tuple(found), type=dtype)  # type: ignore[arg-type]


def _counted(x: Array) -> Array:
    """A truth value as 0 or 1; other numbers stay what they are."""
    if isinstance(x.const, bool):
        return number(int(x.const))
    return Array("whole", (x,), type="number") if x.op in BOOLS else x


def to_float(x: Array, draft: Draft) -> Array:
    """As the model's data.  Numbers stay numbers."""
    if x.type == "number":
        return _counted(x)
    if x.type == "float" or draft.mode == "init":
        return x
    found = cast(x, "float")
    return draft.shared("place", found) if x.type == "exact" and draft.traits.gradients else found


def to_exact(x: Array) -> Array:
    """As float64; the model's data stays what it is."""
    if x.type == "number":
        return _counted(x)
    return x if x.type in ("float", "exact") else cast(x, "exact")


def alike(found: Sequence[Array], draft: Draft) -> list[Array]:
    """All as data if any is, else all as float64; numbers stay numbers."""
    if draft.mode != "init" and any(x.type in ("float", "bool") for x in found):
        return [to_float(x, draft) for x in found]
    return [to_exact(x) for x in found]


def to_int(x: Array) -> Array:
    """A truth value as 0 or 1."""
    if x.type == "number":
        return _counted(x)
    return cast(x, "int") if x.type == "bool" else x


def tensor(x: Array, draft: Draft) -> Array:
    """A number as a tensor; tensors stay what they are."""
    return cast(x, "exact" if draft.mode == "init" else "float") if x.type == "number" else x


# --- axes ----------------------------------------------------------------------------------------------------------
def ordered(x: Array, dims: Sequence[Index]) -> Array:
    """The value with those of its axes that are in `dims`, in their order."""
    wanted = tuple(i for i in dims if i in x.dims)
    return x if x.type == "number" or x.dims == wanted else seen("permute", x, None, wanted)


def full(x: Array, indices: Sequence[Index], draft: Draft, lead: bool = True, place: bool = False) -> Array:
    """The value over exactly `indices`, and the leading axes: what crosses the border of a function.

    It becomes data, unless it is a `place` on an axis.
    """
    dims = tuple(indices)
    if x.type == "number":
        return Array("expand", (x,), lead, "int" if place else "float", dims, lead)
    x = ordered(x if place else to_float(x, draft), dims)
    return x if (x.lead or not lead) and x.dims == dims else replace(seen("expand", x, lead, dims), lead=lead or x.lead)


def viewed(x: Array, old: Sequence[int], new: Sequence[int], dims: Sequence[Index]) -> Array:
    """The axes `old` seen as `new`, row-major, under the indices `dims`."""
    if [*old] != [*new]:
        return seen("view", x, (tuple(old), tuple(new)), dims)
    if x.op in ("local", "stored"):
        return replace(x, dims=tuple(dims))
    return x if x.dims == tuple(dims) else seen("rename", x, None, dims)


def flat(x: Array, *axes: tuple[str, Sequence[Index]]) -> Array:
    """The value, over all these indices in order, with each group of them as one axis that has a name of its own."""
    dims = [Index(name, Axis(name, size(group))) for name, group in axes]
    return viewed(x, sizes(i for _, group in axes for i in group), sizes(dims), dims)
