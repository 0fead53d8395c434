"""Whole numbers of equations as targets hold them: in 32 bits.

Input: a simplified cell.  Output: the cell in which a whole number that meets a float is that float where it is large;
`CompileError` (E0906) where index arithmetic reaches past 32 bits.
"""

from __future__ import annotations

from dataclasses import replace

from cdrmix.diagnose import Report
from cdrmix.ir import build, walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Cell, Node
from cdrmix.ir.ops import OPS
from cdrmix.ir.places import bounds_by

LARGEST = 2**31 - 1

Range = tuple[float, float] | None


def fit_whole(cell: Cell, report: Report) -> Cell:
    """The cell with whole numbers that fit; reports those that do not."""
    groups = (cell.body, cell.training, cell.states)
    body, training, states = walk.map_roots(groups, lambda n: _fit(n, report))
    return replace(cell, body=body, training=training, states=states)


def _fit(root: Node, report: Report) -> Node:
    ranges: dict[int, tuple[Node, Range]] = {}

    def of(n: Node) -> Range:
        return ranges[id(n)][1] if id(n) in ranges else None

    def fit(n: Node) -> Node:
        if n.dtype in FLOATS and any(_is_large(a) for a in n.args):
            n = walk.rebuild(n, tuple(build.const(float(a.arg), a.span) if _is_large(a) else a for a in n.args))
        if n.dtype == "int":
            found = _range(n, [of(a) for a in n.args])
            if found is not None and max(map(abs, found)) > LARGEST and n.op != "const":
                far = max(found, key=abs)
                report.error("E0906", n.span, f"this whole number reaches {far}, and whole numbers of an equation stay "
                             "below 2^31", "compute it with floats: one factor with a point, as `2.0*i`")  # fmt: skip
                found = None
            ranges[id(n)] = n, found
        return n

    new = walk.transform(root, fit)
    if _is_large(new):
        return build.const(float(new.arg), new.span)
    for n in walk.nodes(new):
        if _is_large(n):
            report.error("E0906", n.span, f"{n.arg} is a whole number of more than 32 bits",
                         "write it with a point: it is a float then")  # fmt: skip
    return new


def _is_large(n: Node) -> bool:
    return n.op == "const" and isinstance(n.arg, int) and abs(n.arg) > LARGEST


def _range(n: Node, args: list[Range]) -> Range:
    """The least and the largest value of index arithmetic; None where that is not known, or was told."""
    known = [a for a in args if a is not None]
    plain = n.op in ("const", "index") or OPS[n.op].monotone
    return bounds_by(n, known) if plain and len(known) == len(args) else None
