"""Between the types of arrays, and across the border of a function.

Input: an `Array` and the draft it is in.  Output: the same value as data, as float64, as a truth value, over all axes;
as it is held, where that is narrower than what is computed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cdrmix.ir.arrays import Array, Type
from cdrmix.ir.nodes import DType, Index
from cdrmix.ir.types import NARROW, rounded

from .draft import Draft

_MOVES = frozenset({"view", "permute", "expand", "rename", "at", "slice", "flip", "unit", "spread"})
BOOLS = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not"})


def number(value: int | float | bool) -> Array:
    """A literal."""
    return Array("number", arg=value, type="number", const=value)


def cast(x: Array, to: Type) -> Array:
    """The value as another type."""
    return x if x.type == to else Array("cast", (x,), None, to, x.dims, x.lead, None, x.absent_is_zero)


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
    if x.op not in _MOVES and not (x.op == "contract" and x.arg.weight is not None):
        return None
    found = [bare(a, dtype) for a in (x.args if x.op == "contract" else x.args[:1])]
    if any(a is None for a in found):
        return None
    return replace(x, args=(*found, *x.args[len(found) :]), type=dtype)  # type: ignore[arg-type]


def _counted(x: Array) -> Array:
    """A truth value as 0 or 1; other numbers stay what they are."""
    if isinstance(x.const, bool):
        return number(int(x.const))
    return Array("whole", (x,), type="number") if x.const is None and x.op in BOOLS else x


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


def to_bool(x: Array) -> Array:
    """Where it is not zero."""
    return cast(x, "bool")


def to_int(x: Array) -> Array:
    """A truth value as 0 or 1."""
    if x.type == "number":
        return _counted(x)
    return cast(x, "int") if x.type == "bool" else x


def tensor(x: Array, draft: Draft) -> Array:
    """A number as a tensor; tensors stay what they are."""
    if x.type != "number":
        return x
    return Array("cast", (x,), None, "exact" if draft.mode == "init" else "float")


def ordered(x: Array, dims: Sequence[Index]) -> Array:
    """The value with those of its axes that are in `dims`, in their order."""
    wanted = tuple(i for i in dims if i in x.dims)
    return x if x.type == "number" or x.dims == wanted else replace(x, op="permute", args=(x,), arg=None, dims=wanted)


def full(x: Array, indices: Sequence[Index], draft: Draft, lead: bool = True, place: bool = False) -> Array:
    """The value over exactly `indices`, and the leading axes: what crosses the border of a function.

    It becomes data, unless it is a `place` on an axis.
    """
    if x.type == "number":
        return Array("expand", (x,), lead, "int" if place else "float", tuple(indices), lead)
    x = ordered(x if place else to_float(x, draft), indices)
    if (x.lead or not lead) and x.dims == tuple(indices):
        return x
    return Array("expand", (x,), lead, x.type, tuple(indices), lead or x.lead, None, x.absent_is_zero)


def viewed(x: Array, old: Sequence[int], new: Sequence[int], dims: Sequence[Index]) -> Array:
    """The last axes `old` seen as `new`, row-major, under the indices `dims`."""
    if [*old] == [*new]:
        return replace(x, dims=tuple(dims)) if x.op in ("local", "stored") else _renamed(x, tuple(dims))
    return Array("view", (x,), (tuple(old), tuple(new)), x.type, tuple(dims), x.lead, None, x.absent_is_zero)


def _renamed(x: Array, dims: tuple[Index, ...]) -> Array:
    """The value under other indices of the same sizes."""
    return x if x.dims == dims else Array("rename", (x,), None, x.type, dims, x.lead, x.const, x.absent_is_zero)
