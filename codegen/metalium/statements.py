"""Definitions and `top`, lowered into a draft.

Input: a statement, its expression over the draft's names, and the indices of it that run over a window.
Output: steps, and where what it defines lies: an array of its own, or the array that it only renames.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from cdrmix.ir import walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Def, Index, Node, Ref, Top

from . import plan
from .draft import Draft, Entry, evaluate, refuse, sizes
from .integers import lowest
from .loads import load
from .reductions import pull
from .sums import is_scaled

LARGEST_TABLE = 1 << 16
SIMPLE = 16
"""Nodes of an expression of whole numbers that is worked out anew wherever it is used; so is one that may be negative,
since what is read from an array is taken for a place or a count."""


def define(draft: Draft, d: Def, value: Node, here: set[Index]) -> Entry:
    """See the module."""
    name, shape = d.ref.name, sizes(d.indices)
    known = not any(True for _ in walk.reads(value))
    if known and not draft.is_whole(value) and d.dtype in FLOATS and prod(shape) <= LARGEST_TABLE:
        return Entry(Ref("def", draft.constant(name, evaluate(value, d.indices))))
    value = draft.settled(pull(draft, value, here, name))
    if _renames(draft, value, d.indices):
        return Entry(value.arg.ref)
    whole = draft.is_whole(value) and d.dtype not in FLOATS
    if whole and (lowest(value) < 0 or sum(1 for _ in walk.nodes(value)) <= SIMPLE):
        draft.inline[draft.fresh(name)] = (d.indices, value)
        return Entry(Ref("def", next(reversed(draft.inline))))
    array = draft.array(name, shape, "i32" if whole else "f32")
    if is_scaled(draft, value):
        draft.scaled[array] = (d.indices, value)
    draft.note(array, d.indices, here)
    draft.assign(array, d.indices, value)
    return Entry(Ref("def", array))


def _renames(draft: Draft, n: Node, indices: tuple[Index, ...]) -> bool:
    """Whether an expression is an array that stays as it is, element for element."""
    if n.op != "read" or n.arg.ref.kind == "history" or [a.arg for a in n.args if a.op == "index"] != list(indices):
        return False
    if any(a.op != "index" for a in n.args) or n.arg.ref in draft.windows:
        return False
    if n.arg.ref.kind == "param":
        return draft.given[n.arg.ref.name].banks == 0
    array = draft.arrays.get(n.arg.ref.name)
    return array is not None and array.memory != "state" and prod(array.shape) == prod(sizes(indices))


def top(draft: Draft, t: Top, value: Node, here: set[Index]) -> Mapping[str, Entry]:
    """The largest entries, chosen on the data-movement core."""
    name = t.values or t.picks or "top"
    over = (*t.lead, t.over)
    value = draft.settled(pull(draft, value, here, name))
    if value.op != "read" or draft.whole(value.arg.ref) or value.arg.ref.kind == "param":
        value = draft.temporary(f"{name}_of", over, value, here)
    if t.over in here:
        raise refuse(t.span, "`top` along the tokens of a window", "keep the scores in a state")
    shape = (*sizes(t.lead), t.k.axis.size)
    values = draft.array(t.values, shape) if t.values else None
    picks = draft.array(t.picks, shape, "i32") if t.picks else None
    draft.add(plan.TopK(values, picks, t.lead, t.k, t.over, load(draft, value), t.span, draft.text))
    found = {t.values: values, t.picks: picks}
    return {n: Entry(Ref("def", array)) for n, array in found.items() if n is not None and array is not None}
