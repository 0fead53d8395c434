"""Emission of a bank's call: the MoE route.

Input: an `Apply` with a `select`, the bank and what its experts are.
Output: lines in the scope.  Experts without state see rows sorted by expert; experts with state, or picked by
position, run on their own tokens (`run_chosen`).  Every instance of a bank indexed by its own index runs (`run_every`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cdrmix.ir import walk
from cdrmix.ir.nodes import Apply, Cell, Part, Ref

from . import names as escape
from .casts import full
from .scope import Scope, Symbol, refuse
from .statements import given, valued


def as_rows(cell: Cell, cells: Mapping[str, Cell]) -> bool:
    """Whether many tokens of many instances can be computed as rows: nothing runs along time or place."""
    if cell.states or cell.histories or cell.carries or cell.training or any(p.bank for p in cell.parts):
        return False
    if any(m.op == "context" for s in cell.body for n in walk.roots(s) for m in walk.nodes(n)):
        return False
    return all(as_rows(cells[p.cell], cells) for p in cell.parts)


def emit_bank(
    a: Apply, part: Part, formals: Sequence[tuple[int, bool]], cells: Mapping[str, Cell], scope: Scope
) -> None:
    """One call of a bank."""
    assert part.bank is not None and a.select is not None
    scope.say(a.span)
    bank, path = f"self.{escape.attribute(a.part)}", f"self.at + {escape.text(a.part + '.')}"
    name = scope.names.fresh(a.name)
    if a.select.op == "index":
        if a.lead != (a.select.arg,):
            message = f"bank `{a.part}` is called over more than its own index"
            raise refuse("E0903", a.span, message, "give each instance all of its values at once, and index the result")
        inputs = [given(g, a.lead, *formal, scope) for g, formal in zip(a.inputs, formals, strict=True)]
        listed = ", ".join(f"({code}, {front > 0})" for code, front in inputs)
        scope.line(f"{name} = run_every({bank}, {path}, [{listed}], stream)")
    elif as_rows(cells[part.cell], cells):
        _emit_rows(a, part, formals, scope, bank, name)
    else:
        if len(a.lead) != 1:
            message = f"bank `{a.part}` has state, and is not chosen from along one index"
            raise refuse("E0903", a.span, message, f"choose along one: `sum[k]({a.part}[pick[k]](…)[d])`")
        pick = full(valued(scope, a.select, a.lead), a.lead, scope, place=True)
        inputs = [given(g, a.lead, *formal, scope) for g, formal in zip(a.inputs, formals, strict=True)]
        listed = ", ".join(f"({code}, {front > 0})" for code, front in inputs)
        room = _capacity(part, scope)
        dropped = scope.names.fresh(f"{a.part}_dropped") if part.capacity > 0 else "_"
        scope.line(f"{name}, {dropped} = run_chosen({bank}, {path}, {pick}, [{listed}], stream{room})")
        _keep_dropped(part, scope, dropped)
    indices = (*a.lead, *a.outs)
    scope.symbols[Ref("def", a.name)] = Symbol(
        name, "float", tuple(i.axis.size for i in indices), (True,) * len(indices), True
    )


def _emit_rows(a: Apply, part: Part, formals: Sequence[tuple[int, bool]], scope: Scope, bank: str, name: str) -> None:
    assert part.bank is not None and a.select is not None
    pick = full(valued(scope, a.select, a.lead), a.lead, scope, place=True)
    routes = scope.let("routes", f"route({pick}, {part.bank.axis.size}{_capacity(part, scope)})")
    inputs = []
    for g, (axes, place) in zip(a.inputs, formals, strict=True):
        code, _ = given(g, a.lead, axes, place, scope)
        inputs.append(f"{routes}.rows({code}, {axes})")
    scope.line(f"{name} = {routes}.back({bank}.routed({', '.join([*inputs, routes])}))")
    _keep_dropped(part, scope, f"{routes}.dropped")


def _capacity(part: Part, scope: Scope) -> str:
    if part.capacity <= 0 or scope.mode != "forward":
        return ""
    return f", {part.capacity!r} if self.training else 0.0"


def _keep_dropped(part: Part, scope: Scope, count: str) -> None:
    """What found no room is a metric of its own, beside the bank's path."""
    if part.capacity > 0 and scope.mode == "forward":
        scope.line("if stream.sums is not None:")
        key = f"self.at + {escape.text(part.name + '.dropped')}"
        scope.line(f"    stream.sums[{key}] = {scope.data}.new_tensor(float({count}))")
