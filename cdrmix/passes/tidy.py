"""Names in the sequence form as a person would choose them.

Input: statements of the sequence form.
Output: the same, where an equation that is one query gives the query its name, and bound indices have short names of
their own within each expression.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from cdrmix.ir import build, walk
from cdrmix.ir.forms import Chunk, Query, SequenceStmt
from cdrmix.ir.nodes import Cell, Def, Index, Node, Ref
from cdrmix.passes import graph
from cdrmix.passes.graph import Item
from cdrmix.passes.terms import stem


def name_queries(items: Sequence[Item]) -> list[Item]:
    """`y[h,i] = S_read[h,i]` is the query `y`."""
    asked = {Ref("def", i.name): i for i in items if isinstance(i, Query)}
    chunks = {s: i for i in items if isinstance(i, Chunk) for s in i.states}
    names: dict[Ref, Ref] = {}
    for item in items:
        if not isinstance(item, Def) or item.ref.kind != "def" or item.value.op != "read":
            continue
        read = item.value
        query = asked.get(read.arg.ref)
        if query is None or read.arg.ref in names or item.dtype != read.dtype:
            continue
        chunk = chunks[query.state]
        order = [*chunk.batch, *query.lead, *chunk.value]
        if graph.is_at(read, item.indices) and walk.sizes(order) == walk.sizes(item.indices):
            names[read.arg.ref] = item.ref
    if not names:
        return list(items)
    return [walk.map_roots(i, lambda n: walk.rename_refs(n, names)) for i in _renamed(items, names)]


def _renamed(items: Sequence[Item], names: dict[Ref, Ref]) -> Iterator[Item]:
    """The statements with queries renamed, less the equations whose names they take."""
    taken = set(names.values())
    for item in items:
        if isinstance(item, Query) and (ref := names.get(Ref("def", item.name))):
            yield replace(item, name=ref.name)
        elif not (isinstance(item, Def) and item.ref in taken):
            yield item


def short(n: Node, taken: set[str]) -> Node:
    """The expression with its bound indices under their own short names, none of them twice, none of `taken`."""
    used = {*taken, *(i.name for i in n.free)}

    def rename(m: Node, by: Mapping[Index, Index]) -> Node:
        for i in walk.bound(m):
            name = walk.fresh(stem(i.name), used)
            used.add(name)
            by = {**by, i: Index(name, i.axis)}
        args = tuple(rename(a, by) for a in m.args)
        arg = tuple(by[i] for i in m.arg) if walk.bound(m) else by.get(m.arg, m.arg)
        return walk.rebuild(m, args) if arg == m.arg else build.again(m, args, arg)

    return rename(n, {})


def tidy(cell: Cell, body: Sequence[SequenceStmt]) -> Iterator[SequenceStmt]:
    """The statements with short names."""
    taken = walk.names(cell)
    for stmt in body:
        yield walk.map_roots(stmt, lambda n: short(n, taken))
