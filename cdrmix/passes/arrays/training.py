"""Outside the tokens: where parameters, buffers and states begin; `aux`, `metric` and `after step`.

Input: a cell; for what a call keeps, the draft at the end of its function over sequences.
Output: a function of `Fill`s in float64, and one of the first states; `Sum`s over the tokens of a call, and the
functions that make values of such sums over all tokens of a step.

Each reduction over tokens is one sum, named by its training value and its place in there.  A `mean[tokens]` is that sum
divided by the number of tokens at the end, so that sums of several calls can be added first.
"""

from __future__ import annotations

from cdrmix.ir import build, walk
from cdrmix.ir.array_statements import Fill, Function, Measure, Sum, Traits
from cdrmix.ir.arrays import Array
from cdrmix.ir.nodes import TOKENS, Cell, Node, Training

from .draft import Draft
from .elements import lowered, valued
from .values import full, ordered


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
    draft.hold(*cell.params, lead=True)
    values = tuple((s.name, ordered(valued(draft, s.init, s.indices), s.indices)) for s in cell.states)
    return Function(cell, "step", (), (), draft.all(), values=values) if values or cell.histories else None


# --- training values -----------------------------------------------------------------------------------------------
def keep_sums(draft: Draft) -> None:
    """What a call whose caller measures keeps; a gradient flows through the sums of an `aux` alone."""
    first = len(draft.statements)
    for t in draft.cell.training:
        reductions = _over_tokens(t)
        if reductions:
            draft.say(t.span)
            draft.turn_to(t.indices, [t.value])
        for n, reduction in enumerate(reductions):
            dims = tuple(i for i in draft.order if i in reduction.free)
            others = [i for i in reduction.arg if i.axis != TOKENS]
            summand = build.reduce(reduction.op, others, reduction.args[0], reduction.span)
            draft.add(Sum(_key(t, n), full(lowered(summand, draft), dims, draft), t.kind == "aux"))
    measured = tuple(draft.statements[first:])
    if measured:
        draft.statements[first:] = [Measure(measured)]


def _over_tokens(t: Training) -> list[Node]:
    """The reductions over tokens in a training value, each once, from the left; values of params alone have none."""
    return list(dict.fromkeys(n for n in walk.nodes(t.value) if any(i.axis == TOKENS for i in walk.bound(n))))


def _key(t: Training, n: int) -> str:
    return f"{t.name}.{n}"


def totals(cell: Cell, kind: str, traits: Traits) -> Function | None:
    """The values of a kind (`aux`, `metric`, `after`) from total sums; None where the cell has none."""
    draft = Draft(cell, "step", traits)
    draft.hold(*cell.params, *cell.buffers)
    found = []
    for t in (t for t in cell.training if t.kind == kind):
        draft.say(t.span)
        draft.turn_to(t.indices, [t.value])
        draft.totals = {
            n: Array("total", arg=(_key(t, p), n.op == "mean"), dims=tuple(i for i in draft.order if i in n.free))
            for p, n in enumerate(_over_tokens(t))
        }
        x = lowered(t.value, draft)
        x = ordered(x, t.indices) if kind == "after" else full(x, t.indices, draft, lead=False)
        found.append((t.name, draft.let(t.name, x)))
    return Function(cell, "step", (), (), draft.all(), values=tuple(found)) if found else None
