"""Who needs whom in a cell: the graph of states, and what of a body is needed.

Input: statements in an order in which they can be evaluated.
Output: strongly connected sets of states, dependencies first; the statements that given names need.
"""

from __future__ import annotations

import heapq
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


class Body:
    """Statements in an order in which they can be evaluated, with who makes and who reads each name.

    What is asked of it takes time by what is found, not by how many statements there are.  `before` is the body that
    this one is a change of.
    """

    def __init__(self, stmts: Sequence[Stmt], before: Body | None = None):
        self.stmts = list(stmts)
        known = {id(s): uses for s, uses in zip(before.stmts, before.uses, strict=True)} if before else {}
        self.uses: list[set[Ref]] = [known[id(s)] if id(s) in known else walk.uses(s) for s in self.stmts]
        self.maker: dict[Ref, int] = {}
        self.readers: dict[Ref, list[int]] = {}
        for at, (stmt, uses) in enumerate(zip(self.stmts, self.uses, strict=True)):
            self.maker |= dict.fromkeys(map(written, walk.defines(stmt)), at)
            for ref in uses:
                self.readers.setdefault(ref, []).append(at)

    def source(self, ref: Ref) -> Stmt | None:
        """The statement that defines a name, if one does."""
        at = self.maker.get(ref)
        return None if at is None else self.stmts[at]

    def needed(self, wanted: Iterable[Ref]) -> list[Stmt]:
        """The statements that these names need, in order."""
        found: set[int] = set()
        todo = list(wanted)
        while todo:
            at = self.maker.get(todo.pop())
            if at is not None and at not in found:
                found.add(at)
                todo += self.uses[at]
        return [self.stmts[at] for at in sorted(found)]

    def reached(self, refs: Iterable[Ref]) -> list[Stmt]:
        """The statements that read these names, however indirectly, in order.

        A state passes on what it is given in the next token only, and a carry in another layer.
        """
        found: set[int] = set()
        todo = list(refs)
        while todo:
            for at in self.readers.get(todo.pop(), ()):
                if at not in found:
                    found.add(at)
                    todo += [ref for ref in walk.defines(self.stmts[at]) if ref.kind != "carry"]
        return [self.stmts[at] for at in sorted(found)]


def components(deps: Mapping[Name, Collection[Name]]) -> list[tuple[Name, ...]]:
    """Strongly connected components, dependencies first, otherwise in the given order."""
    place = {n: at for at, n in enumerate(deps)}
    sets = [tuple(sorted(members, key=place.__getitem__)) for members in _connected(deps)]
    home = {n: at for at, members in enumerate(sets) for n in members}
    waits = [{home[d] for n in members for d in deps[n]} - {at} for at, members in enumerate(sets)]
    later: list[list[int]] = [[] for _ in sets]
    for at, needs in enumerate(waits):
        for other in needs:
            later[other].append(at)
    ready = [(place[sets[at][0]], at) for at, needs in enumerate(waits) if not needs]
    heapq.heapify(ready)
    out = []
    while ready:
        _, at = heapq.heappop(ready)
        out.append(sets[at])
        for other in later[at]:
            waits[other].discard(at)
            if not waits[other]:
                heapq.heappush(ready, (place[sets[other][0]], other))
    return out


def _connected(deps: Mapping[Name, Collection[Name]]) -> list[list[Name]]:
    """The strongly connected sets, by Tarjan's algorithm without recursion."""
    number: dict[Name, int] = {}
    low: dict[Name, int] = {}
    stack: list[Name] = []
    held: set[Name] = set()
    found: list[list[Name]] = []
    for root in deps:
        if root in number:
            continue
        path = [(root, iter(deps[root]))]
        number[root] = low[root] = len(number)
        stack.append(root)
        held.add(root)
        while path:
            n, others = path[-1]
            new = next((m for m in others if m not in number or m in held), None)
            if new is None:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[n])
                if low[n] == number[n]:
                    members = [stack.pop()]
                    while members[-1] != n:
                        members.append(stack.pop())
                    found.append(members)
                    held.difference_update(members)
            elif new in number:
                low[n] = min(low[n], number[new])
            else:
                number[new] = low[new] = len(number)
                stack.append(new)
                held.add(new)
                path.append((new, iter(deps[new])))
    return found
