"""Training values: `aux`, `metric`, `after step`.

Input: a cell, and the draft at the end of its function over sequences.
Output: the sums over the tokens of a call, as `Sum`s; the functions that make values of sums over all tokens of a step.

Each reduction over tokens is one sum, named by its training value and its place in there.  A `mean[tokens]` is that sum
divided by the number of tokens at the end, so that sums of several calls can be added first.
"""

from __future__ import annotations

from cdrmix.ir import build, walk
from cdrmix.ir.array_statements import Function, Measure, Sum, Traits
from cdrmix.ir.arrays import Array
from cdrmix.ir.nodes import TOKENS, Cell, Node, Ref, Training

from .casts import full, ordered
from .draft import Draft, Symbol, stored
from .elements import lowered, valued


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
            summand = full(lowered(_summand(reduction), draft), dims, draft)
            draft.add(Sum(_key(t, n), summand, t.kind == "aux"))
    measured = tuple(draft.statements[first:])
    if measured:
        draft.statements[first:] = [Measure(measured)]


def _over_tokens(t: Training) -> list[Node]:
    """The reductions over tokens in a training value, each once, from the left; values of params alone have none."""
    return list(dict.fromkeys(n for n in walk.nodes(t.value) if any(i.axis == TOKENS for i in walk.bound(n))))


def _summand(n: Node) -> Node:
    """What is summed over tokens: the body, reduced over the other indices."""
    others = [i for i in n.arg if i.axis != TOKENS]
    return build.reduce(n.op, others, n.args[0], n.span)


def _key(t: Training, n: int) -> str:
    return f"{t.name}.{n}"


def totals(cell: Cell, kind: str, traits: Traits) -> Function | None:
    """The values of a kind (`aux`, `metric`, `after`) from total sums; None where the cell has none."""
    draft = Draft(cell, "step", traits)
    declared = {("param", p.name): p for p in cell.params} | {("buffer", b.name): b for b in cell.buffers}

    def missing(ref: Ref) -> Symbol | None:
        decl = declared.get((ref.kind, ref.name))
        return None if decl is None else stored(ref.name, [i.axis.size for i in decl.indices])

    draft.missing = missing
    found = []
    for t in (t for t in cell.training if t.kind == kind):
        draft.say(t.span)
        places = {n: place for place, n in enumerate(_over_tokens(t))}

        def total(n: Node, draft: Draft, t: Training = t, places: dict[Node, int] = places) -> Array:
            dims = tuple(i for i in draft.order if i in n.free)
            return Array("total", arg=(_key(t, places[n]), n.op == "mean"), dims=dims)

        draft.tokens = total
        x = valued(draft, t.value, t.indices)
        x = ordered(x, t.indices) if kind == "after" else full(x, t.indices, draft, lead=False)
        found.append((t.name, draft.let(t.name, x)))
    return Function(cell, "step", (), (), draft.all(), values=tuple(found)) if found else None
