"""Equations and `top`.

Input: a `Def` or a `Top` and the draft.  Output: a `Let` or a `TopK`, and symbols for what they define.
"""

from __future__ import annotations

from dataclasses import replace

from cdrmix.ir.array_statements import Let, Moments, TopK
from cdrmix.ir.arrays import Array
from cdrmix.ir.nodes import Def, Ref, Top

from .casts import full, held, ordered
from .draft import Draft
from .elements import valued


def define(d: Def, draft: Draft) -> None:
    """`name = expression`; a name for what has one already costs no line."""
    draft.say(d.span)
    value = held(ordered(valued(draft, d.value, d.indices), d.indices), d.dtype, draft)
    hint = d.ref.name + {"next": "_next", "carry": "_out"}.get(d.ref.kind, "")
    value = _renamed(value, hint, draft)
    if value.type == "number" or value.op == "local":
        draft.define(d.ref, value, d.indices)
    else:
        draft.define(d.ref, draft.let(hint, value), d.indices)


def _renamed(value: Array, hint: str, draft: Draft) -> Array:
    """A product that is all of the equation gets the equation's name."""
    last = draft.statements[-1] if draft.statements else None
    if isinstance(last, Let) and last.product and not last.whole and value.op == "local" and value.arg == last.name:
        name = replace(last.name, hint=hint + draft.suffix)
        draft.statements[-1] = Let(name, last.value, whole=True)
        return replace(value, arg=name)
    return value


def take_top(t: Top, draft: Draft) -> None:
    """The largest entries and their places."""
    draft.say(t.span)
    source = full(valued(draft, t.source, (*t.lead, t.over)), (*t.lead, t.over), draft)
    values = draft.local(t.values) if t.values is not None else None
    picks = draft.local(t.picks) if t.picks is not None else None
    indices = (*t.lead, t.k)
    draft.add(TopK(values, picks, source, t.k.axis.size, indices))
    if t.values is not None and values is not None:
        draft.define(Ref("def", t.values), Array("local", arg=values, dims=indices, lead=True), indices)
    if t.picks is not None and picks is not None:
        draft.define(Ref("def", t.picks), Array("local", arg=picks, type="int", dims=indices, lead=True), indices)


def moments(mean: Def, variance: Def, draft: Draft) -> None:
    """A mean and the variance about it, in one call."""
    for d in (mean, variance):
        draft.say(d.span)
    (along,) = mean.value.arg
    indices = (*mean.indices, along)
    x = full(valued(draft, mean.value.args[0], indices), indices, draft)
    names = draft.local(mean.ref.name), draft.local(variance.ref.name)
    draft.add(Moments(*names, x))
    for d, name in zip((mean, variance), names, strict=True):
        draft.known(d.ref, name, d.indices)
