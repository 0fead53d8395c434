"""The text's own statements: equations, `top`, calls of parts and banks.

Input: a `Def`, `Top` or `Apply` and the draft.  Output: a `Let`, `Moments`, `TopK`, `CallPart` or `CallBank`, and
symbols for what they define.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cdrmix.ir import walk
from cdrmix.ir.array_statements import CallBank, CallPart, Given, Let, Moments, TopK
from cdrmix.ir.forms import SequenceStmt
from cdrmix.ir.nodes import Apply, Cell, Def, Index, Input, Node, Ref, Top
from cdrmix.ir.nodes import Given as Formal
from cdrmix.ir.walk import Windows, sizes

from .draft import Draft, data, own, refuse
from .elements import over, valued
from .values import full, held, ordered


def define(d: Def, draft: Draft) -> None:
    """`name = expression`; a name for what has one already costs no line."""
    draft.say(d.span)
    value = held(ordered(valued(draft, d.value, d.indices), d.indices), d.dtype, draft)
    hint = d.ref.name + {"next": "_next", "carry": "_out"}.get(d.ref.kind, "")
    last = draft.statements[-1]
    if isinstance(last, Let) and last.product and not last.whole and value.op == "local" and value.arg == last.name:
        name = replace(last.name, hint=hint + draft.suffix)  # a product that is all of the equation has its name
        draft.statements[-1] = Let(name, last.value, whole=True)
        value = replace(value, arg=name)
    elif value.type != "number" and value.op != "local":
        value = draft.let(hint, value)
    draft.define(d.ref, value, d.indices)


def take_top(t: Top, draft: Draft) -> None:
    """The largest entries and their places."""
    draft.say(t.span)
    source = over(draft, t.source, (*t.lead, t.over))
    indices = (*t.lead, t.k)
    values, picks = (None if name is None else draft.local(name) for name in (t.values, t.picks))
    draft.add(TopK(values, picks, source, t.k.axis.size, indices))
    if t.values is not None and values is not None:
        draft.known(Ref("def", t.values), values, indices)
    if t.picks is not None and picks is not None:
        draft.known(Ref("def", t.picks), picks, indices, "int")


# --- norms: the mean of a row and the variance about it ---------------------------------------------------------------
def variance_about(mean: Def, body: Sequence[SequenceStmt], windows: Windows) -> Def | None:
    """The equation `var[…] = mean[i]((x[…,i] - mu[…])^2)` about `mu[…] = mean[i](x[…,i])`, a name's whole last axis."""
    match mean:
        case Def(Ref("def"), indices, Node("mean", (Node("read") as row,), (i,))) if _reads(row, (*indices, i)):
            if row.arg.ref in windows or row.arg.ref.kind not in ("def", "input", "next"):
                return None
        case _:
            return None
    for e in body:
        match e:
            case Def(Ref("def"), indices, Node("mean", (Node("pow", (difference, Node("const", arg=2))),), (i,))):
                match difference:
                    case Node("sub", (Node("read") as x, Node("read") as middle)):
                        same = x.arg.ref == row.arg.ref and middle.arg.ref == mean.ref and _view(x) == _view(row)
                        if same and _reads(middle, indices) and _reads(x, (*indices, i)):
                            return e
    return None


def _view(read: Node) -> list[int]:
    return [a.size for a in read.arg.view]


def _reads(n: Node, indices: Sequence[Index]) -> bool:
    """Whether a read is at lone indices, these in their order, each over all of its axis."""
    return [a.arg if a.op == "index" else None for a in n.args] == [*indices] and _view(n) == [*sizes(indices)]


def moments(mean: Def, variance: Def, draft: Draft) -> None:
    """A mean and the variance about it, in one call."""
    for d in (mean, variance):
        draft.say(d.span)
    x = over(draft, mean.value.args[0], (*mean.indices, *mean.value.arg))
    names = draft.local(mean.ref.name), draft.local(variance.ref.name)
    draft.add(Moments(*names, x))
    for d, name in zip((mean, variance), names, strict=True):
        draft.known(d.ref, name, d.indices)


# --- parts and banks -----------------------------------------------------------------------------------------------
def as_rows(cell: Cell, cells: Mapping[str, Cell]) -> bool:
    """Whether many tokens of many instances can be computed as rows: nothing runs along time or place."""
    if cell.states or cell.histories or cell.carries or cell.training or any(p.bank for p in cell.parts):
        return False
    if any(m.op == "context" for m in walk.nodes(cell.body)):
        return False
    return all(as_rows(cells[p.cell], cells) for p in cell.parts)


def call(a: Apply, draft: Draft, cells: Mapping[str, Cell]) -> None:
    """One call of a part, or of the chosen instances of a bank."""
    draft.say(a.span)
    part = next(p for p in draft.cell.parts if p.name == a.part)
    cell = cells[part.cell]
    rows = as_rows(cell, cells)
    _require(a, rows, draft)
    pick = None
    if a.select is not None and a.select.op != "index":
        pick = over(draft, a.select, a.lead, place=True)
    given = tuple(_given(g, a.lead, f, draft) for g, f in zip(a.inputs, cell.inputs, strict=True))
    name, indices = draft.local(a.name), (*a.lead, *a.outs)
    if part.bank is None:
        draft.add(CallPart(name, part, given, indices))
    else:
        out = tuple(x.size for x in cell.out_axes)
        draft.add(CallBank(name, part, pick, given, a.lead, out, indices, rows))
    draft.known(Ref("def", a.name), name, indices, data(a.dtype))


def _require(a: Apply, rows: bool, draft: Draft) -> None:
    """Refuse a call that no library of arrays is told how to make."""
    if a.select is None:
        if a.lead:
            message = f"part `{a.part}` is called at every place of an index"
            raise refuse("E0903", a.span, message, f"make it a bank over that index: `bank {a.part}: [i < n] of …`")
    elif a.select.op == "index":
        if a.lead != (a.select.arg,):
            message = f"bank `{a.part}` is called over more than its own index"
            raise refuse("E0903", a.span, message, "give each instance all of its values at once, and index the result")
    elif not rows and len(a.lead) != 1 and draft.traits.resets:
        message = f"bank `{a.part}` has state, and is not chosen from along one index"
        raise refuse("E0903", a.span, message, f"choose along one: `sum[k]({a.part}[pick[k]](…)[d])`")


def _given(g: Formal, lead: Sequence[Index], formal: Input, draft: Draft) -> Given:
    """An argument with as many of `lead` in front as it has, and its own axes."""
    symbol = draft.symbol(g.ref)
    inner = own(sizes(symbol.indices[len(g.lead) :]))
    front = 0
    if g.lead:  # in the order of the call, from its first
        front = len(lead) if draft.traits.by_weight else max(lead.index(i) for i in g.lead) + 1
    value = full(symbol.over((*g.lead, *inner)), (*lead[:front], *inner), draft, place=formal.dtype == "pick")
    value = held(value, formal.dtype, draft)
    return Given(value, sizes(inner), tuple(a.size for a in formal.axes), front)
