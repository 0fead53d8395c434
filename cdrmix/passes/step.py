"""The step form: one token, its statements in an order that lets states be overwritten where they lie.

Input: a cell.
Output: a `StepForm`.  A state can be updated in place when its update reads the old state only at the place it writes
(contracted reads become equations before it) and every other reader of the old state can run before.  Where readers
and writers form a circle the smallest states give way: they get a second buffer.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from graphlib import CycleError
from math import prod

from cdrmix.ir import build, walk
from cdrmix.ir.forms import StepForm
from cdrmix.ir.nodes import Cell, Def, Node, Ref, Stmt
from cdrmix.ir.ops import OPS
from cdrmix.passes import graph


def step_form(cell: Cell) -> StepForm:
    """Derive the step form; what only training reads is left out."""
    body = graph.Body(graph.Body(cell.body).needed((), graph.is_root))
    taken = walk.names(cell)
    size = {s.name: prod(i.axis.size for i in s.indices) for s in cell.states}
    in_place: set[str] = set()
    for state in sorted(size, key=lambda s: (-size[s], s)):
        for contract in (False, True):
            new = _contract_first(cell, body, state, size[state], taken) if contract else body
            if _is_local(new, state) and (order := _order(new, state, in_place)) is not None:
                in_place.add(state)
                body = order
                break
    return StepForm(tuple(body.stmts), frozenset(in_place))


def _contract_first(cell: Cell, body: graph.Body, state: str, size: int, taken: set[str]) -> graph.Body:
    """The statements with sums over the old state as equations before them, where they are smaller than the state."""
    old, over_window = Ref("state", state), walk.windows(cell)
    out: list[Stmt] = []

    def visit(owner: Def, held: set[int], n: Node) -> Node:
        if id(n) not in held:
            return n
        smaller = prod(i.axis.size for i in n.free) < size and not walk.windowed(n, over_window) & set(n.free)
        if OPS[n.op].kind == "reduce" and smaller:
            name = walk.fresh(f"{owner.ref.name}_{state}_sum", taken)
            taken.add(name)
            out.append(Def(Ref("def", name), n.free, n, n.dtype, n.span))
            return build.read(Ref("def", name), [i.axis for i in n.free], n.free, n.dtype, n.span)
        return walk.rebuild(n, tuple(visit(owner, held, a) for a in n.args))

    for stmt, uses in zip(body.stmts, body.uses, strict=True):
        if isinstance(stmt, Def) and old in uses:
            stmt = walk.map_roots(stmt, partial(visit, stmt, walk.holding(stmt.value, old)))
        out.append(stmt)
    return graph.Body(out, body)


def _is_local(body: graph.Body, state: str) -> bool:
    """Whether a state's update reads the old state only at the place that it writes."""
    update = body.source(Ref("next", state))
    assert isinstance(update, Def)
    return all(
        [a.size for a in n.arg.view] == [i.axis.size for i in update.indices]
        and all(a.op == "index" and a.arg == i for a, i in zip(n.args, update.indices, strict=True))
        for n in walk.reads(update.value)
        if n.arg.ref == Ref("state", state)
    )


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
        return graph.Body([body.stmts[n] for (n,) in graph.in_order(needs)], body)
    except CycleError:
        return None
