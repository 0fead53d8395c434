"""What an expression of an op body is: its axes, its free indices, and how it is written as IR.

Input: operands that are `Value`s already.
Output: a `Value`.  Its `shape` are the axes that no index has named yet; `emit` writes it with a node for each of
them, once all ranges are known.  Axes are checked by who makes the value, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdrmix.check.axes.axes import AxisVar, IndexVar
from cdrmix.check.names.scope import Static
from cdrmix.diagnose import Span
from cdrmix.ir import build
from cdrmix.ir.nodes import DType, Node, Ref
from cdrmix.syntax import ast

if TYPE_CHECKING:
    from cdrmix.check.body.draft import Unit, Writing

Slots = tuple[Node, ...]
Emit = Callable[["Writing", Slots], Node]
Bounds = Callable[[], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Place:
    """A value that is stored under a name, so that it can be read under another view and given to a part.

    `lead` are the axes already indexed (None: that of the lone index there).  `plain`: the view is the axes under
    which the name is stored.
    """

    ref: Callable[[Writing], Ref]
    lead: tuple[tuple[AxisVar | None, Value], ...]
    plain: bool
    unit: Unit | None = None


@dataclass(eq=False, slots=True)
class Value:
    """A value of one token, or one that no token changes (`varies` is false).

    `const` is its value where that is known; `bounds` gives the least and the largest value of index arithmetic;
    `index` is set for a lone index, `into` for a place on an axis chosen at run time; `leaves` is the
    read that has left axes of a value with more.
    """

    shape: tuple[AxisVar, ...]
    dtype: DType
    emit: Emit
    span: Span
    free: tuple[IndexVar, ...] = ()
    varies: bool = False
    const: Static | None = None
    bounds: Bounds | None = None
    index: IndexVar | None = None
    into: AxisVar | None = None
    place: Place | None = None
    leaves: ast.Expr | None = None


def union(groups: Iterable[Iterable[IndexVar]]) -> tuple[IndexVar, ...]:
    """The index variables of all groups, each once."""
    return tuple(dict.fromkeys(v for group in groups for v in group))


def constant(value: Static, span: Span) -> Value:
    """A value known before the program runs."""

    def emit(w: Writing, slots: Slots) -> Node:
        return build.const(value, span)  # type: ignore[arg-type]  # who emits has checked that it is a number

    dtype: DType = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "work"
    bounds = None if isinstance(value, bool) or not isinstance(value, int) else lambda: (value, value)
    return Value((), dtype, emit, span, const=value, bounds=bounds)


def context(name: str, span: Span) -> Value:
    """`pos`, and in init rules `layer` and `layers`."""
    return Value((), "int", lambda w, slots: build.context(name, span), span, varies=name == "pos")


def index(var: IndexVar, span: Span) -> Value:
    """An index as a value; its range may become known later."""

    def bounds() -> tuple[int, int]:
        return 0, (var.axis.size if var.axis else 1) - 1

    return Value((), "int", lambda w, slots: w.node(var), span, (var,), bounds=bounds, index=var)


def stored(
    place: Place, shape: tuple[AxisVar, ...], dtype: DType, varies: bool, into: AxisVar | None, span: Span
) -> Value:
    """A read of a name."""

    def emit(w: Writing, slots: Slots) -> Node:
        w.draft.spend(span)
        ref = place.ref(w)
        axes = [w.draft.axis(axis or _own(item)) for axis, item in place.lead] + [w.draft.axis(a) for a in shape]
        items = [item.emit(w, ()) for _, item in place.lead]
        return build.read(ref, axes, [*items, *slots], dtype, span)

    free = union(item.free for _, item in place.lead)
    return Value(shape, dtype, emit, span, free, varies, into=into, place=place)


def _own(item: Value) -> AxisVar:
    assert item.index is not None and item.index.axis is not None
    return item.index.axis


def under_view(value: Value, axes: tuple[AxisVar, ...], span: Span) -> Value:
    """A stored value with its axes read as others of the same elements."""
    assert value.place is not None
    place = Place(value.place.ref, value.place.lead, False, value.place.unit)
    return stored(place, axes, value.dtype, value.varies, value.into, span)


def indexed(value: Value, items: Sequence[Value], expr: ast.Expr) -> Value:
    """`value[items]`, which `expr` is; no more items than it has axes."""
    n, span = len(items), expr.span
    if value.place is not None:
        lead = (*value.place.lead, *zip(value.shape, items, strict=False))
        place = Place(value.place.ref, lead, value.place.plain, value.place.unit)
        found = stored(place, value.shape[n:], value.dtype, value.varies, value.into, span)
    else:

        def emit(w: Writing, slots: Slots) -> Node:
            return value.emit(w, (*(item.emit(w, ()) for item in items), *slots))

        free = union((value.free, *(item.free for item in items)))
        found = Value(value.shape[n:], value.dtype, emit, span, free, value.varies, into=value.into)
    found.varies = value.varies or any(item.varies for item in items)
    found.leaves = expr if found.shape else None
    return found


def elementwise(op: str, operands: Sequence[Value], shape: tuple[AxisVar, ...], span: Span) -> Value:
    """An elementwise row; the axes of the operands are `shape` or none."""

    def emit(w: Writing, slots: Slots) -> Node:
        w.draft.spend(span)
        return build.node(op, *(a.emit(w, slots if a.shape else ()) for a in operands), span=span)

    found = Value(shape, dtype_of(op, operands), emit, span, union(a.free for a in operands))
    found.varies = any(a.varies for a in operands)
    found.leaves = next((a.leaves for a in operands if a.leaves is not None), None)
    if op in _BOUNDS and found.dtype == "int" and all(a.bounds for a in operands):
        compute, of = _BOUNDS[op], [a.bounds for a in operands if a.bounds]
        found.bounds = lambda: compute(*(bounds() for bounds in of))
    return found


def product(left: Value, right: Value, span: Span) -> Value:
    """`left @ right`."""

    def emit(w: Writing, slots: Slots) -> Node:
        w.draft.spend(span, 2)
        k = w.fresh(right.shape[0])
        a = left.emit(w, (*slots, build.index(k, span)))
        return build.reduce("sum", [k], build.mul(a, right.emit(w, (build.index(k, span),)), span=span), span)

    varies = left.varies or right.varies
    return Value(left.shape[:1], dtype_of("mul", (left, right)), emit, span, union((left.free, right.free)), varies)


def reduction(op: str, bound: Sequence[IndexVar], body: Value, span: Span) -> Value:
    """`op[bound](body)`."""

    def emit(w: Writing, slots: Slots) -> Node:
        w.draft.spend(span)
        indices = [w.open(v) for v in bound]
        return build.reduce(op, indices, body.emit(w, slots), span)

    free = tuple(v for v in body.free if v not in bound)
    return Value(body.shape, dtype_of(op, (body,)), emit, span, free, body.varies)


def dtype_of(op: str, operands: Sequence[Value]) -> DType:
    """The dtype of a row of these operands, by the IR's rule."""
    return build.result_dtype(op, [_stand_in(a) for a in operands])


def _stand_in(value: Value) -> Node:
    if isinstance(value.const, int | float):
        return build.const(value.const)
    return Node("read", dtype=value.dtype)


# --- the range of index arithmetic ---------------------------------------------------------------------------------
Interval = tuple[int, int]


def _corners(a: Interval, b: Interval) -> Interval:
    found = [x * y for x in a for y in b]
    return min(found), max(found)


def _floordiv(a: Interval, b: Interval) -> Interval:
    if b[0] <= 0 <= b[1]:
        return -(2**63), 2**63
    found = [x // y for x in a for y in b]
    return min(found), max(found)


def _mod(a: Interval, b: Interval) -> Interval:
    if b[0] <= 0:
        return -(2**63), 2**63
    return a if a[0] >= 0 and a[1] < b[0] else (0, b[1] - 1)


def _abs(a: Interval) -> Interval:
    least = 0 if a[0] <= 0 <= a[1] else min(abs(a[0]), abs(a[1]))
    return least, max(abs(a[0]), abs(a[1]))


_BOUNDS: dict[str, Callable[..., Interval]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _corners,
    "neg": lambda a: (-a[1], -a[0]),
    "floordiv": _floordiv,
    "mod": _mod,
    "abs": _abs,
    "max": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "min": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
}
