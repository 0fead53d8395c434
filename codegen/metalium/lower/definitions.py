"""Definitions and `top` in a draft; reductions and softmax are taken out of them: what is left is elementwise.

Input: a statement, its expression over the draft's names, and the indices of it that run over a window.
Output: steps, and where what it defines lies: an array of its own, or the array that it only renames.

An entry of a window that is not there counts nowhere: the load of what is reduced gives zero for it under a sum and the
lowest number under a maximum.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Literal

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
from .products import loadable, ones
from .sums import SHORT, WRITTEN, is_scaled, total, written_out

SIMPLE = 16
"""Nodes of an expression of whole numbers that is worked out anew wherever it is used; so is one that may be negative,
since what is read from an array is taken for a place or a count."""


def define(draft: Draft, name: str, d: Def, value: Node) -> Entry:
    """What `d` defines, under the name of a draft; see the module."""
    draft.here = walk.windowed(value, draft.windows)
    if d.dtype in FLOATS and (known := table(value, d.indices)) is not None:
        return Entry(Ref("def", draft.constant(name, known)))
    value = draft.settled(pull(draft, value, name))
    if _renames(draft, value, d.indices):
        return Entry(value.arg.ref)
    whole = draft.is_whole(value) and d.dtype not in FLOATS
    if whole and (bounds(value)[0] < 0 or sum(1 for _ in walk.nodes(value)) <= SIMPLE):
        name = draft.fresh(name)
        draft.inline[name] = (d.indices, value)
        return Entry(Ref("def", name))
    array = draft.array(name, sizes(d.indices), "i32") if whole else draft.over(name, d.indices)
    if is_scaled(draft, value):
        draft.scaled[array] = (d.indices, value)
    draft.assign(array, d.indices, value)
    return Entry(Ref("def", array))


def _renames(draft: Draft, n: Node, indices: tuple[Index, ...]) -> bool:
    """Whether an expression is an array that stays as it is, element for element."""
    if n.op != "read" or n.arg.ref.kind == "history" or n.arg.ref in draft.windows:
        return False
    if n.args != tuple(map(build.index, indices)):
        return False
    if n.arg.ref.kind == "param":
        return draft.given[n.arg.ref.name].banks == 0
    array = draft.arrays[n.arg.ref.name]
    return array.memory != "state" and prod(array.shape) == size(indices)


def top(draft: Draft, t: Top, value: Node) -> Mapping[str, Entry]:
    """The largest entries, chosen on the data-movement core."""
    draft.here = walk.windowed(value, draft.windows)
    if t.over in draft.here:
        raise refuse(t.span, "`top` along the tokens of a window", "keep the scores in a state")
    name = t.values or t.picks or "top"
    value = loadable(draft, pull(draft, value, name), (*t.lead, t.over), f"{name}_of")
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


def pull(draft: Draft, n: Node, name: str) -> Node:
    """See the module."""
    if not any(OPS[m.op].kind in ("reduce", "normalise") for m in walk.nodes(n)):
        return n
    n = walk.rebuild(n, tuple(pull(draft, a, name) for a in n.args))
    match OPS[n.op].kind:
        case "reduce":
            return _reduced(draft, n, name)
        case "normalise":
            most, each = _exponentials(draft, n.args[0], (n.arg,), name)
            return build.div(each, ones(draft, each, (n.arg,), f"{name}_total"))
        case _:
            return n


def _reduced(draft: Draft, n: Node, name: str) -> Node:
    body, bound = n.args[0], tuple(n.arg)
    windowed = set(bound) & draft.here
    short = WRITTEN_OUT if draft.is_whole(body) else SHORT if n.op in ("max_over", "min_over") else 0
    if n.op in WRITTEN and size(bound) <= short and not windowed:
        return written_out(n)
    match n.op:
        case "sum":
            return total(draft, n, f"{name}_sum")
        case "mean":
            added = total(draft, build.reduce("sum", bound, body, n.span), f"{name}_sum")
            known = prod(i.axis.size for i in bound if i not in windowed)
            added = build.mul(added, build.const(1.0 / known))
            for i in bound:
                added = build.div(added, draft.present(i.axis.size)) if i in windowed else added
            return added
        case "logsumexp":
            most, each = _exponentials(draft, body, bound, name)
            return build.add(build.node("log", ones(draft, each, bound, f"{name}_total")), most)
        case _:
            return _extreme(draft, body, bound, name, "max" if n.op == "max_over" else "min")


def _extreme(draft: Draft, body: Node, bound: tuple[Index, ...], name: str, kind: Literal["max", "min"]) -> Node:
    bound = tuple(i for i in bound if i in body.free)
    rest = tuple(i for i in body.free if i not in bound)
    if not bound:
        return body
    body = loadable(draft, body, (*rest, *bound), f"{name}_of")
    source = load(draft, body, LOWEST if kind == "max" else -LOWEST)
    out = draft.over(f"{name}_{kind}", rest)
    draft.add(Extreme(out, kind, rest, bound, source))
    return read_array(out, rest)


def _exponentials(draft: Draft, body: Node, bound: tuple[Index, ...], name: str) -> tuple[Node, Node]:
    """The largest of a body over `bound`, and each one's exponential less it."""
    indices = build.union((body.free, bound))
    body = loadable(draft, body, indices, f"{name}_of")
    most = _extreme(draft, body, bound, name, "max")
    return most, draft.temporary(f"{name}_exp", indices, build.node("exp", build.sub(body, most)))
