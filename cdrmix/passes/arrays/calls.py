"""Calls of parts and banks.

Input: an `Apply` and the draft.  Output: a `CallPart` or a `CallBank`, and the name of what it gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cdrmix.ir import walk
from cdrmix.ir.array_statements import CallBank, CallPart, Given
from cdrmix.ir.nodes import Apply, Cell, Index, Input, Ref
from cdrmix.ir.nodes import Given as Formal

from .casts import full, held
from .draft import Draft, own, refuse
from .elements import valued


def as_rows(cell: Cell, cells: Mapping[str, Cell]) -> bool:
    """Whether many tokens of many instances can be computed as rows: nothing runs along time or place."""
    if cell.states or cell.histories or cell.carries or cell.training or any(p.bank for p in cell.parts):
        return False
    if any(m.op == "context" for s in cell.body for n in walk.roots(s) for m in walk.nodes(n)):
        return False
    return all(as_rows(cells[p.cell], cells) for p in cell.parts)


def call(a: Apply, draft: Draft, cells: Mapping[str, Cell]) -> None:
    """One call of a part, or of the chosen instances of a bank."""
    draft.say(a.span)
    part = next(p for p in draft.cell.parts if p.name == a.part)
    cell = cells[part.cell]
    indices = (*a.lead, *a.outs)
    if part.bank is None:
        if a.lead:
            message = f"part `{a.part}` is called at every place of an index"
            raise refuse("E0903", a.span, message, f"make it a bank over that index: `bank {a.part}: [i < n] of …`")
        given = tuple(_given(g, (), f, draft) for g, f in zip(a.inputs, cell.inputs, strict=True))
        name = draft.local(a.name)
        draft.add(CallPart(name, part, given, indices))
    else:
        rows = as_rows(cell, cells)
        _require(a, rows, draft)
        pick = None
        if a.select is not None and a.select.op != "index":
            pick = full(valued(draft, a.select, a.lead), a.lead, draft, place=True)
        given = tuple(_given(g, a.lead, f, draft) for g, f in zip(a.inputs, cell.inputs, strict=True))
        name = draft.local(a.name)
        out = tuple(x.size for x in cell.out_axes)
        draft.add(CallBank(name, part, pick, given, a.lead, out, indices, rows))
    draft.known(Ref("def", a.name), name, indices, dtype=a.dtype)


def _require(a: Apply, rows: bool, draft: Draft) -> None:
    assert a.select is not None
    if a.select.op == "index":
        if a.lead != (a.select.arg,):
            message = f"bank `{a.part}` is called over more than its own index"
            raise refuse("E0903", a.span, message, "give each instance all of its values at once, and index the result")
    elif not rows and len(a.lead) != 1 and draft.traits.resets:
        message = f"bank `{a.part}` has state, and is not chosen from along one index"
        raise refuse("E0903", a.span, message, f"choose along one: `sum[k]({a.part}[pick[k]](…)[d])`")


def _given(g: Formal, lead: Sequence[Index], formal: Input, draft: Draft) -> Given:
    """An argument with as many of `lead` in front as it has, and its own axes."""
    symbol = draft.symbol(g.ref)
    inner = own(symbol.sizes[len(g.lead) :])
    front = 0
    if g.lead:  # in the order of the call, from its first
        front = len(lead) if draft.traits.by_weight else max(lead.index(i) for i in g.lead) + 1
    value = full(symbol.over((*g.lead, *inner)), (*lead[:front], *inner), draft, place=formal.dtype == "pick")
    value = held(value, formal.dtype, draft)
    return Given(value, tuple(i.axis.size for i in inner), tuple(a.size for a in formal.axes), front)
