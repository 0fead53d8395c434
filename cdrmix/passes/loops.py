"""The general class: a group's own updates run token by token, and everything else of the cell does not.

Input: a derivation and a group that has no faster form.
Output: what can be computed beforehand, batched over time, and the `Sequential` loop; or `CompileError` where the loop
would have to advance a part or a history.
"""

from __future__ import annotations

from cdrmix.diagnose import NOWHERE, Report
from cdrmix.ir import walk
from cdrmix.ir.forms import Sequential
from cdrmix.ir.nodes import Apply, Cell, Def, Ref, Stmt, Top
from cdrmix.ir.ops import OPS
from cdrmix.passes.classify import Derivation
from cdrmix.passes.graph import Item
from cdrmix.passes.groups import Group
from cdrmix.passes.notes import sentence


def sequential(d: Derivation, g: Group) -> list[Item]:
    """The loop of a general group, what it is given first."""
    own = {Ref("next", s) for s in g.states}
    leaves = d.leaves(*(Ref("state", s) for s in g.states))
    inside = [s for s in d.body.needed(own) if any(r in leaves.hot for r in walk.defines(s))]
    _refuse(d.cell, g, inside)
    given: list[Item] = []
    body: list[Stmt] = []
    for stmt in inside:
        *first, last = d.given(stmt, leaves, lambda n: OPS[n.op].kind != "leaf")
        given += first
        body.append(last)
    span = g.culprit.node.span if g.culprit and g.culprit.node.span != NOWHERE else inside[-1].span
    return [
        *given,
        Sequential(g.states, tuple(s for s in body if isinstance(s, (Def, Top))), sentence(d.cell, g), span),
    ]


def _refuse(cell: Cell, g: Group, inside: list[Stmt]) -> None:
    """Parts and histories have states of their own, which a loop over this group alone would not advance."""
    report, many = Report(), len(g.states) > 1
    names = ("states " if many else "state ") + " and ".join(f"`{s}`" for s in g.states)
    for stmt in inside:
        if isinstance(stmt, Apply):
            code, what = "E0410", f"part `{stmt.part}` inside {'their' if many else 'its'} own recurrence"
            help = "write the equations of the part in this op, or give it a value that does not depend on the state"
        elif isinstance(stmt, Def) and stmt.ref.kind == "history":
            code, what = "E0411", f"the history `{stmt.ref.name}`, whose entries depend on it"
            help = "let the history keep a value that does not depend on the state"
        else:
            continue
        report.error(code, stmt.span, f"{names} of `{cell.op}` {'need' if many else 'needs'} {what}", help)
    report.raise_if_any()
