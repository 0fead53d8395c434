"""Histories, and attention over them.

Input: a history's entry (`Def`) or an `Attend`, and the draft.  Output: an `Entry`, with the windows that expressions
read; an `Attention` for an `Attend`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from cdrmix.ir.array_statements import Attention, Entry, Side
from cdrmix.ir.arrays import Array, Indices
from cdrmix.ir.forms import Attend
from cdrmix.ir.nodes import Def, DType, Index, Node, Ref
from cdrmix.ir.places import evaluate
from cdrmix.ir.types import NARROW
from cdrmix.ir.walk import size

from .draft import Draft, data, named, refuse
from .elements import over, valued
from .values import bare, flat, full, held, to_float


def enter(d: Def, draft: Draft) -> None:
    """This token's entry of a history; its windows, if an expression reads them."""
    history = next(h for h in draft.cell.histories if h.name == d.ref.name)
    draft.say(d.span)
    value = held(over(draft, d.value, d.indices), d.dtype, draft)
    entry = draft.local(f"{history.name}_{'new' if draft.traits.by_weight else 'entry'}")
    past = draft.local(f"{history.name}_past") if draft.traits.resets and draft.mode == "sequence" else None
    window = there = None
    if d.ref in draft.uses or draft.mode == "step":
        window, there = draft.local(history.name), draft.local("there")
        indices = (Index("", history.window), *d.indices)
        draft.known(d.ref, window, indices, data(history.dtype), zero=True)
        mask = Array("local", arg=there, type="bool", dims=indices[:1], lead=True)
        if history.window.size in draft.masks:
            there = there if draft.traits.resets else None
        draft.masks.setdefault(history.window.size, mask)
    draft.add(Entry(entry, history.name, value, history.window.size, window, there, d.indices, past))
    before = Array("local", arg=past, lead=True) if past is not None else None
    draft.entries[history.name] = named(entry, value), before


def attend(a: Attend, draft: Draft) -> None:
    """One attention: heads flat, in an order in which neighbours share a key."""
    draft.say(a.span)
    scored = {i for p in a.parts for n in (p.query, p.key) for i in n.free} | {*(a.bias.free if a.bias else ())}
    lone = [x.arg for x in a.value.args if x.op == "index"]
    own = tuple(i for i in a.value.free if i in a.indices and i in lone and i not in scored)  # the values' features
    heads = tuple(i for i in a.indices if i not in own)
    readings = [_reading(p.key, p.contract) for p in a.parts] + [_reading(a.value, own)]
    heads = _grouped(heads, readings)
    shared = {side.shared(heads) for side in readings}
    grouped = len(shared) == 1 and shared != {0}
    queries = []
    for p in a.parts:
        query = over(draft, p.query, (*heads, *p.contract))
        queries.append(flat(query, ("heads", heads), ("features", p.contract)))  # [heads, features]
    sides = [_side(r, heads, grouped, draft) for r in readings]
    queries, sides, dtype = _of_one_type(queries, sides, draft)
    bias = None if a.bias is None else _bias(a, a.bias, heads, draft)
    name, found = draft.local(a.name), (*heads, *own)
    (*keys, values), scale, shape = sides, float(a.scale), (size(heads), size(own))
    draft.add(Attention(name, tuple(queries), tuple(keys), values, scale, bias, shape, a.indices, found))
    result = draft.known(Ref("def", a.name), name, a.indices, data(dtype))
    if dtype != a.dtype and a.dtype in NARROW:
        draft.define(Ref("def", a.name), draft.let(a.name, held(result, a.dtype, draft)), a.indices)


def _of_one_type(queries: list[Array], sides: list[Side], draft: Draft) -> tuple[list[Array], list[Side], DType]:
    """What an attention is given, and the type that it has: a narrow one where all of it is held so, else f32."""
    (dtype, *others) = {s.entry.type for s in sides}
    if not others and dtype in NARROW:
        found = [x for q in queries if (x := bare(q, dtype)) is not None]  # type: ignore[arg-type]
        if len(found) == len(queries):
            return found, sides, dtype  # type: ignore[return-value]
    return queries, [replace(s, entry=to_float(s.entry, draft)) for s in sides], "f32"


@dataclass(frozen=True, slots=True)
class _Reading:
    """The keys or the values of an attention: which of an entry's axes are features; the others choose a head's key."""

    read: Node
    sizes: tuple[int, ...]
    features: tuple[int, ...]
    groups: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """How many groups and how many features there are."""
        return prod(self.sizes[p] for p in self.groups), prod(self.sizes[p] for p in self.features)

    def table(self, heads: Indices) -> NDArray[np.int64]:
        """The flat place of the key that each head, flat, reads."""
        found = np.zeros([i.axis.size for i in heads], np.int64)
        for p in self.groups:
            found = found * self.sizes[p] + evaluate(self.read.args[p + 1], heads).astype(np.int64)
        return found.reshape(-1)

    def shared(self, heads: Indices) -> int:
        """How many keys there are when neighbouring heads share them evenly; 0 when they do not."""
        table, (groups, _) = self.table(heads), self.shape
        even = len(table) % groups == 0 and bool((table == np.arange(len(table)) // (len(table) // groups)).all())
        return groups if even else 0


def _reading(read: Node, own: Sequence[Index]) -> _Reading:
    at = [x.arg if x.op == "index" else None for x in read.args[1:]]
    features = tuple(at.index(i) for i in own)
    groups = tuple(p for p in range(len(at)) if p not in features)
    return _Reading(read, tuple(a.size for a in read.arg.view[1:]), features, groups)


def _side(r: _Reading, heads: Indices, grouped: bool, draft: Draft) -> Side:
    """The entries as [groups, features]; a key a head unless heads share them."""
    name = r.read.arg.ref.name
    history = next(h for h in draft.cell.histories if h.name == name)
    declared = tuple(a.size for a in history.axes)
    table = None if grouped else tuple(int(p) for p in r.table(heads))
    order = (*r.groups, *r.features)
    return Side(name, history.window.size, *draft.entries[name], declared, r.sizes, order, r.shape, table)


def _grouped(heads: Indices, sides: Sequence[_Reading]) -> Indices:
    """The heads with those that choose the key in front."""
    for side in sides:
        chosen = [x.arg for p, x in enumerate(side.read.args[1:]) if x.op == "index" and p in side.groups]
        front = [i for i in chosen if i in heads]
        order = (*front, *(i for i in heads if i not in front))
        if all(s.shared(order) for s in sides):
            return order
    return heads


def _bias(a: Attend, bias: Node, heads: Indices, draft: Draft) -> Array:
    """The bias over heads and age, [heads, window]."""
    x = valued(draft, bias, (*heads, a.t))
    if x.lead:
        message = "the bias of an attention depends on the token"
        raise refuse("E0904", a.span, message, "give the softmax an equation of its own")
    return flat(full(x, (*heads, a.t), draft, lead=False), ("heads", heads), ("features", (a.t,)))
