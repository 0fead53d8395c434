"""Reads as loads: where an element lies in its array, and when it is there at all.

Input: a `read` node over the draft's names.  Output: a `ir.steps.Load`.

A history is a ring: the entry of age t is at (pos - t) mod window, and only while t <= pos.  What was made of a history
is guarded the same way.  A parameter read at a place that depends on the token is fetched by its row.
"""

from __future__ import annotations

from math import prod
from typing import Literal

import numpy as np

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Axis, Index, Node
from cdrmix.ir.steps import Copy, Load

from .. import plan
from .draft import Draft, refuse

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
    when = _present(draft, [n.args[p] for p in places])
    return _plain(n.arg.ref.name, n.arg.view, n.args, when, fill)


def _plain(
    name: str, view: tuple[Axis, ...], at: tuple[Node, ...], when: Node | None = None, fill: float = 0.0
) -> Load:
    if not view:
        return Load(name, (1,), (build.const(0),), when, fill)
    return Load(name, tuple(a.size for a in view), at, when, fill if when is not None else 0.0)


def _present(draft: Draft, ages: list[Node]) -> Node | None:
    """The condition that the entries of these ages are there; None when they always are."""
    found = None
    for age in ages:
        if age.op == "const" and age.arg == 0:
            continue
        one = build.node("le", age, draft.token(1))
        found = one if found is None else build.node("and", found, one)
    return found


def _ring(draft: Draft, n: Node, fill: float) -> Load:
    name = n.arg.ref.name
    window = draft.arrays[name].shape[0]
    if n.arg.view[0].size != window:
        raise refuse(n.span, f"`{name}` is read with its ages merged into another axis", "read it by age first")
    age = n.args[0]
    if window == 1:
        return _plain(name, n.arg.view, (build.const(0), *n.args[1:]))
    slot = build.node(
        "mod", build.node("sub", build.add(draft.token(1), build.const(window)), age), build.const(window)
    )
    return _plain(name, n.arg.view, (slot, *n.args[1:]), _present(draft, [age]), fill)


def _param(draft: Draft, n: Node) -> Load:
    """A parameter; of one that is read at places that depend on the token, only the rows there are fetched."""
    name, at, view = n.arg.ref.name, n.args, tuple(a.size for a in n.arg.view)
    given = draft.given[name]
    front = max((p + 1 for p, a in enumerate(at) if walk.has_reads(a)), default=0)
    free = build.union(a.free for a in at[:front])
    worth = prod(given.shape) > SMALL or not (given.banks or free)
    if not worth or front not in range(1, len(at)) or walk.size(free) > MOST_ROWS:
        return _plain(vector(draft, name), n.arg.view, at)
    count = prod(view[:front])
    if name in draft.tables and draft.tensors[draft.tables[name]].shape[0] != count:
        return _plain(vector(draft, name), n.arg.view, at)
    place = at[0]
    for size, a in zip(view[1:front], at[1:front], strict=True):
        place = build.add(build.mul(place, build.const(size)), a)
    if not free:
        return _plain(row(draft, name, count, place), n.arg.view[front:], at[front:])
    return _plain(rows(draft, name, count, place, free), (*(i.axis for i in free), *n.arg.view[front:]),
                  (*map(build.index, free), *at[front:]))  # fmt: skip


def row(draft: Draft, name: str, count: int, place: Node) -> str:
    """The array with one row of a parameter of `count` rows."""
    key = (name, place, ())
    if key not in draft.rows:
        given = draft.given[name]
        if name not in draft.tables:
            tensor = draft.tables[name] = draft.fresh(f"{name}_rows")
            each = prod(given.shape) // count
            draft.tensors[tensor] = plan.Tensor(tensor, "rows", kept(draft, name), (count, each))
        array = draft.rows[key] = draft.array(f"{name}_row", (prod(given.shape) // count,))
        draft.add(plan.Fetch(array, draft.tables[name], place, texts=(f"a row of {name}",)))
    return draft.rows[key]


def rows(draft: Draft, name: str, count: int, place: Node, free: tuple[Index, ...]) -> str:
    """The array with a row of a parameter for each value of some indices."""
    key = (name, place, free)
    if key not in draft.rows:
        each = prod(draft.given[name].shape) // count
        many = walk.sizes(free)
        array = draft.array(f"{name}_chosen", (*many, each))
        i = Index("i", Axis("row", each))
        for at in np.ndindex(*many):
            one = walk.substitute(place, dict(zip(free, map(build.const, at), strict=True)))
            source = Load(row(draft, name, count, one), (each,), (build.index(i),))
            to = (*map(build.const, at), build.index(i))
            draft.add(Copy(array, (i,), source, to))
        draft.rows[key] = array
    return draft.rows[key]


def vector(draft: Draft, name: str) -> str:
    """The array that holds a parameter whole, fetched when the program begins."""
    if name not in draft.arrays:
        draft.arrays[name] = plan.Array(name, draft.given[name].shape or (1,), memory="vectors")
        draft.vectors[name] = None
    return name


def kept(draft: Draft, name: str) -> Literal["f32", "bf16"]:
    """The type in which a matrix lies in DRAM."""
    return "f32" if draft.given[name].stored == "f32" else "bf16"
