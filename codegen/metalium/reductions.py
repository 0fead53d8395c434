"""Reductions and softmax, taken out of an expression: what is left is elementwise.

Input: an expression over the draft's names and the indices that run over a window.
Output: steps, and the expression that reads their results.

An entry of a window that is not there counts nowhere: the load of what is reduced gives zero for it under a sum and the
lowest number under a maximum.
"""

from __future__ import annotations

from functools import reduce
from itertools import product as places
from math import prod

import numpy as np

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.ops import OPS

from . import plan
from .draft import Draft, read_array, sizes
from .loads import load
from .planes import guarded
from .products import ones
from .sums import SHORT, total

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
    if whole and n.op != "mean" and prod(sizes(bound)) <= WRITTEN_OUT:
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
            if prod(sizes(bound)) <= SHORT and not set(bound) & here:
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
        draft.add(plan.Extreme(out, kind, rest, bound, source, span=draft.span, text=draft.text))  # type: ignore[arg-type]
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
