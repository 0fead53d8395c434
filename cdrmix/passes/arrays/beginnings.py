"""Where parameters, buffers and states begin.

Input: a cell.  Output: a function of `Fill`s in float64, and one of the first states.
"""

from __future__ import annotations

from cdrmix.ir.array_statements import Fill, Function, Traits
from cdrmix.ir.nodes import Cell, Ref

from .casts import ordered
from .draft import Draft, Symbol, stored
from .elements import valued


def weights_of(cell: Cell, traits: Traits) -> Function | None:
    """How the cell's parameters and buffers begin."""
    draft = Draft(cell, "init", traits)
    for p in cell.params:
        draft.say(p.span)
        if p.init.rule == "value":
            draft.add(Fill(p.name, p.indices, ordered(valued(draft, p.init.args[0], p.indices), p.indices)))
        else:
            args = tuple(valued(draft, a, ()) for a in p.init.args)
            draft.add(Fill(p.name, p.indices, None, p.init.rule, args))
    for b in cell.buffers:
        draft.say(b.span)
        draft.add(Fill(b.name, b.indices, ordered(valued(draft, b.init, b.indices), b.indices)))
    return Function(cell, "init", (), (), draft.all()) if draft.statements else None


def states_of(cell: Cell, traits: Traits) -> Function | None:
    """What the cell's states are before a document's first token, with every bank's axes in front."""
    draft = Draft(cell, "step", traits)
    params = {p.name: p for p in cell.params}

    def missing(ref: Ref) -> Symbol | None:
        p = params.get(ref.name) if ref.kind == "param" else None
        return None if p is None else stored(p.name, [i.axis.size for i in p.indices], lead=True)

    draft.missing = missing
    values = tuple((s.name, ordered(valued(draft, s.init, s.indices), s.indices)) for s in cell.states)
    return Function(cell, "step", (), (), draft.all(), values=values) if values or cell.histories else None
