"""Which parameters multiply vectors: what an optimiser of matrices (Muon) moves.

Input: a cell, or a model.  Output: whether a parameter of two axes is a matrix, decided on the equations that read it;
of a model, the tensors that are, between its first and its last line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cdrmix.ir import walk
from cdrmix.ir.layout import Weight, weights
from cdrmix.ir.nodes import Cell, Def, Index, Model, Node, Param, Ref

Sides = tuple[set[Index], set[Index]]
"""The indices that run over a parameter's rows, and those over its columns."""


def matrices(model: Model) -> list[Weight]:
    """The matrices but for those of the first and the last line, a tied tensor once."""
    lines = [model.lines[0], model.lines[-1]]
    ends = {i.path for line in lines for i in line.chain}
    found = weights(model)
    at_ends = {w.owner for w in found if w.place.instance.path in ends}
    return [w for w in found if w.owner == w.path and w.path not in at_ends and _is_matrix(w)]


def _is_matrix(w: Weight) -> bool:
    return isinstance(w.decl, Param) and is_matrix(w.decl, w.place.cell)


def is_matrix(p: Param, cell: Cell) -> bool:
    """Whether a parameter of two axes multiplies a vector, by a sum over an axis, or two vectors, by a sum over both.

    No other factor varies over rows and columns alike: that would make it a weight of each pair.  Either axis may be
    read in parts, as heads; the parameter may be a factor of a definition, such as `W / 8`.
    """
    made = {stmt.ref: stmt for stmt in cell.body if isinstance(stmt, Def)}
    sums = (n for stmt in cell.body for n in walk.nodes(stmt) if n.op == "sum")
    return len(p.indices) == 2 and any(_multiplies(p, n, made) for n in sums)


def _multiplies(p: Param, n: Node, made: Mapping[Ref, Def]) -> bool:
    """Whether a sum is such a one of p."""
    product, summed = list(_factors(n.args[0], p, made)), set(n.arg)
    for at, x in enumerate(product):
        if x.op == "read" and x.arg.ref == Ref("param", p.name) and (sides := _sides(p, x)):
            others = [set(y.free) for y in (*product[:at], *product[at + 1 :])]
            along = [side <= summed and any(side & other for other in others) for side in sides]
            across = [not side & summed for side in sides]
            weighed = any(all(side & other for side in sides) for other in others)
            if any(along) and all(a or b for a, b in zip(along, across, strict=True)) and not weighed:
                return True
    return False


def _factors(n: Node, p: Param, made: Mapping[Ref, Def]) -> Iterator[Node]:
    """The factors of a product, those of a definition in its place where p is in it."""
    for x in walk.factors(n):
        d = made.get(x.arg.ref) if x.op == "read" else None
        if d is None or Ref("param", p.name) not in walk.refs(d.value) or not _named(x, d):
            yield x
        else:
            yield from _factors(walk.substitute(d.value, dict(zip(d.indices, x.args, strict=True))), p, made)


def _named(x: Node, d: Def) -> bool:
    """Whether a definition is read under its own axes, at an index each."""
    own = walk.sizes(d.indices)
    return tuple(a.size for a in x.arg.view) == own and all(a.op == "index" for a in x.args)


def _sides(p: Param, x: Node) -> Sides | None:
    """What runs over the rows and the columns of a read; None where an index runs over both, or a table is read."""
    rows, size, sides = p.indices[0].axis.size, 1, (set[Index](), set[Index]())
    for axis, place in zip(x.arg.view, x.args, strict=True):
        side = int(size >= rows)
        size *= axis.size
        if walk.has_reads(place) or (side == 0 and size > rows):
            return None
        sides[side].update(place.free)
    return sides if all(sides) and not sides[0] & sides[1] else None
