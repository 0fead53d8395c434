"""Indices split into several, row-major; nodes replaced.

Input: an assignment or an expression, an index of it, and the sizes or the indices that it becomes.
Output: the same elements, over the new indices: a read at the index alone gets a finer view of what it reads.
"""

from __future__ import annotations

from dataclasses import replace

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Axis, Index, Node

from .drafted import Assign, nodes_of


def split_index(a: Assign, i: Index, into: tuple[int, ...]) -> Assign:
    """The same assignment over several indices in the place of one."""
    names = {j.name for n in nodes_of(a) for j in walk.indices(n)} | {j.name for j in a.indices}
    new = []
    for p, size in enumerate(into):
        name = walk.fresh(f"{i.name}{p}", names)
        names.add(name)
        new.append(Index(name, Axis(f"{i.axis.name}{p}", size)))
    indices = tuple(j for k in a.indices for j in (new if k == i else [k]))
    place = tuple(split_node(n, i, new) for n in a.place) if a.place is not None else None
    return replace(a, indices=indices, value=split_node(a.value, i, new), place=place)


def split_node(n: Node, i: Index, new: list[Index]) -> Node:
    """An expression with an index in several: reads at it alone get a finer view."""
    if i not in n.free:
        return n
    if n.op == "index":
        made = build.index(new[0])
        for j in new[1:]:
            made = build.add(build.mul(made, build.const(j.axis.size)), build.index(j))
        return made
    if n.op == "read":
        view: list[Axis] = []
        args: list[Node] = []
        for axis, arg in zip(n.arg.view, n.args, strict=True):
            if arg.op == "index" and arg.arg == i:
                view += [j.axis for j in new]
                args += map(build.index, new)
            else:
                view.append(axis)
                args.append(split_node(arg, i, new))
        return build.read(n.arg.ref, view, args, n.dtype, n.span)
    return walk.rebuild(n, tuple(split_node(arg, i, new) for arg in n.args))


def replaced(n: Node, old: Node, new: Node) -> Node:
    """An expression with one node for another, wherever it stands."""
    return new if n == old else walk.rebuild(n, tuple(replaced(a, old, new) for a in n.args))
