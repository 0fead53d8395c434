"""Prepares a step form's statements for C: products of matrices by themselves.

Input: the statements of a cell.  Output: the same, with a sum of products that is only a piece of a definition over
the same indices (`relu(Wk @ x)^2`) as a definition of its own before it, so that the matrix product is one kernel.
"""

from __future__ import annotations

from dataclasses import replace

from cdrmix.codegen.c.nest import factors

from cdrmix.ir import build, walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Cell, Def, Node, Ref, Stmt


def products_first(cell: Cell, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """The statements with their matrix products pulled out."""
    taken = walk.names(replace(cell, body=body))
    found: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, Def) and stmt.value.op != "sum":
            before: list[Stmt] = []
            value = _pull(stmt, stmt.value, before, taken)
            found += before
            stmt = stmt if value is stmt.value else replace(stmt, value=value)
        found.append(stmt)
    return tuple(found)


def _pull(d: Def, n: Node, before: list[Stmt], taken: set[str]) -> Node:
    if n.op == "sum" and set(n.free) == set(d.indices) and d.indices and n.dtype in FLOATS and _is_product(n):
        ref = Ref("def", walk.fresh(f"{d.ref.name}_sum", taken))
        taken.add(ref.name)
        before.append(Def(ref, d.indices, n, n.dtype, n.span))
        return build.read(ref, [i.axis for i in d.indices], d.indices, n.dtype, n.span)
    return walk.rebuild(n, tuple(_pull(d, a, before, taken) for a in n.args))


def _is_product(n: Node) -> bool:
    pair = factors(n.args[0])
    return len(n.arg) == 1 and len(pair) == 2 and all(f.op == "read" and n.arg[0] in f.free for f in pair)
