"""Definitions and `top` in a draft; reductions and softmax are taken out of them: what is left is elementwise.

Input: a statement, its expression over the draft's names, and the indices of it that run over a window.
Output: steps, and where what it defines lies: an array of its own, or the array that it only renames.

An entry of a window that is not there counts nowhere: the load of what is reduced gives zero for it under a sum and the
lowest number under a maximum.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from itertools import product as places
from math import prod

import numpy as np

from cdrmix.ir import build, walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Def, Index, Node, Ref, Top
from cdrmix.ir.ops import OPS
from cdrmix.ir.places import bounds, table
from cdrmix.ir.steps import Extreme, TopK
from cdrmix.ir.walk import size, sizes

from .draft import Draft, Entry, read_array, refuse
from .loads import load
from .products import guarded, ones
from .sums import SHORT, is_scaled, total

SIMPLE = 16
"""Nodes of an expression of whole numbers that is worked out anew wherever it is used; so is one that may be negative,
since what is read from an array is taken for a place or a count."""


def define(draft: Draft, d: Def, value: Node, here: set[Index]) -> Entry:
    """See the module."""
    name, shape = d.ref.name, sizes(d.indices)
    if d.dtype in FLOATS and not draft.is_whole(value) and (known := table(value, d.indices)) is not None:
        return Entry(Ref("def", draft.constant(name, known)))
    value = draft.settled(pull(draft, value, here, name))
    if _renames(draft, value, d.indices):
        return Entry(value.arg.ref)
    whole = draft.is_whole(value) and d.dtype not in FLOATS
    if whole and (bounds(value)[0] < 0 or sum(1 for _ in walk.nodes(value)) <= SIMPLE):
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
    return array is not None and array.memory != "state" and prod(array.shape) == size(indices)


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
    draft.add(TopK(values, picks, t.lead, t.k, t.over, load(draft, value)))
    found = {t.values: values, t.picks: picks}
    return {n: Entry(Ref("def", array)) for n, array in found.items() if n is not None and array is not None}


# --- reductions ------------------------------------------------------------------------------------------------------
LOWEST = float(np.finfo(np.float32).min)
REDUCTIONS = frozenset({"sum", "mean", "max_over", "min_over", "logsumexp", "softmax"})
"""The rows of `ir.ops` that are taken out here."""
WRITTEN_OUT = 64
"""Terms of a sum of whole numbers, which is written out."""


def pull(draft: Draft, n: Node, here: set[Index], name: str) -> Node:
    """See the module."""
    if not any(OPS[m.op].kind in ("reduce", "normalise") for m in walk.nodes(n)):
        return n
    n = walk.rebuild(n, tuple(pull(draft, a, here, name) for a in n.args))
    match OPS[n.op].kind:
        case "reduce":
            return _reduced(draft, n, here, name)
        case "normalise":
            return _softmax(draft, n, here, name)
        case _:
            return n


def _reduced(draft: Draft, n: Node, here: set[Index], name: str) -> Node:
    body, bound = n.args[0], tuple(n.arg)
    whole = draft.is_whole(body) and not set(bound) & here
    if whole and n.op != "mean" and size(bound) <= WRITTEN_OUT:
        return _written_out(n)
    match n.op:
        case "sum":
            return total(draft, n, here, f"{name}_sum")
        case "mean":
            added = total(draft, build.reduce("sum", bound, body, n.span), here, f"{name}_sum")
            known = prod(i.axis.size for i in bound if i not in here)
            added = build.mul(added, build.const(1.0 / known))
            for i in bound:
                added = build.div(added, draft.present(i.axis.size)) if i in here else added
            return added
        case "logsumexp":
            most, each = _exponentials(draft, body, bound, here, name)
            added = ones(draft, each, bound, here, f"{name}_total")
            return build.add(build.node("log", added), most)
        case _:
            if size(bound) <= SHORT and not set(bound) & here:
                return _written_out(n)
            return _extreme(draft, body, bound, here, name, "max" if n.op == "max_over" else "min")


def _written_out(n: Node) -> Node:
    op = {"sum": "add", "max_over": "max", "min_over": "min"}[n.op]
    terms = []
    for at in places(*(range(i.axis.size) for i in n.arg)):
        by = {i: build.const(p) for i, p in zip(n.arg, at, strict=True)}
        terms.append(walk.substitute(n.args[0], by))
    return reduce(lambda a, b: build.node(op, a, b), terms)


def _extreme(draft: Draft, body: Node, bound: tuple[Index, ...], here: set[Index], name: str, kind: str) -> Node:
    body = draft.settled(body)
    rest = tuple(i for i in body.free if i not in bound)
    loose = any(i in here and not guarded(draft, body, i) for i in bound if i in body.free)
    if body.op != "read" or draft.whole(body.arg.ref) or loose:
        indices = tuple(i for i in (*rest, *bound) if i in body.free)
        body = draft.temporary(f"{name}_of", indices, body, here, "f32")
    source = load(draft, body, LOWEST if kind == "max" else -LOWEST)
    bound = tuple(i for i in bound if i in body.free)
    out = draft.array(f"{name}_{kind}", sizes(rest))
    draft.note(out, rest, here)
    if not bound:
        draft.assign(out, rest, body)
    else:
        draft.add(Extreme(out, kind, rest, bound, source))  # type: ignore[arg-type]
    return read_array(out, rest)


def _exponentials(draft: Draft, body: Node, bound: tuple[Index, ...], here: set[Index], name: str) -> tuple[Node, Node]:
    """The largest of a body over `bound`, and each one's exponential less it."""
    body = draft.settled(body)
    indices = build.union((body.free, bound))
    if body.op != "read" or set(body.free) != set(indices):
        body = draft.temporary(f"{name}_of", indices, body, here, "f32")
    most = _extreme(draft, body, bound, here, name, "max")
    each = draft.temporary(f"{name}_exp", indices, build.node("exp", build.sub(body, most)), here)
    return most, each


def _softmax(draft: Draft, n: Node, here: set[Index], name: str) -> Node:
    _, each = _exponentials(draft, n.args[0], (n.arg,), here, name)
    added = ones(draft, each, (n.arg,), here, f"{name}_total")
    return build.div(each, added)
