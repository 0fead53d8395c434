"""The step form: one token, its statements in an order that lets states be overwritten where they lie.

Input: a cell.
Output: a `StepForm`.  A state can be updated in place when its update reads the old state only at the place it writes
(contracted reads become equations before it) and every other reader of the old state can run before.  Where readers
and writers form a circle the smallest states give way: they get a second buffer.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from graphlib import CycleError

from cdrmix.ir import walk
from cdrmix.ir.forms import StepForm
from cdrmix.ir.nodes import Cell, Def, Node, Ref, Stmt
from cdrmix.ir.ops import OPS
from cdrmix.passes import graph
from cdrmix.passes.terms import Fresh


def step_form(cell: Cell) -> StepForm:
    """Derive the step form; what only training reads is left out."""
    body = graph.Body(graph.Body(cell.body).needed((), graph.is_root))
    taken = Fresh(walk.names(cell))
    size = {s.name: walk.size(s.indices) for s in cell.states}
    in_place: set[str] = set()
    for state in sorted(size, key=lambda s: (-size[s], s)):
        for contract in (False, True):
            new = _contract_first(cell, body, state, size[state], taken) if contract else body
            if _is_local(new, state) and (order := _order(new, state, in_place)) is not None:
                in_place.add(state)
                body = order
                break
    return StepForm(tuple(body.stmts), frozenset(in_place))


def _contract_first(cell: Cell, body: graph.Body, state: str, size: int, taken: Fresh) -> graph.Body:
    """The statements with sums over the old state as equations before them, where they are smaller than the state."""
    old, over_window = Ref("state", state), walk.windows(cell)
    out: list[Stmt] = []

    def chosen(n: Node) -> bool:
        if OPS[n.op].kind != "reduce" or old not in walk.refs(n):
            return False
        return walk.size(n.free) < size and not walk.windowed(n, over_window) & set(n.free)

    for stmt, uses in zip(body.stmts, body.uses, strict=True):
        if isinstance(stmt, Def) and old in uses:
            name = partial(taken.name, f"{stmt.ref.name}_{state}_sum")
            stmt = replace(stmt, value=graph.lift(stmt.value, chosen, name, out))
        out.append(stmt)
    return graph.Body(out)


def _is_local(body: graph.Body, state: str) -> bool:
    """Whether a state's update reads the old state only at the place that it writes."""
    update = body.source(Ref("next", state))
    assert isinstance(update, Def)
    old = Ref("state", state)
    return all(graph.is_at(n, update.indices) for n in walk.reads(update.value) if n.arg.ref == old)


def _order(body: graph.Body, state: str, in_place: Collection[str]) -> graph.Body | None:
    """The statements with every reader of an old state, this one and those already in place, before its update,
    otherwise in the given order.  None when that is a circle.
    """
    update = body.maker[Ref("next", state)]
    if all(at <= update for at in body.readers.get(Ref("state", state), ())):
        return body
    needs = [{body.maker[ref] for ref in uses if ref in body.maker} for uses in body.uses]
    for update, s in ((body.maker[Ref("next", s)], s) for s in (state, *in_place)):
        needs[update] |= {*body.readers.get(Ref("state", s), ())} - {update}
    try:
        return graph.Body([body.stmts[n] for (n,) in graph.in_order(needs)])
    except CycleError:
        return None
