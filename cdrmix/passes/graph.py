"""Who needs whom in a cell: the graph of states, and what of a body is needed.

Input: statements in an order in which they can be evaluated.
Output: strongly connected sets of states, dependencies first; the statements that given names need.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from math import prod
from typing import TypeVar

from cdrmix.ir import walk
from cdrmix.ir.nodes import Apply, Cell, Def, Node, Ref, Stmt

Name = TypeVar("Name", bound=Hashable)

ROOT_KINDS = ("output", "carry", "history", "next")


def is_root(stmt: Stmt) -> bool:
    """Whether a statement does something by itself: gives the output, writes a state, a history or a carry, or
    advances a part."""
    return isinstance(stmt, Apply) or (isinstance(stmt, Def) and stmt.ref.kind in ROOT_KINDS)


def training_refs(cell: Cell) -> set[Ref]:
    """What the training values of a cell read."""
    return {ref for t in cell.training for ref in walk.refs(t.value)}


def needed(
    stmts: Sequence[Stmt], root: Callable[[Stmt], bool], also: Collection[Ref] = (), stop: Collection[Ref] = ()
) -> list[Stmt]:
    """The statements that the roots and the names `also` need, in order; needs do not pass through `stop`."""
    wanted, kept = set(also), []
    for stmt in reversed(stmts):
        if root(stmt) or any(written(r) in wanted for r in walk.defines(stmt)):
            kept.append(stmt)
            wanted |= walk.uses(stmt) - set(stop)
    return kept[::-1]


def written(ref: Ref) -> Ref:
    """The name by which a definition is read: what a layer writes to a carry only layers below read."""
    return Ref("carry", f"{ref.name}'") if ref.kind == "carry" else ref


def is_small(n: Node) -> bool:
    """Whether a value for every token takes no more room than what it is made of."""
    largest = max((prod(a.size for a in m.arg.view) for m in walk.reads(n)), default=0)
    return prod(i.axis.size for i in n.free) <= largest


def dependencies(stmts: Sequence[Stmt], nodes: Iterable[Ref]) -> dict[Ref, set[Ref]]:
    """For each of `nodes`, the `next` of a state or a history, which of them its definition reads.

    A read of the state before or after the token is an edge to its `next`.
    """
    nodes = list(nodes)
    reach: dict[Ref, frozenset[Ref]] = {Ref("state", n.name): frozenset({n}) for n in nodes if n.kind == "next"}
    found: dict[Ref, set[Ref]] = {n: set() for n in nodes}
    for stmt in stmts:
        here = frozenset().union(*(reach.get(ref, frozenset()) for ref in walk.uses(stmt)))
        for ref in walk.defines(stmt):
            if ref in found:
                found[ref] = set(here)
                reach[ref] = frozenset({ref})
            elif ref.kind != "carry":
                reach[ref] = here
    return found


def components(deps: Mapping[Name, Collection[Name]]) -> list[tuple[Name, ...]]:
    """Strongly connected components, dependencies first, otherwise in the given order."""
    reach = {n: set(d) for n, d in deps.items()}
    for k in reach:
        for n in reach:
            if k in reach[n]:
                reach[n] |= reach[k]
    left, out = list(deps), []
    while left:
        for n in left:
            members = tuple(m for m in left if m == n or (m in reach[n] and n in reach[m]))
            if not (reach[n] & set(left)) - set(members):
                out.append(members)
                left = [m for m in left if m not in members]
                break
    return out
