"""Emission of histories and of attention over them.

Input: a history's entry (`Def`) or an `Attend`, and the scope.
Output: lines in the scope: windows where expressions read them, one call of `attend` for an `Attend`; the new entries
are put into the history's ring.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from cdrmix.ir import python as escape
from cdrmix.ir.forms import Attend, Scored
from cdrmix.ir.interp_expr import Frame, expression
from cdrmix.ir.nodes import Def, Index, Node, Ref

from .casts import full
from .scope import Scope, Symbol, axes_of, refuse
from .statements import Cells, emit_statement, valued
from .states import slot
from .value import Value, permuted, viewed


def emit_entry(d: Def, scope: Scope) -> None:
    """This block's entries of a history; their windows, if an expression reads them."""
    history = next(h for h in scope.cell.histories if h.name == d.ref.name)
    scope.say(d.span)
    code = full(valued(scope, d.value, d.indices), d.indices, scope)
    entry = scope.let(f"{history.name}_new", code, axes_of(d.indices))
    window = history.window.size
    old = slot(history.name) if window > 1 else "None"
    if window > 1:
        scope.line(f"here.wrote({escape.text(history.name)}, remember({old}, {entry}, here.pos))")
    scope.entries[history.name] = entry
    ref = Ref("history", history.name)
    if ref in scope.uses:
        indices = (Index("", history.window), *d.indices)
        name = scope.let(history.name, f"windows({old}, {entry}, here.pos, {window})", axes_of(indices))
        sizes = tuple(i.axis.size for i in indices)
        scope.symbols[ref] = Symbol(name, "float", sizes, (True,) * len(sizes), True)
        if window not in scope.masks:
            scope.masks[window] = scope.let("there", f"there(here.pos, {window})")


@emit_statement.register
def _(a: Attend, scope: Scope, cells: Cells) -> None:
    """One call of `attend`: heads flat, in an order in which neighbours share a key."""
    scope.say(a.span)
    own = tuple(i for i in a.value.free if i in a.indices and _is_feature(i, a))
    heads = tuple(i for i in a.indices if i not in own)
    keys, values = [_Side(p.key, p.contract) for p in a.parts], _Side(a.value, own)
    heads = _grouped(heads, (*keys, values))
    count = prod(i.axis.size for i in heads)
    shared = {side.shared(heads) for side in (*keys, values)}
    grouped = len(shared) == 1 and shared != {0}
    q = [_query(p, heads, count, scope) for p in a.parts]
    new_k, old_k = zip(*(side.code(scope, heads, grouped) for side in keys), strict=True)
    new_v, old_v = values.code(scope, heads, grouped)
    args = [_parts(q), _parts(new_k), new_v, _parts(old_k), old_v, "here.pos", str(a.t.axis.size), repr(float(a.scale))]
    if a.bias is not None:
        args.append(_bias(a, heads, scope))
    found = (*heads, *own)
    code = viewed(f"attend({', '.join(args)})", [count, values.inner], [i.axis.size for i in found])
    name = scope.let(a.name, permuted(Value(code, "float", found), a.indices).code, axes_of(a.indices))
    scope.known(Ref("def", a.name), name, [i.axis.size for i in a.indices])


def _query(part: Scored, heads: Sequence[Index], count: int, scope: Scope) -> str:
    """The queries of a part, [B, T, heads, features]."""
    indices = (*heads, *part.contract)
    code = full(valued(scope, part.query, indices), indices, scope)
    return viewed(code, [i.axis.size for i in indices], [count, prod(i.axis.size for i in part.contract)])


def _parts(codes: Sequence[str]) -> str:
    return f"[{', '.join(codes)}]"


def _is_feature(i: Index, a: Attend) -> bool:
    """Whether an index belongs to the values alone."""
    others = {i for p in a.parts for n in (p.query, p.key) for i in n.free}
    others |= set(a.bias.free) if a.bias is not None else set()
    return i not in others and any(x.op == "index" and x.arg == i for x in a.value.args)


class _Side:
    """The keys or the values of an attention: which entry axes are features, and which key each head reads."""

    def __init__(self, read: Node, features: Sequence[Index]):
        self.name = read.arg.ref.name
        self.args, self.sizes = read.args[1:], [x.size for x in read.arg.view[1:]]
        self.features = [next(p for p, x in enumerate(self.args) if x.op == "index" and x.arg == i) for i in features]
        self.groups = [p for p in range(len(self.args)) if p not in self.features]
        self.inner = prod(self.sizes[p] for p in self.features)
        self.count = prod(self.sizes[p] for p in self.groups)

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
        table = self.table(heads)
        even = len(table) % self.count == 0
        return self.count if even and (table == np.arange(len(table)) // (len(table) // self.count)).all() else 0

    def code(self, scope: Scope, heads: Sequence[Index], shared: bool) -> tuple[str, str]:
        """Code of this block's entries and of the older ones, [B, T, groups, features]; a key a head unless shared."""
        history = next(h for h in scope.cell.histories if h.name == self.name)
        declared = [x.size for x in history.axes]
        found = [self._side(scope.entries[self.name], declared, heads, shared), "None"]
        if history.window.size > 1:
            found[1] = self._side(slot(self.name), declared, heads, shared)
        return found[0], found[1]

    def _side(self, code: str, declared: Sequence[int], heads: Sequence[Index], shared: bool) -> str:
        order = [*self.groups, *self.features]
        code = viewed(code, declared, self.sizes)
        if order != sorted(order):
            code = f"{code}.permute(0, 1, {', '.join(str(p + 2) for p in order)})"
        code = viewed(code, [self.sizes[p] for p in order], [self.count, self.inner])
        return code if shared else f"heads({code}, {self.table(heads).tolist()})"


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
    v = valued(scope, a.bias, (*heads, a.t))
    if v.lead:
        message = "the bias of an attention depends on the token"
        raise refuse("E0904", a.span, message, "give the softmax an equation of its own")
    indices = (*heads, a.t)
    code = full(v, indices, scope, lead="1, 1")
    sizes = [i.axis.size for i in indices]
    return viewed(code, sizes, [prod(sizes[:-1]), sizes[-1]])
