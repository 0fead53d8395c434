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
from cdrmix.passes.terms import Culprit, Leaves, Term, Unfit


@dataclass(frozen=True, slots=True)
class Read:
    """A contracted read: where it can be contracted, and the positions that share a factor with each such place."""

    owner: Ref
    term: Term
    touched: dict[int, frozenset[int]]


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
        """The statement with its reads replaced.  Raises `Unfit`."""
        owner = walk.defines(stmt)[0]
        if isinstance(stmt, Apply):
            for g in stmt.inputs:
                if g.ref in self.leaves.hot:
                    given = build.read(g.ref, (), (), span=stmt.span)
                    raise Unfit(self.behind.get(g.ref) or Culprit(given, "is given whole to a part"))
        done = walk.map_roots(stmt, lambda n: self.node(owner, n))
        self.leaves.hide(stmt)
        return done

    def node(self, owner: Ref, n: Node) -> Node:
        """The expression with its reads replaced: the innermost sum that contracts a read takes it."""
        if not self.leaves.depends(n):
            return n
        if n.op == "read" and not any(self.leaves.depends(a) for a in n.args):
            raise Unfit(self.behind.get(n.arg.ref) or Culprit(n, "is read whole"))
        while n.op == "sum" and n.args[0].op == "sum":  # one contraction, over all the axes that a key may be among
            n = build.reduce("sum", (*n.arg, *n.args[0].arg), n.args[0].args[0], n.span)
        try:
            return walk.rebuild(n, tuple(self.node(owner, a) for a in n.args))
        except Unfit:
            if n.op not in ("sum", "mean"):
                raise
        terms = self.leaves.expand(n)
        for t in terms:
            if t.culprit:
                through = self.behind.get(t.culprit.node.arg.ref) if t.culprit.node.op == "read" else None
                raise Unfit(through or t.culprit)
        return total(t.value() if t.read is None else self.ask(owner, t) for t in terms)


def outside(leaves: Leaves, cell: Cell, states: Sequence[str]) -> list[Stmt]:
    """What reads the leaves, however indirectly, and is needed for anything but the updates of `states`."""
    own = {Ref("next", s) for s in states}

    def is_root(stmt: Stmt) -> bool:
        return graph.is_root(stmt) and not own & set(walk.defines(stmt))

    return graph.Body(leaves.reached).needed(walk.refs(cell.training) - own, is_root, own)


def survey(cell: Cell, states: Sequence[str], leaves: Leaves) -> list[Read]:
    """Every read of `states` outside their own updates.  Raises `Unfit` for one that needs a whole state.

    `leaves` are the states before and after the token.
    """
    reads: list[Read] = []
    sizes = {s.name: [i.axis.size for i in s.indices] for s in cell.states}

    def note(owner: Ref, t: Term) -> Node:
        if [a.size for a in t.leaf.arg.view] != sizes[t.leaf.arg.ref.name]:
            raise Unfit(Culprit(t.leaf, "is read under other axes than it is declared with"))
        places = contractible(t)
        if not places:
            raise Unfit(Culprit(t.leaf, "is read whole"))
        if any(walk.windowed(f, leaves.windows) for f in t.coef):
            raise Unfit(Culprit(t.leaf, "is read with every token of a history"))
        reads.append(Read(owner, t, places))
        return t.leaf

    rewrite(cell, states, leaves, note)
    return reads


def rewrite(cell: Cell, states: Sequence[str], leaves: Leaves, ask: Ask) -> dict[Ref, Stmt]:
    """What reads `states` outside their updates, rewritten, by the first name it defines.  Raises `Unfit`."""
    rewriter, done = Rewriter(leaves, ask), {}
    for stmt in outside(leaves, cell, states):
        if not walk.uses(stmt) & leaves.hot:
            leaves.hide(stmt)  # all that it reads has become queries
            continue
        try:
            done[walk.defines(stmt)[0]] = rewriter.statement(stmt)
        except Unfit as unfit:
            if not isinstance(stmt, Def) or stmt.ref.kind != "def" or stmt.dtype in NARROW:  # a rounded name stays
                raise
            rewriter.behind[stmt.ref] = unfit.culprit
    for t in cell.training:
        if leaves.depends(t.value):
            n = next(m for m in walk.reads(t.value) if leaves.depends(m))
            raise Unfit(rewriter.behind.get(n.arg.ref) or Culprit(n, "is read whole"))
    return done


def contractible(t: Term) -> dict[int, frozenset[int]]:
    """The positions at which a read is summed with an index of its own, each with those that share a factor with it."""
    args, found = t.leaf.args, {}
    for p, a in enumerate(args):
        if a.op == "index" and a.arg in t.bound and sum(a.arg in b.free for b in args) == 1:
            near = {i for f in t.coef if a.arg in f.free for i in f.free}
            found[p] = frozenset(q for q, b in enumerate(args) if q != p and near & set(b.free))
    return found
