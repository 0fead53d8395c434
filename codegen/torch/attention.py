"""Emission of histories and of attention over them.

Input: a history's entry (`Def`) or an `Attend`, and the scope of a `forward` or a `step`.
Output: lines in the scope: windows where expressions read them, one fused call for an `Attend`, the history after the
last token in `stream.new`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from cdrmix.ir.forms import Attend, Scored
from cdrmix.ir.interp_expr import Frame, expression
from cdrmix.ir.nodes import Def, History, Index, Node, Ref

from .casts import full
from .scans import key
from .scope import Scope, Symbol, refuse
from .statements import begin, valued
from .value import atom, reshaped


def emit_entry(d: Def, scope: Scope, read: Collection[Ref]) -> None:
    """This token's entry of a history; its windows, if an expression reads them."""
    history = next(h for h in scope.cell.histories if h.name == d.ref.name)
    scope.say(d.span)
    entry = scope.let(f"{history.name}_entry", full(valued(scope, d.value, d.indices), d.indices, scope))
    path, count = key(history.name), key(f"{history.name}.count")
    window = history.window.size
    if scope.mode == "step":
        name, there = scope.names.fresh(history.name), scope.names.fresh("there")
        scope.line(
            f"{name}, {there}, stream.new[{path}], stream.new[{count}] = "
            f"enter({entry}, stream.old[{path}], stream.old[{count}])"
        )
        _windowed(scope, history, name, there)
        return
    past = scope.let(f"{history.name}_past", f"stream.old.get({path}), stream.old.get({count}), stream.reset")
    scope.line(f"stream.new[{path}], stream.new[{count}] = advance({entry}, {window}, *{past})")
    scope.entries[history.name] = (entry, past)
    if d.ref in read:
        name, there = scope.names.fresh(history.name), scope.names.fresh("there")
        scope.line(f"{name}, {there} = unfold({entry}, {window}, *{past})")
        _windowed(scope, history, name, there)


def _windowed(scope: Scope, history: History, name: str, there: str) -> None:
    sizes = (history.window.size, *(a.size for a in history.axes))
    ref = Ref("history", history.name)
    scope.symbols[ref] = Symbol(name, "float", sizes, (True,) * len(sizes), True, absent_is_zero=True)
    scope.masks.setdefault(history.window.size, there)


def emit_attend(a: Attend, scope: Scope) -> None:
    """One call of `attend`: heads flat, in an order in which neighbours share a key."""
    scope.say(a.span)
    own = tuple(i for i in a.value.free if i in a.indices and _is_feature(i, a))
    heads = tuple(i for i in a.indices if i not in own)
    keys, values = [_Side(p.key, p.contract) for p in a.parts], _Side(a.value, own)
    heads = _grouped(heads, (*keys, values))
    shared = {side.shared(heads) for side in (*keys, values)}
    groups = shared.pop() if len(shared) == 1 else 0
    count = prod(i.axis.size for i in heads)
    q = _end_to_end([_query(p, heads, count, scope) for p in a.parts])
    k, v = _entries(keys, scope, heads, groups), _entries([values], scope, heads, groups)
    past = scope.entries[a.value.arg.ref.name][1]
    args = [q, k[0], v[0], str(a.t.axis.size), repr(float(a.scale)), k[1], v[1], f"*{past}[1:]"]
    if a.bias is not None:
        args.append(f"bias={_bias(a, heads, scope)}")
    code = f"attend({', '.join(args)})"
    code = reshaped(code, [count, values.inner], [i.axis.size for i in (*heads, *own)])
    order = [(*heads, *own).index(i) for i in a.indices]
    if order != sorted(order):
        code = f"{code}.permute(0, 1, {', '.join(str(p + 2) for p in order)})"
    name = scope.let(a.name, code)
    sizes = tuple(i.axis.size for i in a.indices)
    scope.symbols[Ref("def", a.name)] = Symbol(name, "float", sizes, (True,) * len(sizes), True)


def _query(part: Scored, heads: Sequence[Index], count: int, scope: Scope) -> str:
    """The queries of a part, [B, T, heads, features]."""
    indices = (*heads, *part.contract)
    code = full(valued(scope, part.query, indices), indices, scope)
    return reshaped(atom(code), [i.axis.size for i in indices], [count, prod(i.axis.size for i in part.contract)])


def _entries(sides: Sequence[_Side], scope: Scope, heads: Sequence[Index], groups: int) -> tuple[str, str]:
    """Code of this call's entries and of the older ones, which may be None, their features end to end."""
    views = [side.views(scope, heads, groups) for side in sides]
    new, old = (_end_to_end(list(codes)) for codes in zip(*views, strict=True))
    before = f"{scope.entries[sides[0].read.arg.ref.name][1]}[0]"
    return new, old if old == before else f"({before} if {before} is None else {old})"


def _end_to_end(codes: Sequence[str]) -> str:
    return codes[0] if len(codes) == 1 else f"torch.cat([{', '.join(codes)}], -1)"


def _is_feature(i: Index, a: Attend) -> bool:
    """Whether an index belongs to the values alone."""
    others = {i for p in a.parts for n in (p.query, p.key) for i in n.free}
    others |= set(a.bias.free) if a.bias is not None else set()
    return i not in others and any(x.op == "index" and x.arg == i for x in a.value.args)


class _Side:
    """The keys or the values of an attention: which entry axes are features, and which key each head reads."""

    def __init__(self, read: Node, features: Sequence[Index]):
        self.read = read
        args, axes = read.args[1:], read.arg.view[1:]
        self.features = [next(p for p, x in enumerate(args) if x.op == "index" and x.arg == i) for i in features]
        self.groups = [p for p in range(len(args)) if p not in self.features]
        self.args, self.sizes = args, [a.size for a in axes]
        self.inner = prod(self.sizes[p] for p in self.features)

    def plain(self) -> list[Index]:
        """The group indices that stand alone."""
        return [self.args[p].arg for p in self.groups if self.args[p].op == "index"]

    def table(self, heads: Sequence[Index]) -> NDArray[np.int64]:
        """The flat place of the key that each head, flat, reads."""
        found = np.zeros([i.axis.size for i in heads], np.int64)
        for p in self.groups:
            own = tuple(i for i in heads if i in self.args[p].free)
            places = expression(self.args[p], order=own)(Frame({})).astype(np.int64)
            shape = [i.axis.size if i in own else 1 for i in heads]
            found = found * self.sizes[p] + places.reshape(shape)
        return found.reshape(-1)

    def count(self) -> int:
        return prod(self.sizes[p] for p in self.groups)

    def shared(self, heads: Sequence[Index]) -> int:
        """How many keys there are when neighbouring heads share them evenly; 0 when they do not."""
        table, groups = self.table(heads), self.count()
        even = len(table) % groups == 0 and bool((table == np.arange(len(table)) // (len(table) // groups)).all())
        return groups if even else 0

    def views(self, scope: Scope, heads: Sequence[Index], groups: int) -> tuple[str, str]:
        """This call's entries and the older ones as [B, T, groups, features]; a key a head if no groups."""
        name = self.read.arg.ref.name
        entry, past = scope.entries[name]
        declared = next([a.size for a in h.axes] for h in scope.cell.histories if h.name == name)
        order = [*self.groups, *self.features]
        flat = [self.count(), self.inner]
        found = []
        for code in (entry, f"{past}[0]"):
            view = reshaped(code, declared, self.sizes)
            if order != sorted(order):
                view = f"{view}.permute(0, 1, {', '.join(str(p + 2) for p in order)})"
            view = reshaped(view, [self.sizes[p] for p in order], flat)
            if not groups:
                table = self.table(heads).tolist()
                view = f"{view}[:, :, {table}]"
            found.append(view)
        return found[0], found[1]


def _grouped(heads: tuple[Index, ...], sides: Sequence[_Side]) -> tuple[Index, ...]:
    """The heads with those that choose the key in front."""
    for side in sides:
        front = [i for i in side.plain() if i in heads]
        order = (*front, *(i for i in heads if i not in front))
        if all(s.shared(order) for s in sides):
            return order
    return heads


def _bias(a: Attend, heads: Sequence[Index], scope: Scope) -> str:
    """The bias over heads and age."""
    assert a.bias is not None
    begin(scope, (*heads, a.t), [a.bias])
    v = valued(scope, a.bias, (*heads, a.t))
    if v.lead:
        message = "the bias of an attention depends on the token"
        raise refuse("E0904", a.span, message, "give the softmax an equation of its own")
    code = full(v, (*heads, a.t), scope, lead=False)
    sizes = [i.axis.size for i in (*heads, a.t)]
    return reshaped(atom(code), sizes, [prod(sizes[:-1]), sizes[-1]])
