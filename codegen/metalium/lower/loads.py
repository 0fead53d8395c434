"""Reads as loads: where an element lies in its array, and when it is there at all.

Input: a `read` node over the draft's names.  Output: a `ir.steps.Load`.

A history is a ring: the entry of age t is at (pos - t) mod window, and only while t <= pos.  What was made of a history
is guarded the same way.  A parameter read at a place that depends on the token is fetched by its row.
"""

from __future__ import annotations

from functools import partial, reduce
from math import prod
from typing import Literal

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Axis, Index, Node
from cdrmix.ir.steps import Copy, Load

from .. import plan
from .draft import Draft, every, flat, refuse

MOST_ROWS = 64
"""Rows that are fetched one by one."""
SMALL = 4096
"""Elements of a table that is held in L1 though only chosen rows of it are read: an expert's vectors, say."""


def load(draft: Draft, n: Node, fill: float = 0.0) -> Load:
    """See the module; `fill` stands for entries that are not there."""
    for a in n.args:
        if not draft.is_whole(a):
            raise refuse(n.span, "a place that is worked out from numbers", "choose places by `top`, or from indices")
    match n.arg.ref.kind:
        case "param":
            return _param(draft, n)
        case "history":
            return _ring(draft, n, fill)
    places = walk.window_positions(n.arg.view, draft.windows.get(n.arg.ref, frozenset()))
    return _plain(n.arg.ref.name, n.arg.view, n.args, _present(draft, [n.args[p] for p in places]), fill)


def _plain(
    name: str, view: tuple[Axis, ...], at: tuple[Node, ...], when: Node | None = None, fill: float = 0.0
) -> Load:
    if not view:
        return Load(name, (1,), (build.const(0),), when, fill)
    return Load(name, tuple(a.size for a in view), at, when, fill if when is not None else 0.0)


def _present(draft: Draft, ages: list[Node]) -> Node | None:
    """The condition that the entries of these ages are there; None when they always are."""
    found = [build.node("le", age, draft.token(1)) for age in ages if age.op != "const" or age.arg != 0]
    return reduce(partial(build.node, "and"), found) if found else None


def _ring(draft: Draft, n: Node, fill: float) -> Load:
    name, age = n.arg.ref.name, n.args[0]
    window = draft.arrays[name].shape[0]
    if n.arg.view[0].size != window:
        raise refuse(n.span, f"`{name}` is read with its ages merged into another axis", "read it by age first")
    if window == 1:
        return _plain(name, n.arg.view, (build.const(0), *n.args[1:]))
    begin = build.sub(build.add(draft.token(1), build.const(window)), age)
    slot = build.node("mod", begin, build.const(window))
    return _plain(name, n.arg.view, (slot, *n.args[1:]), _present(draft, [age]), fill)


def _param(draft: Draft, n: Node) -> Load:
    """A parameter; of one that is read at places that depend on the token, only the rows there are fetched."""
    name, at, view = n.arg.ref.name, n.args, n.arg.view
    given = draft.given[name]
    front = max((p + 1 for p, a in enumerate(at) if walk.has_reads(a)), default=0)
    free = build.union(a.free for a in at[:front])
    count = prod(a.size for a in view[:front])
    table = draft.tensors[draft.tables[name]].shape[0] if name in draft.tables else count
    worth = prod(given.shape) > SMALL or not (given.banks or free)
    if not worth or front not in range(1, len(at)) or walk.size(free) > MOST_ROWS or table != count:
        return _plain(vector(draft, name), view, at)
    place = flat(at[:front], [a.size for a in view[:front]])
    found = rows(draft, name, count, place, free) if free else row(draft, name, count, place)
    return _plain(found, (*(i.axis for i in free), *view[front:]), (*map(build.index, free), *at[front:]))


def row(draft: Draft, name: str, count: int, place: Node) -> str:
    """The array with one row of a parameter of `count` rows."""
    key, each = (name, place, ()), prod(draft.given[name].shape) // count
    if key not in draft.rows:
        if name not in draft.tables:
            tensor = draft.tables[name] = draft.fresh(f"{name}_rows")
            draft.tensors[tensor] = plan.Tensor(tensor, "rows", kept(draft, name), (count, each))
        array = draft.rows[key] = draft.array(f"{name}_row", (each,))
        draft.add(plan.Fetch(array, draft.tables[name], place, texts=(f"a row of {name}",)))
    return draft.rows[key]


def rows(draft: Draft, name: str, count: int, place: Node, free: tuple[Index, ...]) -> str:
    """The array with a row of a parameter for each value of some indices."""
    key, each = (name, place, free), prod(draft.given[name].shape) // count
    if key not in draft.rows:
        array = draft.rows[key] = draft.array(f"{name}_chosen", (*walk.sizes(free), each))
        i = Index("i", Axis("row", each))
        for by in every(free):
            one = row(draft, name, count, walk.substitute(place, by))
            source = Load(one, (each,), (build.index(i),))
            draft.add(Copy(array, (i,), source, (*by.values(), build.index(i))))
    return draft.rows[key]


def vector(draft: Draft, name: str) -> str:
    """The array that holds a parameter whole, fetched when the program begins."""
    if name not in draft.arrays:
        draft.arrays[name] = plan.Array(name, draft.given[name].shape or (1,), memory="vectors")
    return name


def kept(draft: Draft, name: str) -> Literal["f32", "bf16"]:
    """The type in which a matrix lies in DRAM."""
    return "f32" if draft.given[name].stored == "f32" else "bf16"
