"""Whole numbers over indices: places in arrays, and what is known of them before any token is read.

Input: expressions of constants, indices, integer arithmetic and reads of whole numbers.
Output: their values, their bounds, and their form: `base + steps . indices + terms`, where `steps` are whole multiples
of indices and `terms` what is not so regular (a ring's place, a pick).

The form is found by trying all values of the indices, so that a split and a merge of axes (`(4*i + j) // 8`) are seen
through whatever they are written like.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from math import inf, isfinite, isnan, prod
from typing import Any

import numpy as np

from cdrmix.ir import build, walk
from cdrmix.ir.interp_expr import Frame, expression
from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.ops import OPS

LARGEST_TABLE = 1 << 16
"""Elements of a constant."""
MOST_TRIED = 1 << 20
"""Terms over at most so many values of their indices are tried out for regularity."""

Affine = tuple[int, dict[Index, int]]


def evaluate(n: Node, indices: Sequence[Index]) -> np.ndarray[Any, Any]:
    """An expression that reads nothing, at every value of `indices`: an array of their sizes."""
    with np.errstate(all="ignore"):
        found = expression(n, order=tuple(indices))(Frame({}))
    return np.broadcast_to(np.asarray(found), walk.sizes(indices))


def table(n: Node, indices: Sequence[Index]) -> np.ndarray[Any, Any] | None:
    """The values of what is the same for every token and becomes a constant; None for others, and for large ones."""
    if walk.size(indices) > LARGEST_TABLE or any(m.op in ("read", "context") for m in walk.nodes(n)):
        return None
    return evaluate(n, indices)


def strides(sizes: Sequence[int]) -> list[int]:
    """How far one step along each of row-major axes goes."""
    return [prod(sizes[p + 1 :]) for p in range(len(sizes))]


def terms_of(at: Iterable[Node], steps: Iterable[int]) -> list[tuple[Node, int]]:
    """A sum of terms with whole factors."""
    found: list[tuple[Node, int]] = []

    def add(n: Node, times: int) -> None:
        match n.op:
            case "add" | "sub":
                add(n.args[0], times)
                add(n.args[1], times if n.op == "add" else -times)
            case "neg":
                add(n.args[0], -times)
            case "mul" if n.args[0].op == "const":
                add(n.args[1], times * int(n.args[0].arg))
            case "mul" if n.args[1].op == "const":
                add(n.args[0], times * int(n.args[1].arg))
            case _:
                found.append((n, times))

    for n, step in zip(at, steps, strict=True):
        add(n, step)
    return [(n, times) for n, times in found if times]


def regular(terms: Sequence[tuple[Node, int]]) -> tuple[int, dict[Index, int], tuple[Node, ...]]:
    """Base, steps and what is left over."""
    still = [(n, t) for n, t in terms if not walk.has_reads(n)]
    loose = [_times(n, t) for n, t in terms if walk.has_reads(n)]
    found = affine(still)
    if found is not None:
        return (*found, tuple(loose))
    base, steps = 0, Counter[Index]()
    for term in still:
        one = affine([term])
        if one is None:
            loose.append(_times(*term))
        else:
            base += one[0]
            steps.update(one[1])
    return base, dict(steps), tuple(loose)


def affine(terms: Sequence[tuple[Node, int]]) -> Affine | None:
    """The sum as base + steps . indices; None where it is not so."""
    indices = build.union(n.free for n, _ in terms)
    if all(n.op in ("index", "const") for n, _ in terms):
        steps = {i: sum(t for n, t in terms if n.op == "index" and n.arg == i) for i in indices}
        return sum(t * int(n.arg) for n, t in terms if n.op == "const"), steps
    sizes = walk.sizes(indices)
    if prod(sizes) > MOST_TRIED:
        return None
    values = sum((t * evaluate(n, indices).astype(np.int64) for n, t in terms), np.zeros(sizes, np.int64))
    base, steps = int(values.flat[0]), {}
    expected = np.full(sizes, base, np.int64)
    for axis, (i, places) in enumerate(zip(indices, np.indices(sizes, sparse=True), strict=True)):
        steps[i] = int(values.take(1, axis).flat[0]) - base if i.axis.size > 1 else 0
        expected += steps[i] * places
    return (base, steps) if np.array_equal(values, expected) else None


def _times(n: Node, times: int) -> Node:
    return n if times == 1 else build.node("mul", n, build.const(times))


def bounds(n: Node, reads: tuple[float, float] = (0, inf)) -> tuple[float, float]:
    """Two numbers between which the expression always lies; what is read lies between `reads`."""
    return reads if n.op == "read" else bounds_by(n, [bounds(a, reads) for a in n.args])


def bounds_by(n: Node, parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The same of what reads nothing itself, by the bounds of its operands."""
    low, high = [p[0] for p in parts], [p[1] for p in parts]
    positive, row = all(x >= 0 for x in low), OPS[n.op]
    match n.op:
        case "const":
            return n.arg, n.arg
        case "index":
            return 0, n.arg.axis.size - 1
        case "context":
            return 0, inf
        case "floordiv" if positive:
            return 0, high[0] // max(1, low[1]) if high[0] < inf else inf
        case "mod" if low[1] >= 0:
            return 0, max(0, high[1] - 1)
        case "pow" if low[0] >= 1:
            return 1, inf
        case "select":
            return min(low[1:]), max(high[1:])
        case "abs":
            return 0, max(map(abs, (*low, *high)))
        case _ if row.result == "bool":
            return 0, 1
        case _ if row.monotone and row.numpy is not None:
            return _ends(row.numpy, parts)
        case _:
            return -inf, inf


def _ends(meaning: Callable[..., Any], parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The least and the largest of a monotone function at the ends of its operands."""
    with np.errstate(all="ignore"):
        found = [float(meaning(*map(float, of))) for of in product(*parts)]
    found = [0.0 if isnan(x) else x for x in found]  # nothing times what has no bound is nothing
    low, high = (int(x) if isfinite(x) else x for x in (min(found), max(found)))
    return low, high
