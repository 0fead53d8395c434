"""Who needs whom: the graph of a body's statements, those of the sequence form too, and the graph of a cell's states.

Input: statements.
Output: what of them is needed, and what depends on a name; an order in which they can be evaluated; the sets of states
that need each other, dependencies first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from heapq import heappop, heappush
from math import prod
from typing import Any, TypeVar

from cdrmix.ir import build, walk
from cdrmix.ir.forms import Attend, Chunk, Coupled, Delay, Elementwise, Query, SequenceStmt, Sequential
from cdrmix.ir.nodes import Def, Index, Node, Ref, Top
from cdrmix.ir.ops import OPS

Name = TypeVar("Name", bound=Hashable)
Item = SequenceStmt | Query
"""A statement on its way to the sequence form: what a chunk is asked stands beside it."""


def is_root(stmt: Any) -> bool:
    """Whether a statement does something by itself: gives the output, writes a state, a history or a carry, or
    advances a part."""
    if isinstance(stmt, Def):
        return stmt.ref.kind in ("output", "carry", "history", "next")
    return not isinstance(stmt, (Top, Query, Attend))


def defines(stmt: Any) -> set[Ref]:
    """What can be read after a statement, over the whole sequence where it is one of the sequence form.

    A chunk's states stay unknown; what a layer writes to a carry only layers below read.
    """
    match stmt:
        case Delay():
            return {Ref("state", stmt.state)}
        case Elementwise():
            return {Ref("state", stmt.state), Ref("next", stmt.state)}
        case Coupled() | Sequential():
            return {ref for s in stmt.states for ref in (Ref("state", s), Ref("next", s))}
        case Chunk():
            return {Ref("def", q.name) for q in stmt.queries}
        case _:
            return {ref for ref in walk.defines(stmt) if ref.kind != "carry"}


def uses(stmt: Any) -> set[Ref]:
    """What must be known before a statement."""
    match stmt:
        case Delay():
            return {Ref("next", stmt.state)}
        case Sequential():
            return set().union(*map(walk.uses, stmt.body)) - defines(stmt).union(*map(defines, stmt.body))
        case _:
            return walk.uses(stmt)


def is_small(n: Node) -> bool:
    """Whether a value for every token takes no more room than what it is made of."""
    return walk.size(n.free) <= max((prod(a.size for a in m.arg.view) for m in walk.reads(n)), default=0)


def is_at(read: Node, indices: Sequence[Index]) -> bool:
    """Whether a name is read at these indices, along axes of their sizes."""
    places = [a.arg if a.op == "index" else None for a in read.args]
    return places == [*indices] and tuple(a.size for a in read.arg.view) == walk.sizes(indices)


def lift(n: Node, chosen: Callable[[Node], bool], name: Callable[[], str], out: list[Any]) -> Node:
    """`n` with the outermost of its subexpressions that are `chosen` as definitions of their own, which `out` takes."""
    if not chosen(n):
        return n if OPS[n.op].kind == "leaf" else walk.rebuild(n, tuple(lift(a, chosen, name, out) for a in n.args))
    ref = Ref("def", name())
    out.append(Def(ref, n.free, n, n.dtype, n.span))
    return build.read(ref, [i.axis for i in n.free], n.free, n.dtype, n.span)


class Body:
    """Statements with who makes and who reads each name.

    What is asked of it takes time by what is found, not by how many statements there are.
    """

    def __init__(self, stmts: Iterable[Any]):
        self.stmts = list(stmts)
        self.uses = [uses(s) for s in self.stmts]
        self.maker = {ref: at for at, stmt in enumerate(self.stmts) for ref in defines(stmt)}
        self.readers: dict[Ref, list[int]] = {}
        for at, refs in enumerate(self.uses):
            for ref in refs:
                self.readers.setdefault(ref, []).append(at)

    def source(self, ref: Ref) -> Any:
        """The statement that defines a name; None without one."""
        at = self.maker.get(ref)
        return None if at is None else self.stmts[at]

    def needed(
        self,
        wanted: Iterable[Ref],
        root: Callable[[Any], bool] = lambda stmt: False,
        stop: Collection[Ref] = (),
    ) -> list[Any]:
        """The statements that these names and the roots need, in the given order; needs do not pass through `stop`."""
        found = {at for at, stmt in enumerate(self.stmts) if root(stmt)}
        todo = [*wanted, *(ref for at in found for ref in self.uses[at] if ref not in stop)]
        while todo:
            at = self.maker.get(todo.pop())
            if at is not None and at not in found:
                found.add(at)
                todo += [ref for ref in self.uses[at] if ref not in stop]
        return [self.stmts[at] for at in sorted(found)]

    def reached(self, refs: Iterable[Ref]) -> list[Any]:
        """The statements that read these names, however indirectly, in the given order.

        A state passes on what it is given in the next token only, and a carry in another layer.
        """
        found: set[int] = set()
        todo = list(refs)
        while todo:
            for at in self.readers.get(todo.pop(), ()):
                if at not in found:
                    found.add(at)
                    todo += defines(self.stmts[at])
        return [self.stmts[at] for at in sorted(found)]

    def dependencies(self, nodes: Iterable[Ref]) -> dict[Ref, set[Ref]]:
        """For each of `nodes`, the `next` of a state or a history, which of them its definition reads.

        A read of the state before or after the token is an edge to its `next`.
        """
        as_node = {ref: n for n in nodes for ref in (n, Ref("state", n.name) if n.kind == "next" else n)}

        def reads(n: Ref) -> set[Ref]:
            own = self.uses[self.maker[n]]
            inside = self.needed(own.difference(as_node), stop=as_node)
            return {as_node[ref] for ref in own.union(*map(uses, inside)) if ref in as_node}

        return {n: reads(n) for n in dict.fromkeys(as_node.values())}


def in_order(needs: Sequence[Collection[int]], groups: Sequence[Hashable] = ()) -> Iterator[tuple[int, ...]]:
    """Numbers, each after those that it needs, else the smallest first; neighbours of one group together where they can
    be.  Raises `CycleError`."""
    groups = groups or range(len(needs))
    sorter = TopologicalSorter(dict(enumerate(needs)))
    sorter.prepare()
    ready: list[int] = []
    while sorter.is_active():
        for n in sorter.get_ready():
            heappush(ready, n)
        now = [heappop(ready)]
        while ready and groups[ready[0]] == groups[now[0]]:
            now.append(heappop(ready))
        yield tuple(now)
        sorter.done(*now)


def components(deps: Mapping[Name, Collection[Name]]) -> list[tuple[Name, ...]]:
    """Strongly connected components, dependencies first, otherwise in the given order."""
    reach = {n: {n, *deps[n]} for n in deps}  # its transitive closure (Warshall 1962)
    for middle in deps:
        for n in deps:
            if middle in reach[n]:
                reach[n] |= reach[middle]
    sets = list(dict.fromkeys(tuple(m for m in deps if m in reach[n] and n in reach[m]) for n in deps))
    home = {n: at for at, members in enumerate(sets) for n in members}
    needs = [{home[d] for n in members for d in deps[n]} - {at} for at, members in enumerate(sets)]
    return [sets[at] for (at,) in in_order(needs)]
