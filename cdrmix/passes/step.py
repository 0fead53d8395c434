"""The step form: one token, its statements in an order that lets states be overwritten where they lie.

Input: a cell.
Output: a `StepForm`.  A state can be updated in place when its update reads the old state only at the place it writes
(contracted reads become equations before it) and every other reader of the old state can run before.  Where readers
and writers form a circle the smallest states give way: they get a second buffer.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from functools import partial
from math import prod

from cdrmix.ir import build, walk
from cdrmix.ir.forms import StepForm
from cdrmix.ir.nodes import Cell, Def, Node, Ref, Stmt
from cdrmix.ir.ops import OPS
from cdrmix.passes import graph
from cdrmix.passes.graph import written


def step_form(cell: Cell) -> StepForm:
    """Derive the step form; what only training reads is left out."""
    stmts = graph.needed(cell.body, graph.is_root)
    taken = walk.names(cell)
    size = {s.name: prod(i.axis.size for i in s.indices) for s in cell.states}
    in_place: list[str] = []
    for state in sorted(size, key=lambda s: (-size[s], s)):
        for body in (stmts, _contract_first(cell, stmts, state, size[state], taken)):
            if _is_local(body, state) and (order := _order(body, [*in_place, state])) is not None:
                in_place.append(state)
                stmts = order
                break
    return StepForm(tuple(stmts), frozenset(in_place))


def _contract_first(cell: Cell, stmts: Sequence[Stmt], state: str, size: int, taken: set[str]) -> list[Stmt]:
    """The statements with sums over the old state as equations before them, where they are smaller than the state."""
    old, over_window = Ref("state", state), walk.windows(cell)
    out: list[Stmt] = []

    def visit(owner: Def, n: Node) -> Node:
        if not any(m.arg.ref == old for m in walk.reads(n)):
            return n
        smaller = prod(i.axis.size for i in n.free) < size and not walk.windowed(n, over_window) & set(n.free)
        if OPS[n.op].kind == "reduce" and smaller:
            name = walk.fresh(f"{owner.ref.name}_{state}_sum", taken)
            taken.add(name)
            out.append(Def(Ref("def", name), n.free, n, n.dtype, n.span))
            return build.read(Ref("def", name), [i.axis for i in n.free], n.free, n.dtype, n.span)
        return walk.rebuild(n, tuple(visit(owner, a) for a in n.args))

    for stmt in stmts:
        out.append(walk.map_roots(stmt, partial(visit, stmt)) if isinstance(stmt, Def) else stmt)
    return out


def _is_local(stmts: Sequence[Stmt], state: str) -> bool:
    """Whether a state's update reads the old state only at the place that it writes."""
    update = next(s for s in stmts if isinstance(s, Def) and s.ref == Ref("next", state))
    return all(
        [a.size for a in n.arg.view] == [i.axis.size for i in update.indices]
        and all(a.op == "index" and a.arg == i for a, i in zip(n.args, update.indices, strict=True))
        for n in walk.reads(update.value)
        if n.arg.ref == Ref("state", state)
    )


def _order(stmts: Sequence[Stmt], in_place: Sequence[str]) -> list[Stmt] | None:
    """The statements with every reader of an old state before its update, otherwise in the given order.

    None when that is a circle.
    """
    makes: Mapping[Ref, int] = {written(ref): n for n, stmt in enumerate(stmts) for ref in walk.defines(stmt)}
    after: list[set[int]] = [set() for _ in stmts]  # what must wait for a statement
    for n, stmt in enumerate(stmts):
        for ref in walk.uses(stmt):
            if ref in makes:
                after[makes[ref]].add(n)
            if ref.kind == "state" and ref.name in in_place and makes[Ref("next", ref.name)] != n:
                after[n].add(makes[Ref("next", ref.name)])
    waits = [0] * len(stmts)
    for later in after:
        for n in later:
            waits[n] += 1
    ready = [n for n, count in enumerate(waits) if count == 0]
    out: list[Stmt] = []
    while ready:
        n = heapq.heappop(ready)
        out.append(stmts[n])
        for m in after[n]:
            waits[m] -= 1
            if waits[m] == 0:
                heapq.heappush(ready, m)
    return out if len(out) == len(stmts) else None
