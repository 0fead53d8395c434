"""How the rest of a cell reads a group of states, and the same cell with those reads turned into queries.

Input: a cell's statements as what depends on the group's states (`Leaves`), and the states.
Output: for every read, the positions at which it is contracted with a vector free of the group; or the read that needs
the whole state.  `rewrite` walks the statements; what becomes of each contracted read is up to `Ask`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

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
    """What reads `states` outside their updates with contracted reads as `ask` says, by the first name it defines.

    A definition that reads a state without contracting it (`T[h,i,j] = S[h,i,j]*w[h,j]`) stays behind; what reads the
    definition contracts through it.  Raises `Unfit`.
    """
    own = {Ref("next", s) for s in states}
    behind: dict[Ref, Culprit] = {}
    done: dict[Ref, Stmt] = {}

    def is_root(stmt: Stmt) -> bool:
        return graph.is_root(stmt) and not own & graph.defines(stmt)

    def whole(n: Node, reason: str) -> Unfit:
        return Unfit(behind.get(n.arg.ref) or Culprit(n, reason))

    def asked(owner: Ref, n: Node) -> Node:
        """The expression with its reads replaced: the innermost sum that contracts a read takes it."""
        if not leaves.depends(n):
            return n
        if n.op == "read" and not any(map(leaves.depends, n.args)):
            raise whole(n, "is read whole")
        while n.op == "sum" and n.args[0].op == "sum":  # one contraction, over all the axes that a key may be among
            n = build.reduce("sum", (*n.arg, *n.args[0].arg), n.args[0].args[0], n.span)
        try:
            return walk.rebuild(n, tuple(asked(owner, a) for a in n.args))
        except Unfit:
            if n.op not in ("sum", "mean"):
                raise
        terms = leaves.expand(n)
        culprit = next((t.culprit for t in terms if t.culprit), None)
        if culprit:
            raise whole(culprit.node, culprit.reason) if culprit.node.op == "read" else Unfit(culprit)
        return total(t.value() if t.read is None else ask(owner, t) for t in terms)

    # what is needed for anything but the updates
    for stmt in graph.Body(leaves.reached).needed(walk.refs(cell.training) - own, is_root, own):
        try:
            for g in stmt.inputs if isinstance(stmt, Apply) else ():
                if g.ref in leaves.hot:
                    raise whole(build.read(g.ref, (), (), span=stmt.span), "is given whole to a part")
            if walk.uses(stmt) & leaves.hot:  # else all that it reads has become queries
                owner = walk.defines(stmt)[0]
                done[owner] = walk.map_roots(stmt, partial(asked, owner))
            leaves.hide(stmt)
        except Unfit as unfit:
            if not isinstance(stmt, Def) or stmt.ref.kind != "def" or stmt.dtype in NARROW:  # a rounded name stays
                raise
            behind[stmt.ref] = unfit.culprit
    for n in walk.reads(cell.training):
        if leaves.depends(n):
            raise whole(n, "is read whole")
    return done


def contractible(t: Term) -> dict[int, frozenset[int]]:
    """The positions at which a read is summed with an index of its own, each with those that share a factor with it."""
    args, found = t.leaf.args, {}
    for p, a in enumerate(args):
        if a.op == "index" and a.arg in t.bound and sum(a.arg in b.free for b in args) == 1:
            near = {i for f in t.coef if a.arg in f.free for i in f.free}
            found[p] = frozenset(q for q, b in enumerate(args) if q != p and near & set(b.free))
    return found
