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
from cdrmix.ir.arrays import Array
from cdrmix.ir.forms import Attend, Scored
from cdrmix.ir.interp_expr import Frame, expression
from cdrmix.ir.nodes import Axis, Def, DType, Index, Node, Ref
from cdrmix.ir.types import NARROW

from .casts import bare, full, held, to_float, viewed
from .draft import Draft, named, refuse
from .elements import valued


def enter(d: Def, draft: Draft) -> None:
    """This token's entry of a history; its windows, if an expression reads them."""
    history = next(h for h in draft.cell.histories if h.name == d.ref.name)
    draft.say(d.span)
    value = held(full(valued(draft, d.value, d.indices), d.indices, draft), d.dtype, draft)
    entry = draft.local(f"{history.name}_{'new' if draft.traits.by_weight else 'entry'}")
    past = draft.local(f"{history.name}_past") if draft.traits.resets and draft.mode == "sequence" else None
    ref = Ref("history", history.name)
    indices = (Index("", history.window), *d.indices)
    window = there = None
    if ref in draft.uses or draft.mode == "step":
        window, there = draft.local(history.name), draft.local("there")
        draft.known(ref, window, indices, zero=True, dtype=history.dtype)
        mask = Array("local", arg=there, type="bool", dims=indices[:1], lead=True)
        if history.window.size in draft.masks:
            there = there if draft.traits.resets else None
        draft.masks.setdefault(history.window.size, mask)
    draft.add(Entry(entry, history.name, value, history.window.size, window, there, d.indices, past))
    before = Array("local", arg=past, lead=True) if past is not None else None
    draft.entries[history.name] = named(entry, replace(value, dims=d.indices)), before


def attend(a: Attend, draft: Draft) -> None:
    """One attention: heads flat, in an order in which neighbours share a key."""
    draft.say(a.span)
    own = tuple(i for i in a.value.free if i in a.indices and _is_feature(i, a))
    heads = tuple(i for i in a.indices if i not in own)
    keys, values = [_Reading(p.key, p.contract) for p in a.parts], _Reading(a.value, own)
    heads = _grouped(heads, (*keys, values))
    shared = {side.shared(heads) for side in (*keys, values)}
    grouped = len(shared) == 1 and shared != {0}
    count = prod(i.axis.size for i in heads)
    queries = tuple(_query(p, heads, count, draft) for p in a.parts)
    sides = [side.made(draft, heads, grouped) for side in (*keys, values)]
    queries, sides, dtype = _of_one_type(queries, sides, draft)
    bias = None if a.bias is None else _bias(a, heads, draft)
    name = draft.local(a.name)
    found = (*heads, *own)
    draft.add(
        Attention(name, queries, tuple(sides[:-1]), sides[-1], a.t.axis.size, float(a.scale), bias,
                  tuple(i.axis.size for i in found), (count, values.inner), a.indices, found)
    )  # fmt: skip
    result = draft.known(Ref("def", a.name), name, a.indices, dtype=dtype)
    if dtype != a.dtype and a.dtype in NARROW:
        draft.define(Ref("def", a.name), draft.let(a.name, held(result, a.dtype, draft)), a.indices)


def _of_one_type(
    queries: tuple[Array, ...], sides: list[Side], draft: Draft
) -> tuple[tuple[Array, ...], list[Side], DType]:
    """What an attention is given, and the type that it has: a narrow one where all of it is held so, else f32."""
    (dtype, *others) = {s.entry.type for s in sides}
    if not others and dtype in NARROW:
        found = [bare(q, dtype) for q in queries]  # type: ignore[arg-type]
        if None not in found:
            return tuple(q for q in found if q is not None), sides, dtype  # type: ignore[return-value]
    return queries, [replace(s, entry=to_float(s.entry, draft)) for s in sides], "f32"


def _query(part: Scored, heads: Sequence[Index], count: int, draft: Draft) -> Array:
    """The queries of a part, [B, T, heads, features]."""
    indices = (*heads, *part.contract)
    x = full(valued(draft, part.query, indices), indices, draft)
    return _flattened(x, indices, count, prod(i.axis.size for i in part.contract))


def _flattened(x: Array, indices: Sequence[Index], rows: int, columns: int) -> Array:
    dims = tuple(Index(n, Axis(n, size)) for n, size in (("heads", rows), ("features", columns)))
    return viewed(x, [i.axis.size for i in indices], [rows, columns], dims)


def _is_feature(i: Index, a: Attend) -> bool:
    """Whether an index belongs to the values alone."""
    others = {i for p in a.parts for n in (p.query, p.key) for i in n.free}
    others |= set(a.bias.free) if a.bias is not None else set()
    return i not in others and any(x.op == "index" and x.arg == i for x in a.value.args)


@dataclass(slots=True)
class _Reading:
    """The keys or the values of an attention: which entry axes are features, and which key each head reads."""

    read: Node
    own: Sequence[Index]

    @property
    def args(self) -> Sequence[Node]:
        return self.read.args[1:]

    @property
    def sizes(self) -> list[int]:
        return [a.size for a in self.read.arg.view[1:]]

    @property
    def features(self) -> list[int]:
        return [next(p for p, x in enumerate(self.args) if x.op == "index" and x.arg == i) for i in self.own]

    @property
    def groups(self) -> list[int]:
        return [p for p in range(len(self.args)) if p not in self.features]

    @property
    def inner(self) -> int:
        return prod(self.sizes[p] for p in self.features)

    def count(self) -> int:
        return prod(self.sizes[p] for p in self.groups)

    def plain(self) -> list[Index]:
        """The group indices that stand alone."""
        return [self.args[p].arg for p in self.groups if self.args[p].op == "index"]

    def table(self, heads: Sequence[Index]) -> NDArray[np.int64]:
        """The flat place of the key that each head, flat, reads."""
        found = np.zeros([i.axis.size for i in heads], np.int64)
        for p in self.groups:
            own = tuple(i for i in heads if i in self.args[p].free)
            places = expression(self.args[p], order=own)(Frame({})).astype(np.int64)
            found = found * self.sizes[p] + places.reshape([i.axis.size if i in own else 1 for i in heads])
        return found.reshape(-1)

    def shared(self, heads: Sequence[Index]) -> int:
        """How many keys there are when neighbouring heads share them evenly; 0 when they do not."""
        table, groups = self.table(heads), self.count()
        even = len(table) % groups == 0 and bool((table == np.arange(len(table)) // (len(table) // groups)).all())
        return groups if even else 0

    def made(self, draft: Draft, heads: Sequence[Index], grouped: bool) -> Side:
        """The entries as [groups, features]; a key a head unless heads share them."""
        name = self.read.arg.ref.name
        entry, past = draft.entries[name]
        history = next(h for h in draft.cell.histories if h.name == name)
        declared = tuple(a.size for a in history.axes)
        table = None if grouped else tuple(int(p) for p in self.table(heads))
        order = (*self.groups, *self.features)
        return Side(
            name,
            history.window.size,
            entry,
            past,
            declared,
            tuple(self.sizes),
            order,
            (self.count(), self.inner),
            table,
        )


def _grouped(heads: tuple[Index, ...], sides: Sequence[_Reading]) -> tuple[Index, ...]:
    """The heads with those that choose the key in front."""
    for side in sides:
        front = [i for i in side.plain() if i in heads]
        order = (*front, *(i for i in heads if i not in front))
        if all(s.shared(order) for s in sides):
            return order
    return heads


def _bias(a: Attend, heads: Sequence[Index], draft: Draft) -> Array:
    """The bias over heads and age."""
    assert a.bias is not None
    indices = (*heads, a.t)
    x = valued(draft, a.bias, indices)
    if x.lead:
        message = "the bias of an attention depends on the token"
        raise refuse("E0904", a.span, message, "give the softmax an equation of its own")
    x = full(x, indices, draft, lead=False)
    return _flattened(x, indices, prod(i.axis.size for i in heads), a.t.axis.size)
