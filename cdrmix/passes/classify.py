"""Classify the states of a cell by algebra on their updates, never by the name of an op.

Input: a cell.
Output: `Group`s in the order in which they can be computed over a whole sequence: strongly connected components of
the graph of states, dependencies first.  A state outside a group is an ordinary sequence to it.

`Derivation` also holds the cell's statements, in which every read of a chunk state has become a `Query`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cdrmix.ir import walk
from cdrmix.ir.forms import Chunk, Delay, Elementwise
from cdrmix.ir.nodes import Cell, Def, Node, Ref, Stmt
from cdrmix.ir.ops import OPS
from cdrmix.passes import graph, queries
from cdrmix.passes.affine import affine, max_plus
from cdrmix.passes.groups import Group
from cdrmix.passes.readers import Read, survey
from cdrmix.passes.roles import with_roles
from cdrmix.passes.terms import Culprit, Fresh, Leaves, Unfit


@dataclass(slots=True)
class Derivation:
    """A cell on its way to its sequence form."""

    cell: Cell
    body: graph.Body
    windows: walk.Windows
    fresh: Fresh
    groups: list[Group] = field(default_factory=list)

    def leaves(self, *refs: Ref) -> Leaves:
        """What of the statements depends on `refs`."""
        return Leaves(self.body, refs, self.windows, self.fresh)

    def update(self, state: str) -> Def:
        """The equation of `state'`."""
        found = self.body.source(Ref("next", state))
        assert isinstance(found, Def)
        return found

    def given(self, stmt: Stmt, leaves: Leaves, worth: Callable[[Node], bool]) -> list[Stmt]:
        """A statement behind definitions of what in it is free of the leaves, small, and `worth` one."""
        over_window = {i for root in walk.roots(stmt) for i in walk.windowed(root, self.windows)}
        out: list[Stmt] = []

        def chosen(n: Node) -> bool:
            return not leaves.depends(n) and worth(n) and graph.is_small(n) and not over_window & set(n.free)

        def name() -> str:
            return self.fresh.name(f"{walk.defines(stmt)[0].name}_given")

        rest = walk.map_roots(stmt, lambda n: graph.lift(n, chosen, name, out))
        return [*out, rest]


def classify(cell: Cell) -> list[Group]:
    """The groups of a cell's states and histories, dependencies first."""
    return derive(cell).groups


def derive(cell: Cell) -> Derivation:
    """Classify every group and turn the reads of chunk states into queries."""
    stmts = graph.Body(cell.body).needed(walk.refs(cell.training), graph.is_root)
    d = Derivation(cell, graph.Body(stmts), walk.windows(cell), Fresh(_names(cell)))
    d.body = graph.Body(_shared(d))
    nodes = [Ref("next", s.name) for s in cell.states] + [Ref("history", h.name) for h in cell.histories]
    deps = d.body.dependencies(nodes)
    done: set[Ref] = set()
    left = deque(graph.components(deps))
    while left:
        group = _classify(d, left[0])
        other = _partner(d, group, deps, list(left))
        if other is not None:  # as one group the two have a better form: from now on they need each other
            deps[left[0][0]].add(other[0])
            left = deque(members for members in graph.components(deps) if not done & set(members))
            continue
        if isinstance(group.scan, Chunk):
            d.body = queries.ask(d.body, cell, group.scan, d.leaves, d.fresh)
        d.groups.append(group)
        done |= set(left.popleft())
    return d


def _shared(d: Derivation) -> list[Stmt]:
    """The statements with sums and softmaxes that are free of state named where they stand in one that is not.

    The algebra puts such a factor into every term of a product of sums; it is still computed once.  And a softmax can
    only be read at another place by its name.
    """
    leaves = d.leaves(*(Ref("state", s.name) for s in d.cell.states))

    def summed(n: Node) -> bool:
        return any(OPS[m.op].kind in ("reduce", "normalise") for m in walk.nodes(n))

    out: list[Stmt] = []
    for stmt in d.body.stmts:
        held = isinstance(stmt, Def) and leaves.depends(stmt.value)
        out += d.given(stmt, leaves, summed) if held else [stmt]
    return out


def _partner(
    d: Derivation, group: Group, deps: dict[Ref, set[Ref]], left: list[tuple[Ref, ...]]
) -> tuple[Ref, ...] | None:
    """A later component that reads this group's states whole, and with which it makes a chunk."""
    own = left[0]
    slow = group.kind in ("diagonal", "general") and not isinstance(group.scan, Chunk)
    if not slow or len(d.update(group.states[0]).indices) < 2:
        return None
    for other in left[1:]:
        if any(ref.kind == "history" for ref in other) or not any(deps[ref] & set(own) for ref in other):
            continue
        edge = {ref: found | {other[0]} if ref == own[0] else found for ref, found in deps.items()}
        together = next(members for members in graph.components(edge) if own[0] in members)
        if set(together) == {*own, *other} and isinstance(_classify(d, together).scan, Chunk):
            return other
    return None


def _classify(d: Derivation, members: tuple[Ref, ...]) -> Group:
    """The class of one component of the graph of states and histories."""
    states = tuple(ref.name for ref in members if ref.kind == "next")
    histories = [ref.name for ref in members if ref.kind == "history"]
    if not states:
        return Group((histories[0],), "history")
    defs = {s: d.update(s) for s in states}
    first = next(iter(defs.values()))
    if histories:
        why = f"the history `{histories[0]}` is inside the recurrence"
        return Group(states, "general", why=why, culprit=_through(d, states))
    leaves = d.leaves(*(Ref("state", s) for s in states))
    if len(states) == 1:
        if not leaves.depends(first.value):
            return Group(states, "delay", Delay(states[0]))
        if found := max_plus(leaves, first):
            return Group(states, "max-plus", Elementwise(states[0], first.indices, *found))
    for stmt in d.body.needed(Ref("next", s) for s in states):
        if isinstance(stmt, Def) and stmt.ref.kind == "def" and stmt.ref in leaves.hot:
            leaves.terms(stmt.ref)  # in the order of the text, so that no recursion is deeper than one equation
    try:
        found_map = affine(leaves, defs)
    except Unfit as unfit:
        return Group(states, "general", why=unfit.culprit.reason, culprit=unfit.culprit)
    try:
        reads = survey(d.cell, states, d.leaves(*(Ref(kind, s) for s in states for kind in ("state", "next"))))
        _refuse_tangled(d, states, reads)
    except Unfit as unfit:
        return with_roles(states, found_map, leaves, [], unfit.culprit)
    return with_roles(states, found_map, leaves, reads, None)


def _refuse_tangled(d: Derivation, states: tuple[str, ...], reads: list[Read]) -> None:
    """Raise `Unfit` for a read by a later state's recurrence with a vector that depends on that very recurrence."""
    later = [Ref("next", s.name) for s in d.cell.states if s.name not in states]
    depends = d.leaves(*(Ref("state", ref.name) for ref in later))
    if not any(depends.depends(f) for r in reads for f in r.term.coef):
        return
    deps = d.body.dependencies([*later, *(Ref("next", s) for s in states)])
    for members in graph.components({n: deps[n] & set(later) for n in later}):
        inside = d.leaves(*(Ref("state", ref.name) for ref in members))
        owners = {ref for s in d.body.needed(members) for ref in walk.defines(s)}
        for r in reads:
            if r.owner in owners and any(inside.depends(f) for f in r.term.coef):
                names = "`, `".join(ref.name for ref in members)
                raise Unfit(Culprit(r.term.leaf, f"is read inside the recurrence of `{names}`"))


def _through(d: Derivation, states: tuple[str, ...]) -> Culprit:
    """The read of a history inside a recurrence."""
    leaves = d.leaves(*(Ref("state", s) for s in states))
    reads = walk.reads(tuple(d.body.needed(Ref("next", s) for s in states)))
    through = next(n for n in reads if n.arg.ref.kind == "history" and n.arg.ref in leaves.hot)
    return Culprit(through, "depends on the state that it changes")


def _names(cell: Cell) -> set[str]:
    """Every name and index of a cell."""
    defined = {i for stmt in cell.body if isinstance(stmt, Def) for i in stmt.indices}
    return walk.names(cell) | {i.name for i in walk.indices(cell.body) | defined}
