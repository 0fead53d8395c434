"""Sums: taken apart into factors; what cannot be written out goes to `products`.

Input: a `sum` node over the draft's names, its reductions inside already taken out, and the indices over a window.
Output: steps, and an expression of arrays that is the sum.

A factor that is a parameter with its own free indices is streamed from DRAM.  Factors without a bound index stand
outside, and short sums are written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.walk import size, sizes

from .draft import Draft, every
from .products import arrays, guarded, streamed, times

SHORT = 4
"""Terms of a sum that is written out rather than made a product."""
SHORT_BATCH = 8
"""The same where a product would have to multiply number by number anyway."""


def total(draft: Draft, n: Node, name: str) -> Node:
    """See the module."""
    body, bound = n.args[0], tuple(n.arg)
    if body.op in ("add", "sub") and any(_has_product(draft, side, bound) for side in body.args):
        left, right = (total(draft, build.reduce("sum", bound, side, n.span), name) for side in body.args)
        return build.node(body.op, left, right)
    found = [f for n in walk.factors(body) for f in walk.factors(_unscaled(draft, n))]
    outside = [f for f in found if not set(f.free) & set(bound)]
    inside = [f for f in found if set(f.free) & set(bound)]
    idle = [i for i in bound if not any(i in f.free for f in inside)]
    counts = [draft.present(i.axis.size) if i in draft.here else build.const(float(i.axis.size)) for i in idle]
    bound = tuple(i for i in bound if i not in idle)
    return times([*outside, *counts, *([_inside(draft, inside, bound, name)] if inside else [])])


def is_scaled(draft: Draft, n: Node) -> bool:
    """Whether an expression is a matrix as it lies in DRAM, multiplied along one of its axes or by a number."""
    reads = list(walk.reads(n))
    matrices = [m for m in walk.factors(n) if m.op == "read" and m.arg.ref.kind == "param" and len(m.free) > 1]
    still = all(m.arg.ref.kind == "param" or draft.arrays[m.arg.ref.name].memory != "state" for m in reads)
    return n.op == "mul" and still and any(set(m.free) == set(n.free) for m in matrices)


def _unscaled(draft: Draft, n: Node) -> Node:
    if n.op != "read" or n.arg.ref.kind != "def" or n.arg.ref.name not in draft.scaled:
        return n
    indices, value = draft.scaled[n.arg.ref.name]
    if tuple(a.size for a in n.arg.view) != sizes(indices):
        return n
    return walk.substitute(value, dict(zip(indices, n.args, strict=True)))


def _inside(draft: Draft, inside: Sequence[Node], bound: tuple[Index, ...], name: str) -> Node:
    streamable = [f for f in inside if _streamable(draft, f, bound) and set(f.free) - _others(f, inside) - set(bound)]
    matrix = max(streamable, key=lambda f: size(f.free), default=None)
    if matrix is None:
        big = max(inside, key=lambda f: size(f.free))
        batch = len(inside) == 1 or _others(big, inside) == set(big.free)
        if size(bound) <= (SHORT_BATCH if batch else SHORT) and _may_unroll(draft, inside, bound):
            return draft.settled(written_out(build.reduce("sum", bound, times(inside))))
    inside = [draft.settled(f) for f in inside]
    if matrix is not None:
        rest = [f for f in inside if f is not matrix]
        alone = tuple(i for i in bound if i not in matrix.free)
        left = _inside(draft, rest, alone, f"{name}_in") if alone else times(rest)
        made = streamed(draft, matrix, left, bound, name)
        if made is not None:
            return made
        inside, bound = [matrix, left], tuple(i for i in bound if i not in alone)
    return arrays(draft, inside, bound, name)


def _others(f: Node, inside: Sequence[Node]) -> set[Index]:
    """The indices of the factors besides one."""
    return {i for g in inside if g is not f for i in g.free}


def _may_unroll(draft: Draft, inside: Sequence[Node], bound: Sequence[Index]) -> bool:
    """Whether terms that are not there become zero by themselves: a guarded read is a factor of each, and what it is
    multiplied with are reads too, for a quotient of what is not there is no number."""
    return all(
        any(guarded(draft, f, i) for f in inside) and all(f.op == "read" for f in inside if i in f.free)
        for i in bound
        if i in draft.here
    )


WRITTEN = {"sum": "add", "max_over": "max", "min_over": "min"}
"""What the terms of a reduction that is written out are put together by."""


def written_out(n: Node) -> Node:
    """A reduction as an expression of its terms."""
    terms = (walk.substitute(n.args[0], by) for by in every(n.arg))
    return reduce(partial(build.node, WRITTEN[n.op]), terms)


def _has_product(draft: Draft, n: Node, bound: Sequence[Index]) -> bool:
    """Whether a term is a streamed matrix times something that is summed with it."""
    if n.op in ("add", "sub", "neg"):
        return any(_has_product(draft, a, bound) for a in n.args)
    found = walk.factors(n)
    return sum(bool(set(f.free) & set(bound)) for f in found) > 1 and any(_streamable(draft, f, bound) for f in found)


def _streamable(draft: Draft, f: Node, bound: Sequence[Index]) -> bool:
    """Whether a factor is a matrix as it lies in DRAM: each axis at an index of its own, one of them summed."""
    if f.op != "read" or f.arg.ref.kind != "param":
        return False
    given = draft.given[f.arg.ref.name]
    own = f.args[given.banks :]
    if tuple(a.size for a in f.arg.view[: given.banks]) != given.shape[: given.banks]:
        return False
    if any(a.free for a in f.args[: given.banks]) or any(a.op != "index" for a in own):
        return False
    found = [a.arg for a in own]
    return len(set(found)) == len(found) and bool(set(found) & set(bound)) and bool(set(found) - set(bound))
