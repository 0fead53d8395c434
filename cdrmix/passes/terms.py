"""Expansion of an expression into terms that are affine in chosen leaves.

Input: statements and the leaves (reads of states, or of histories) that an expression is to be affine in.
Output: `Term`s, each a product of leaf-free factors times at most one read of a leaf, summed over bound indices.

Only nodes that depend on a leaf are distributed.  A node that does not is one opaque factor (its top-level products
and sums apart), so an expansion stays as small as the text.  Definitions that depend on a leaf are read through.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Def, Index, Node, Ref
from cdrmix.passes import graph
from cdrmix.passes.algebra import product
from cdrmix.passes.views import Move, move

MOST_TERMS = 256
"""An expansion with more terms than this is given up."""


@dataclass(frozen=True, slots=True)
class Culprit:
    """A node that is not affine, and why, as the end of a sentence about it."""

    node: Node
    reason: str


class Unfit(Exception):
    """Something is not of the form that is looked for, because of the culprit."""

    def __init__(self, culprit: Culprit):
        self.culprit = culprit


@dataclass(frozen=True, slots=True)
class Term:
    """The product of `coef` and `read`, summed over `bound`.  `read` None: free of leaves."""

    coef: tuple[Node, ...] = ()
    bound: tuple[Index, ...] = ()
    read: Node | None = None
    culprit: Culprit | None = None

    @property
    def leaf(self) -> Node:
        """The read, of a term that has one."""
        assert self.read is not None
        return self.read

    def value(self) -> Node:
        """The product of the factors alone, summed over the bound indices."""
        return product(self.coef, self.bound)


def stem(name: str) -> str:
    """An index's name as it was written."""
    return re.sub(r"(_\d+)+$", "", name)


class Fresh:
    """Makes names that a cell does not use."""

    def __init__(self, taken: Iterable[str]):
        self.taken = set(taken)
        self.counts: dict[str, int] = {}

    def name(self, like: str) -> str:
        """`like`, or like_1, like_2, …"""
        found, count = like, self.counts.get(like, 0)
        while found in self.taken:
            count += 1
            found = f"{like}_{count}"
        self.taken.add(found)
        self.counts[like] = count
        return found

    def index(self, like: Index) -> Index:
        """A new index over the same axis."""
        return Index(self.name(stem(like.name)), like.axis)


class Leaves:
    """What of a body depends on the leaves, and how."""

    def __init__(self, body: graph.Body, leaves: Collection[Ref], windows: walk.Windows, fresh: Fresh):
        self.body = body
        self.leaves = frozenset(leaves)
        self.windows = windows
        self.fresh = fresh
        self.reached = body.reached(self.leaves)
        self.hot = {ref for stmt in self.reached for ref in graph.defines(stmt)} | self.leaves
        self._terms: dict[Ref, list[Term]] = {}
        self._depends: dict[int, tuple[Node, bool]] = {}

    def depends(self, n: Node) -> bool:
        """Whether `n` depends on a leaf: reads what is hot."""
        if id(n) not in self._depends:
            found = n.op == "read" and n.arg.ref in self.hot or any(self.depends(a) for a in n.args)
            self._depends[id(n)] = (n, found)
        return self._depends[id(n)][1]

    def hide(self, stmt: Any) -> None:
        """From now on, reads of what `stmt` defines are ordinary factors; none of them has been looked at yet."""
        self.hot -= graph.defines(stmt)

    def expand(self, n: Node) -> list[Term]:
        """The terms of `n`."""
        match n.op:
            case "add":
                found = self.expand(n.args[0]) + self.expand(n.args[1])
            case "sub" | "neg":
                *first, last = n.args
                found = [t for a in first for t in self.expand(a)]
                found += [_scaled(t, build.const(-1)) for t in self.expand(last)]
            case "sum" if not set(n.arg) & walk.windowed(n.args[0], self.windows):
                new = {i: self.fresh.index(i) for i in n.arg}
                body = walk.substitute(n.args[0], {i: build.index(j) for i, j in new.items()})
                found = [replace(t, bound=(*new.values(), *t.bound)) for t in self.expand(body)]
            case _ if not self.depends(n):
                return [Term(walk.factors(n))]
            case "read":
                return self._read(n)
            case "mul":
                left, right = self.expand(n.args[0]), self.expand(n.args[1])
                if len(left) * len(right) > MOST_TERMS:
                    return [_bad(n, "has too many terms")]
                found = [_times(x, y, n) for x in left for y in right]
            case "div" if not self.depends(n.args[1]):
                *_, inverse = walk.factors(n)
                found = [_scaled(t, inverse) for t in self.expand(n.args[0])]
            case "sum":
                return [_bad(n, "is a sum over a history's tokens")]
            case "mean":
                count = build.const(1 / walk.size(n.arg))
                found = [_scaled(t, count) for t in self.expand(build.reduce("sum", n.arg, n.args[0], n.span))]
            case "select" if not self.depends(n.args[0]):
                found = self._select(n)
            case _:
                return [_bad(n, "is not affine in the state")]
        few = len(found) <= MOST_TERMS or not self.depends(n)
        return found if few else [_bad(n, "has too many terms")]

    def terms(self, ref: Ref) -> list[Term]:
        """The terms of a definition, over its own indices."""
        if ref not in self._terms:
            stmt = self.body.source(ref)
            assert isinstance(stmt, Def)
            self._terms[ref] = self.expand(stmt.value)
        return self._terms[ref]

    def written(self, n: Node) -> Node | None:
        """What a read's definition says at the places that it reads; None where that cannot be written down."""
        stmt = self.body.source(n.arg.ref)
        if not isinstance(stmt, Def) or stmt.ref.kind == "history":
            return None
        to = move(stmt.indices, n.arg.view, n.args, self.fresh.index)
        new = {i: self.fresh.index(i) for m in walk.nodes(stmt.value) for i in walk.bound(m)}  # they meet none around
        try:
            return walk.substitute(to(walk.rename_indices(stmt.value, new)), to.places) if to else None
        except walk.FixedPlace:
            return None

    def _read(self, n: Node) -> list[Term]:
        ref = n.arg.ref
        if any(self.depends(a) for a in n.args):
            return [_bad(n, "is read at a place that depends on the state")]
        if ref in self.leaves:
            return [Term(read=n)]
        stmt = self.body.source(ref)
        if not isinstance(stmt, Def) or ref.kind == "history":
            what = "a history" if ref.kind == "history" else f"`{ref.name}`"
            return [_bad(n, f"goes through {what}, which is not affine in the state")]
        to = move(stmt.indices, n.arg.view, n.args, self.fresh.index)
        if to is None:
            return [_bad(n, "is read under other axes than those it was written with")]
        try:
            return [self._renamed(t, to) for t in self.terms(ref)]
        except walk.FixedPlace:
            return [_bad(n, "is read at another place along a softmax")]

    def _renamed(self, t: Term, to: Move) -> Term:
        """The term at other places, its bound indices fresh."""
        new = {i: self.fresh.index(i) for i in t.bound}
        by = {**to.places, **{i: build.index(j) for i, j in new.items()}}
        coef = tuple(walk.substitute(to(f), by) for f in t.coef)
        return Term(coef, tuple(new.values()), t.read and walk.substitute(to(t.read), by), t.culprit)

    def _select(self, n: Node) -> list[Term]:
        """`x if c else y`, with c free of leaves, is affine: c chooses each factor."""
        cond, then, other = n.args
        found = []
        for branch, first in ((then, True), (other, False)):
            for t in self.expand(branch):
                found.append(t if t.culprit else replace(t, coef=_guard(cond, t.coef, first)))
        return found


def _guard(cond: Node, coef: tuple[Node, ...], first: bool) -> tuple[Node, ...]:
    """The factors where `cond` is `first`, else zero.

    A factor that may be infinite where it is not chosen is chosen itself, so that 0 * inf does not arise; one that
    lacks an index of `cond` is as infinite where it is chosen, and stays apart.
    """
    zero, one = build.const(0.0), build.const(1.0)

    def choose(x: Node, y: Node) -> Node:
        return build.select(cond, x, y) if first else build.select(cond, y, x)

    kept = [choose(f, one) if f.op != "const" and set(cond.free) <= set(f.free) else f for f in coef]
    return (choose(one, zero), *kept)


def _scaled(t: Term, *by: Node) -> Term:
    return replace(t, coef=by + t.coef)


def _times(x: Term, y: Term, whole: Node) -> Term:
    culprit = x.culprit or y.culprit
    if culprit is None and x.read is not None and y.read is not None:
        culprit = Culprit(whole, "multiplies the state by itself")
    return Term(x.coef + y.coef, x.bound + y.bound, x.read or y.read, culprit)


def _bad(n: Node, reason: str) -> Term:
    return Term(culprit=Culprit(n, reason))
