"""Reads: views, fixed places, computed places, places picked at run time.

Input: a `read` node and the draft.  Output: an `Array` whose axes are the indices that stand alone, in the order of the
view, and those of computed places.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from cdrmix.ir.arrays import Array, Sizes, Stored, seen
from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.places import affine, terms_of
from cdrmix.ir.walk import sizes, window_positions

from .draft import Draft, Symbol, own

Lower = Callable[[Node, Draft], Array]


def read(n: Node, draft: Draft, lower: Lower) -> Array:
    """A read as an array."""
    symbol = draft.symbol(n.arg.ref, n.span)
    if symbol.value.type == "number":
        return symbol.value
    windows = window_positions(n.arg.view, draft.windows.get(n.arg.ref, frozenset()))
    over = {n.args[p].arg for p in windows if n.args[p].op == "index"}
    return clipped(_placed(n, symbol, draft, lower), draft.here - over, draft)


def clipped(x: Array, over: Collection[Index], draft: Draft) -> Array:
    """The first places of these axes, as many as the windows that are met have."""
    axes = tuple(i for i in x.dims if i in over and i in draft.here)
    if not axes or not draft.traits.short_windows or draft.mode != "sequence":
        return x
    return replace(seen("clip", x, axes, x.dims, *map(draft.there, axes)), lead=x.lead)


def _placed(n: Node, symbol: Symbol, draft: Draft, lower: Lower) -> Array:
    view = tuple(a.size for a in n.arg.view)
    value, has = symbol.value, symbol.has
    if view != sizes(symbol.indices):
        value, has = _viewed(symbol, view, n.args, draft), (True,) * len(view)
    places = [(a, size) for a, size, there in zip(n.args, view, has, strict=True) if there]
    dims = _alone(places)
    x = replace(value, dims=dims)
    fixed = tuple((p, int(a.arg)) for p, (a, _) in enumerate(places) if a.op == "const")
    if fixed:
        kept = [p for p, (a, _) in enumerate(places) if a.op != "const"]
        x = seen("at", x, fixed, [dims[p] for p in kept])
        places = [places[p] for p in kept]
    moving = [p for p, (a, _) in enumerate(places) if a.op != "index" or a.arg != x.dims[p]]
    if len(moving) == 1 and (moved := _moved(x, moving[0], *places[moving[0]])) is not None:
        return moved
    return _taken(n, x, {p: lower(places[p][0], draft) for p in moving}, [s for _, s in places], draft)


def _viewed(symbol: Symbol, view: Sizes, args: Sequence[Node], draft: Draft) -> Array:
    """The symbol under another view; of a name, under a name of its own, made once a function."""
    value, dims, old = symbol.value, own(view), sizes(symbol.indices)
    if value.op == "stored":
        return replace(value, arg=Stored(value.arg.name, value.arg.shape, view), dims=dims)
    if not all(symbol.has):
        value = seen("spread", value, (symbol.has, old), own(old))
    x = seen("view", value, (old, view), dims)
    if symbol.value.op != "local":
        return x
    letters = "".join(a.arg.name[0] if a.op == "index" else "x" for a in args)
    hint = symbol.value.arg.hint.removesuffix(draft.suffix)
    return draft.shared(f"{hint}_{letters}", x)


def _alone(places: Sequence[tuple[Node, int]]) -> tuple[Index, ...]:
    """The index that runs over a whole axis, standing alone at its place and nowhere else; one of its own elsewhere."""
    inside = [i for a, _ in places for i in a.free]
    own_ = own([size for _, size in places])
    alone = [a.op == "index" and a.arg.axis.size == size and inside.count(a.arg) == 1 for a, size in places]
    return tuple(a.arg if lone else i for lone, (a, _), i in zip(alone, places, own_, strict=True))


def _moved(x: Array, p: int, place: Node, size: int) -> Array | None:
    """A place that is `i + c` as a slice, or `last - i` as a flip."""
    dims = (*x.dims[:p], *place.free[:1], *x.dims[p + 1 :])
    terms = terms_of([place], [1])
    if len(set(dims)) < len(x.dims) or any(n.op not in ("index", "const") for n, _ in terms):
        return None
    found = affine(terms)
    assert found is not None
    start, steps = found
    match [(i.axis.size, step) for i, step in steps.items()]:
        case [(count, 1)] if count < size and 0 <= start <= size - count:
            return seen("slice", x, (p, start, size), dims)
        case [(count, -1)] if count == size and start == size - 1:
            return seen("flip", x, p, dims)
    return None


def _taken(n: Node, x: Array, places: Mapping[int, Array], view: Sequence[int], draft: Draft) -> Array:
    """Computed places: the axes they stand at are read there."""
    if not places:
        return x
    at, given = tuple(places), tuple(places.values())
    rest = [d for p, d in enumerate(x.dims) if p not in places]
    found = [i for i in draft.order if any(i in y.dims for y in given)]
    how = at, tuple(view)
    if not any(y.lead for y in given):
        first = min(at)
        return seen("index", x, how, (*rest[:first], *found, *rest[first:]), *given)
    if x.lead:
        return seen("pick", x, how, (*rest, *found), *given)
    whole = x.op == "stored" and x.arg.sizes is None and at == (0,) and len(view) == len(n.args)
    return seen("rows", x, (*how, whole), (*found, *rest), *given)
