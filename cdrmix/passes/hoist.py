"""Lifts what does not vary out of the loops around it, in index space.

Input: a `Cell`.
Output: the cell in which a subexpression with fewer free indices than the loops around it has become a definition of
its own, just before the one it was in: in `sum[k](W[i,k]*(x[k] + dx[k]*m[k]))` the bracket, over k alone.  Factors of a
product are brought together first by the indices they run over.  What equals an earlier definition reads that one.

Only real work moves: constants, reads and index arithmetic stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import reduce

from cdrmix.ir import build, walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Apply, Axis, Cell, Def, Index, Node, Ref, Stmt
from cdrmix.ir.ops import OPS
from cdrmix.passes.terms import Fresh

_SUFFIX = {"mul": "product", "add": "total", "sub": "difference", "div": "ratio", "select": "choice", "max_over": "max"}


def hoist(cell: Cell) -> Cell:
    """The cell with its loop invariants lifted."""
    lifter = _Lifter(cell)
    for stmt in cell.body:
        lifter.statement(stmt)
    return replace(cell, body=tuple(lifter.body))


class _Lifter:
    """Writes the new body; `known` finds a definition by its value with the indices named in order."""

    def __init__(self, cell: Cell):
        self.body: list[Stmt] = []
        self.fresh = Fresh(walk.names(cell))
        self.known: dict[Node, tuple[Ref, list[int]]] = {}
        self.prints: dict[int, tuple[Node, int]] = {}
        self.known_prints: set[int] = set()
        self.windows = walk.windows(cell)
        self.ranged: set[Index] = set()

    def statement(self, stmt: Stmt) -> None:
        self.ranged = walk.windowed(stmt, self.windows)
        loops, name = frozenset(walk.around(stmt)), walk.defines(stmt)[0].name
        part = isinstance(stmt, Apply)
        self.body.append(stmt if part else walk.map_roots(stmt, lambda n: self.within(n, loops, name)))
        if isinstance(stmt, Def) and stmt.ref.kind == "def" and stmt.dtype == stmt.value.dtype:
            self.remember(stmt.value, stmt.ref, stmt.indices)

    def within(self, n: Node, loops: frozenset[Index], name: str, summed: bool = False) -> Node:
        """`n` as it stands inside `loops`, its invariants lifted; `summed` when it is a factor of a sum."""
        inner = loops | set(walk.bound(n))
        n = gather_factors(n, inner)
        summed = n.op == "sum" or (summed and n.op == "mul")
        return walk.rebuild(n, tuple(self.operand(a, inner, name, summed) for a in n.args))

    def operand(self, n: Node, loops: frozenset[Index], name: str, summed: bool) -> Node:
        if is_work(n) and not self.narrows(n) and (set(n.free) < loops or self.is_known(n)):
            return self.lift(n, name, summed)
        return self.within(n, loops, name, summed)

    def is_known(self, n: Node) -> bool:
        """Whether a definition has the value of `n`."""
        return self.print(n) in self.known_prints and numbered(n)[0] in self.known

    def print(self, n: Node) -> int:
        """A number that equal values share, found once a node; it leaves out which index is which."""
        if id(n) not in self.prints:
            what = (n.arg.ref, *(a.size for a in n.arg.view)) if n.op == "read" else n.arg if n.op == "const" else None
            self.prints[id(n)] = n, hash((n.op, what, *map(self.print, n.args)))
        return self.prints[id(n)][1]

    def narrows(self, n: Node) -> bool:
        """Whether a softmax in `n` runs over the tokens that are there only because of what stands outside `n`."""
        if not self.ranged:
            return False
        along = {m.arg for m in walk.nodes(n) if m.op == "softmax"}
        return bool(along & self.ranged - walk.windowed(n, self.windows))

    def lift(self, n: Node, name: str, summed: bool) -> Node:
        """A read of the definition that `n` becomes, or of one with the same value."""
        key, order = numbered(n)
        if key not in self.known:
            value = self.within(n, frozenset(n.free), name)  # what is lifted out of it comes first
            ref = Ref("def", self.fresh.name(f"{name}_{'in' if summed else _SUFFIX.get(n.op, n.op)}"))
            self.body.append(Def(ref, n.free, value, n.dtype, n.span))
            self.remember(n, ref, n.free)
        ref, places = self.known[key]
        indices = [order[p] for p in places]
        return build.read(ref, [i.axis for i in indices], indices, n.dtype, n.span)

    def remember(self, value: Node, ref: Ref, indices: tuple[Index, ...]) -> None:
        if is_work(value) and set(value.free) == set(indices):
            key, order = numbered(value)
            self.known_prints.add(self.print(value))
            self.known.setdefault(key, (ref, [order.index(i) for i in indices]))


def is_work(n: Node) -> bool:
    """Whether computing `n` is worth a definition: a float operation, or any reduction."""
    row = OPS[n.op]
    if row.kind in ("reduce", "normalise"):
        return True
    if row.kind == "leaf" or n.dtype not in FLOATS:
        return False
    return row.effort != "none" or any(map(is_work, n.args))


def numbered(n: Node) -> tuple[Node, list[Index]]:
    """`n` with its indices named by number and its axes by size, so that equal values are equal nodes; and its free
    indices in that order."""
    found = list(dict.fromkeys(i for m in walk.nodes(n) for i in _mentioned(m)))
    by = {i: Index(f"#{p}", Axis("", i.axis.size)) for p, i in enumerate(found)}
    order = [i for i in found if i in n.free]
    return walk.transform(walk.rename_indices(n, by), _sized), order


def _sized(n: Node) -> Node:
    if n.op != "read":
        return n
    return build.read(n.arg.ref, [Axis("", a.size) for a in n.arg.view], n.args, n.dtype)


def _mentioned(n: Node) -> Iterable[Index]:
    match n.op:
        case "index" | "softmax":
            return (n.arg,)
        case _:
            return walk.bound(n)


def gather_factors(n: Node, loops: frozenset[Index]) -> Node:
    """A product, at `n` or reduced by it, with the factors that run over the same few indices multiplied together."""
    if n.op == "sum" and n.args[0].op == "mul":
        return walk.rebuild(n, (gather_factors(n.args[0], loops),))
    factors = list(walk.multiplied(n))
    if len(factors) < 3:
        return n
    few: list[list[Node]] = []
    rest = [f for f in factors if not set(f.free) < loops]
    for f in sorted((f for f in factors if set(f.free) < loops), key=lambda f: -len(f.free)):
        home = next((g for g in few if set(f.free) <= set(g[0].free)), None)
        if home is None:
            few.append([f])
        else:
            home.append(f)
    if all(len(g) == 1 for g in few):
        return n
    groups = [reduce(build.mul, g) for g in (*([f] for f in rest), *few)]
    return reduce(lambda a, b: build.mul(a, b, span=n.span), groups)
