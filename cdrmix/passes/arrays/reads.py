"""Reads: views, fixed places, computed places, places picked at run time.

Input: a `read` node and the draft.  Output: an `Array` whose axes are the indices that stand alone, in the order of the
view, and those of computed places.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from cdrmix.ir.arrays import Array, Stored
from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.walk import window_positions

from .draft import Draft, Symbol, own

Lower = Callable[[Node, Draft], Array]


def read(n: Node, draft: Draft, lower: Lower) -> Array:
    """A read as an array."""
    symbol = draft.symbol(n.arg.ref, n.span)
    if symbol.value.type == "number":
        return symbol.value
    over = {n.args[p].arg for p in window_positions(n.arg.view, draft.windows.get(n.arg.ref, frozenset()))
            if n.args[p].op == "index"}  # fmt: skip
    return clipped(_placed(n, symbol, draft, lower), draft.here - over, draft)


def clipped(x: Array, over: Collection[Index], draft: Draft) -> Array:
    """The first places of these axes, as many as the windows that are met have."""
    axes = tuple(i for i in x.dims if i in over and i in draft.here)
    if not draft.short or not axes:
        return x
    return Array("clip", (x, *(draft.there(i) for i in axes)), axes, x.type, x.dims, x.lead, None, x.absent_is_zero)


def _placed(n: Node, symbol: Symbol, draft: Draft, lower: Lower) -> Array:
    view = tuple(a.size for a in n.arg.view)
    value, has = symbol.value, symbol.has
    if view != symbol.sizes:
        value, has = _viewed(symbol, view, n.args, draft), (True,) * len(view)
    args = [a for a, there in zip(n.args, has, strict=True) if there]
    sizes = [s for s, there in zip(view, has, strict=True) if there]
    alone = _alone(args, sizes)
    dims = tuple(i if i is not None else Index(f"at {p}", n.arg.view[0]) for p, i in enumerate(alone))
    x = replace(value, dims=dims)
    fixed = tuple((p, int(a.arg)) for p, a in enumerate(args) if a.op == "const")
    if fixed:
        kept = [p for p in range(len(args)) if args[p].op != "const"]
        left = tuple(dims[p] for p in kept)
        x = Array("at", (x,), fixed, x.type, left, x.lead, None, x.absent_is_zero)
        args, sizes, alone = [args[p] for p in kept], [sizes[p] for p in kept], [alone[p] for p in kept]
    moving = [p for p, i in enumerate(alone) if i is None]
    if not moving:
        return x
    if len(moving) == 1:
        moved = _moved(x, args[moving[0]], moving[0], sizes[moving[0]])
        if moved is not None:
            return moved
    return _taken(n, x, {p: lower(args[p], draft) for p in moving}, sizes, args, draft)


def _viewed(symbol: Symbol, view: tuple[int, ...], args: Sequence[Node], draft: Draft) -> Array:
    """The symbol under another view; of a name, under a name of its own, made once a function."""
    value, dims = symbol.value, own(view)
    if value.op == "stored":
        return replace(value, arg=Stored(value.arg.name, value.arg.shape, view), dims=dims)
    name = value.arg if value.op == "local" else None
    if name is not None and (name, view) in draft.views:
        return draft.views[name, view]
    if not all(symbol.has):
        value = Array("spread", (value,), (symbol.has, symbol.sizes), value.type, own(symbol.sizes), value.lead)
    x = Array("view", (value,), (symbol.sizes, view), value.type, dims, value.lead, None, value.absent_is_zero)
    if name is None:
        return x
    letters = "".join(a.arg.name[0] if a.op == "index" else "x" for a in args)
    suffix = draft.suffix if draft.suffix and name.hint.endswith(draft.suffix) else ""
    hint = name.hint.removesuffix(suffix) if suffix else name.hint
    draft.views[name, view] = draft.let(f"{hint}_{letters}", x)
    return draft.views[name, view]


def _alone(args: Sequence[Node], sizes: Sequence[int]) -> list[Index | None]:
    """The index that runs over a whole axis, standing alone at its place and nowhere else, or None."""
    inside = [i for a in args for i in a.free]
    whole = [a.op == "index" and a.arg.axis.size == n for a, n in zip(args, sizes, strict=True)]
    return [a.arg if all_of_it and inside.count(a.arg) == 1 else None for a, all_of_it in zip(args, whole, strict=True)]


def _moved(x: Array, a: Node, p: int, size: int) -> Array | None:
    """A place that is `i + c` as a slice, or `last - i` as a flip."""
    dims = (*x.dims[:p], *a.free[:1], *x.dims[p + 1 :])
    if len(set(dims)) < len(x.dims):
        return None
    start = _start(a, size)
    if start is not None:
        return Array("slice", (x,), (p, start, size), x.type, dims, x.lead, None, x.absent_is_zero)
    turned = a.op == "sub" and a.args[0].op == "const" and a.args[0].arg == size - 1
    if turned and a.args[1].op == "index" and a.args[1].arg.axis.size == size:
        return Array("flip", (x,), p, x.type, dims, x.lead, None, x.absent_is_zero)
    return None


def _start(a: Node, size: int) -> int | None:
    """Where the slice begins that a place `i`, `i + c`, `c + i` or `i - c` runs over."""
    if a.op == "index":
        return 0 if a.arg.axis.size < size else None
    if a.op not in ("add", "sub"):
        return None
    left, right = a.args
    if a.op == "add" and left.op == "const":
        left, right = right, left
    if left.op != "index" or right.op != "const" or not isinstance(right.arg, int):
        return None
    start = right.arg if a.op == "add" else -right.arg
    return start if start >= 0 and start + left.arg.axis.size <= size else None


def _taken(
    n: Node, x: Array, places: dict[int, Array], sizes: Sequence[int], args: Sequence[Node], draft: Draft
) -> Array:
    """Computed places: the axes they stand at are read there."""
    at = tuple(places)
    rest = tuple(d for p, d in enumerate(x.dims) if p not in places)
    found = tuple(i for i in draft.order if any(i in y.dims for y in places.values()))
    given = (*places.values(),)
    if not any(y.lead for y in given):
        first = min(at)
        front = tuple(d for p, d in enumerate(x.dims) if p < first)
        dims, zero = (*front, *found, *rest[len(front) :]), x.absent_is_zero
        return Array("index", (x, *given), (at, tuple(sizes)), x.type, dims, x.lead, None, zero)
    if not x.lead:
        whole = x.op == "stored" and x.arg.sizes is None and at == (0,) and len(args) == len(n.args)
        return Array("rows", (x, *given), (at, tuple(sizes), whole), x.type, (*found, *rest), True)
    return Array("pick", (x, *given), (at, tuple(sizes)), x.type, (*rest, *found), True, None, x.absent_is_zero)
