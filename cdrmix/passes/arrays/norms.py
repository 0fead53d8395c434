"""Means of whole rows, and the variances about them: a norm's statistics as one call.

Input: a cell's statements.
Output: pairs of equations `mu[…] = mean[i](x[…,i])`, `var[…] = mean[i]((x[…,i] - mu[…])^2)`, by structure.
"""

from __future__ import annotations

from collections.abc import Sequence

from cdrmix.ir.forms import SequenceStmt
from cdrmix.ir.nodes import Def, Index, Node
from cdrmix.ir.walk import Windows


def row_of(n: Node, indices: Sequence[Index], windows: Windows) -> Node | None:
    """What `n` is the mean of, when that is a name read along its whole last axis and `indices` before it."""
    if n.op != "mean" or len(n.arg) != 1 or n.args[0].op != "read":
        return None
    read = n.args[0]
    return read if _reads(read, (*indices, n.arg[0])) and read.arg.ref not in windows else None


def variance_about(d: Def, body: Sequence[SequenceStmt], windows: Windows) -> Def | None:
    """The equation that is the variance about the mean `d`."""
    row = row_of(d.value, d.indices, windows) if d.ref.kind == "def" else None
    if row is None or row.arg.ref.kind not in ("def", "input", "next"):
        return None
    sizes = [a.size for a in row.arg.view]
    for e in body:
        if not isinstance(e, Def) or e.ref.kind != "def" or e.value.op != "mean" or len(e.value.arg) != 1:
            continue
        square = e.value.args[0]
        if square.op != "pow" or square.args[1].op != "const" or square.args[1].arg != 2 or square.args[0].op != "sub":
            continue
        x, middle = square.args[0].args
        if x.op == middle.op == "read" and x.arg.ref == row.arg.ref and middle.arg.ref == d.ref:
            same = [a.size for a in x.arg.view] == sizes and _reads(middle, e.indices)
            if same and _reads(x, (*e.indices, e.value.arg[0])):
                return e
    return None


def _reads(n: Node, indices: Sequence[Index]) -> bool:
    """Whether a read is at lone indices, these in their order, each over all of its axis."""
    return [a.arg if a.op == "index" else None for a in n.args] == [*indices] and all(
        i.axis.size == a.size for i, a in zip(indices, n.arg.view, strict=True)
    )
