"""Refuse a bank with state of which one token may choose an instance twice: it would advance twice.

Input: a checked model.  Output: nothing, or `CompileError` (E0903).  What `top` picks along its own index is distinct;
picks copied, taken at a fixed place or along several indices need not be.
"""

from __future__ import annotations

from cdrmix.diagnose import Report
from cdrmix.ir import walk
from cdrmix.ir.nodes import Apply, Cell, Def, Index, Model, Node, Ref, Stmt, Top


def check_routes(model: Model) -> None:
    """Check every call of a bank that has state."""
    report = Report()
    for cell in model.cells.values():
        source = {ref: stmt for stmt in cell.body for ref in walk.defines(stmt)}
        parts = {p.name: p for p in cell.parts}
        for a in cell.body:
            if not isinstance(a, Apply) or a.select is None or a.select.op == "index" or _distinct(a, source):
                continue
            if _has_state(model, model.cells[parts[a.part].cell]):
                message = f"bank `{a.part}` has state, and one token may choose an instance of it twice"
                help = "choose with all the picks of one `top`: `F[pick[k]]`"
                report.error("E0903", a.span, message, help.replace("F[", f"{a.part}["))
    report.raise_if_any()


def _has_state(model: Model, cell: Cell) -> bool:
    return bool(cell.states or cell.histories) or any(_has_state(model, model.cells[p.cell]) for p in cell.parts)


def _distinct(a: Apply, source: dict[Ref, Stmt]) -> bool:
    """Whether the instances chosen by one token are surely different ones."""
    along = [i for i in a.lead if i.axis.size > 1]
    n = a.select
    while n is not None and n.op == "read" and isinstance(stmt := source.get(n.arg.ref), Def):
        if [i.axis.size for i in stmt.indices] != [x.size for x in n.arg.view]:
            return not along
        n = walk.substitute(stmt.value, dict(zip(stmt.indices, n.args, strict=True)))
    if len(along) < 2 and n is not None and n.op == "read":
        top = source.get(n.arg.ref)
        sizes = [x.size for x in n.arg.view]
        if isinstance(top, Top) and sizes == [i.axis.size for i in (*top.lead, top.k)]:
            *lead, k = n.args
            return all(_differs(k, i) and not any(i in x.free for x in lead) for i in along)
    return not along


def _differs(place: Node, i: Index) -> bool:
    """Whether a place is another one at every value of the index."""
    if place.op in ("add", "sub"):
        moving = [x for x in place.args if i in x.free]
        return len(moving) == 1 and _differs(moving[0], i)
    return place.op == "index" and place.arg == i
