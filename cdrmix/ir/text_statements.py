"""Statements as text, of a cell's body and of every form.

Input: one statement, and the axes that index names stand for in its cell.
Output: its lines.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from cdrmix.ir import forms
from cdrmix.ir.nodes import Apply, Def, DType, Given, Index, Ref, Top
from cdrmix.ir.text_nodes import Known, binder, expression, name, over


@singledispatch
def statement(stmt: Any, known: Known) -> list[str]:
    """The lines of one statement."""
    raise TypeError(type(stmt))


def _as(dtype: DType) -> str:
    return "" if dtype == "work" else f": {dtype}"


@statement.register
def _(s: Def, known: Known) -> list[str]:
    word = f"{s.ref.kind} " if s.ref.kind in ("carry", "history") else ""
    return [f"{word}{over(s.ref, s.indices, known)}{_as(s.dtype)} = {expression(s.value, known)}"]


@statement.register
def _(s: Top, known: Known) -> list[str]:
    left = ", ".join(over(Ref("def", n), (*s.lead, s.k), known) if n else "_" for n in (s.values, s.picks))
    return [f"{left} = top[{s.k.name} < {s.k.axis.size} of {binder(s.over, known)}]({expression(s.source, known)})"]


@statement.register
def _(s: Apply, known: Known) -> list[str]:
    place = f"[{expression(s.select, known)}]" if s.select is not None else ""
    given = ", ".join(_given(g) for g in s.inputs)
    outs = f"[{','.join(i.name for i in s.outs)}]" if s.outs else ""
    left = over(Ref("def", s.name), (*s.lead, *s.outs), known)
    return [f"{left}{_as(s.dtype)} = {s.part}{place}({given}){outs}"]


def _given(g: Given) -> str:
    return name(g.ref) + (f"[{','.join(i.name for i in g.lead)}]" if g.lead else "")


@statement.register
def _(s: forms.Delay, known: Known) -> list[str]:
    return [f"{s.state} = delay({s.state}')"]


@statement.register
def _(s: forms.Elementwise, known: Known) -> list[str]:
    left = over(Ref("next", s.state), s.indices, known)
    return [f"{left} = scan(decay {expression(s.decay, known)}, addend {expression(s.addend, known)})"]


@statement.register
def _(s: forms.MaxPlus, known: Known) -> list[str]:
    left = over(Ref("next", s.state), s.indices, known)
    decay, addend = expression(s.decay, known), expression(s.addend, known)
    return [f"{left} = maxplus_scan({s.combine}, decay {decay}, addend {addend})"]


@statement.register
def _(s: forms.Coupled, known: Known) -> list[str]:
    lines = [f"coupled_scan over {_listed(s.indices, known)}"]
    for state, row, addend in zip(s.states, s.decay, s.addend, strict=True):
        terms = [f"({expression(d, known)})*{g}" for d, g in zip(row, s.states, strict=True) if d is not None]
        lines.append(f"  {state}' = {' + '.join([*terms, expression(addend, known)])}")
    return lines


@statement.register
def _(s: forms.Chunk, known: Known) -> list[str]:
    axes = f"batch {_listed(s.batch, known)} value {_listed(s.value, known)} key {binder(s.key, known)}"
    lines = [f"chunk_scan {', '.join(s.states)} over {axes}"]
    for (target, source), d in sorted(s.decay.items()):
        lines.append(f"  {target}' += {source} * diag({expression(d, known)})")
    if s.value_decay is not None:
        lines.append(f"  value decay {expression(s.value_decay, known)}")
    for low in s.low_rank:
        a, b = expression(low.a, known), expression(low.b, known)
        lines.append(f"  {low.target}' += {low.source} ({a}) ({b})ᵀ{_ranked(low.rank, known)}")
    for o in s.outer:
        lines.append(f"  {o.target}' += ({expression(o.v, known)}) ({expression(o.k, known)})ᵀ{_ranked(o.rank, known)}")
    for q in s.queries:
        state = name(Ref("next" if q.after else "state", q.state))
        lines.append(f"  {q.name} = {state} @ ({expression(q.q, known)}){_ranked(q.lead, known)}")
    return lines


@statement.register
def _(s: forms.Sequential, known: Known) -> list[str]:
    lines = [f"token by token {', '.join(s.states)}: {s.why}"]
    return lines + [f"  {line}" for d in s.body for line in statement(d, known)]


@statement.register
def _(s: forms.Attend, known: Known) -> list[str]:
    said = [
        f"query {expression(p.query, known)} key {expression(p.key, known)} over {_listed(p.contract, known)}"
        for p in s.parts
    ]
    said += [f"value {expression(s.value, known)}", f"scale {s.scale!r}"]
    said += [f"bias {expression(s.bias, known)}"] if s.bias is not None else []
    left = over(Ref("def", s.name), s.indices, known) + (f": {s.dtype}" if s.dtype != "f32" else "")
    return [f"{left} = attend[{binder(s.t, known)}]({', '.join(said)})"]


def _listed(indices: tuple[Index, ...], known: Known) -> str:
    return f"[{','.join(binder(i, known) for i in indices)}]"


def _ranked(rank: tuple[Index, ...], known: Known) -> str:
    return f" over {_listed(rank, known)}" if rank else ""
