"""How the rest of a cell reads a group of states, and the same cell with those reads turned into queries.

Input: a cell's statements as what depends on the group's states (`Leaves`), and the states.
Output: for every read, the positions at which it is contracted with a vector free of the group; or the read that needs
the whole state.  `Rewriter` walks the statements; what becomes of each contracted read is up to `Ask`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Apply, Cell, Def, Node, Ref, Stmt
from cdrmix.ir.types import NARROW
from cdrmix.passes import graph
from cdrmix.passes.algebra import total
from cdrmix.passes.terms import Culprit, Leaves, Term


@dataclass(frozen=True, slots=True)
class Read:
    """A contracted read: where it can be contracted, and the positions that share a factor with each such place."""

    owner: Ref
    term: Term
    touched: dict[int, frozenset[int]]


class Whole(Exception):
    """A read needs the whole state."""

    def __init__(self, culprit: Culprit):
        self.culprit = culprit


Ask = Callable[[Ref, Term], Node]


class Rewriter:
    """Replaces the contracted reads of a group's states in everything that reads them.

    A definition that reads a state without contracting it (`T[h,i,j] = S[h,i,j]*w[h,j]`) stays behind; what reads the
    definition contracts through it.
    """

    def __init__(self, leaves: Leaves, ask: Ask):
        self.leaves = leaves
        self.ask = ask
        self.behind: dict[Ref, Culprit] = {}

    def statement(self, stmt: Stmt) -> Stmt:
        """The statement with its reads replaced.  Raises `Whole`."""
        owner = walk.defines(stmt)[0]
        if isinstance(stmt, Apply):
            for g in stmt.inputs:
                if g.ref in self.leaves.hot and g.ref not in self.leaves.opaque:
                    raise Whole(self.behind.get(g.ref) or Culprit(_named(stmt, g.ref), "is given whole to a part"))
        done = walk.map_roots(stmt, lambda n: self.node(owner, n))
        for ref in walk.defines(stmt):
            self.leaves.hide(ref)
        return done

    def node(self, owner: Ref, n: Node) -> Node:
        """The expression with its reads replaced: the innermost sum that contracts a read takes it."""
        if not self.leaves.depends(n):
            return n
        if n.op == "read" and not any(self.leaves.depends(a) for a in n.args):
            raise Whole(self.behind.get(n.arg.ref) or Culprit(n, "is read whole"))
        while n.op == "sum" and n.args[0].op == "sum":  # one contraction, over all the axes that a key may be among
            n = build.reduce("sum", (*n.arg, *n.args[0].arg), n.args[0].args[0], n.span)
        try:
            return walk.rebuild(n, tuple(self.node(owner, a) for a in n.args))
        except Whole:
            if n.op not in ("sum", "mean"):
                raise
        terms = self.leaves.expand(n)
        for t in terms:
            if t.culprit:
                through = self.behind.get(t.culprit.node.arg.ref) if t.culprit.node.op == "read" else None
                raise Whole(through or t.culprit)
        return total(t.value() if t.read is None else self.ask(owner, t) for t in terms)


def _named(stmt: Stmt, ref: Ref) -> Node:
    """A node to point at for a name that a statement takes without an expression."""
    return build.read(ref, (), (), span=stmt.span)


def outside(leaves: Leaves, cell: Cell, states: Sequence[str]) -> list[Stmt]:
    """What reads the leaves, however indirectly, and is needed for anything but the updates of `states`."""
    own = {Ref("next", s) for s in states}

    def is_root(stmt: Stmt) -> bool:
        return graph.is_root(stmt) and not own & set(walk.defines(stmt))

    return graph.Body(leaves.reached).needed(walk.refs(cell.training) - own, is_root, own)


def survey(cell: Cell, states: Sequence[str], leaves: Leaves) -> list[Read]:
    """Every read of `states` outside their own updates.  Raises `Whole` for one that needs a whole state.

    `leaves` are the states before and after the token.
    """
    reads: list[Read] = []
    sizes = {s.name: [i.axis.size for i in s.indices] for s in cell.states}

    def note(owner: Ref, t: Term) -> Node:
        assert t.read is not None
        if [a.size for a in t.read.arg.view] != sizes[t.read.arg.ref.name]:
            raise Whole(Culprit(t.read, "is read under other axes than it is declared with"))
        places = {p: touched(t, p) for p in contractible(t)}
        if not places:
            raise Whole(Culprit(t.read, "is read whole"))
        if any(walk.windowed(f, leaves.windows) for f in t.coef):
            raise Whole(Culprit(t.read, "is read with every token of a history"))
        reads.append(Read(owner, t, places))
        return t.read

    rewrite(cell, states, leaves, note)
    return reads


def rewrite(cell: Cell, states: Sequence[str], leaves: Leaves, ask: Ask) -> dict[Ref, Stmt]:
    """What reads `states` outside their updates, rewritten, by the first name it defines.  Raises `Whole`."""
    rewriter, done = Rewriter(leaves, ask), {}
    for stmt in outside(leaves, cell, states):
        if not any(ref in leaves.hot and ref not in leaves.opaque for ref in walk.uses(stmt)):
            for ref in walk.defines(stmt):  # all that it reads has become queries
                leaves.hide(ref)
            continue
        try:
            done[walk.defines(stmt)[0]] = rewriter.statement(stmt)
        except Whole as whole:
            if not isinstance(stmt, Def) or stmt.ref.kind != "def" or stmt.dtype in NARROW:  # a rounded name stays
                raise
            rewriter.behind[stmt.ref] = whole.culprit
    for t in cell.training:
        if leaves.depends(t.value):
            n = next(m for m in walk.reads(t.value) if leaves.depends(m))
            raise Whole(rewriter.behind.get(n.arg.ref) or Culprit(n, "is read whole"))
    return done


def contractible(t: Term) -> list[int]:
    """The positions at which a read is summed with an index of its own."""
    assert t.read is not None
    args = t.read.args
    lone = [p for p, a in enumerate(args) if a.op == "index" and a.arg in t.bound]
    return [p for p in lone if sum(args[p].arg in a.free for a in args) == 1]


def touched(t: Term, p: int) -> frozenset[int]:
    """The positions whose index shares a factor with the one contracted at `p`."""
    assert t.read is not None
    args = t.read.args
    near = {i for f in t.coef if args[p].arg in f.free for i in f.free}
    return frozenset(q for q, a in enumerate(args) if q != p and near & set(a.free))
