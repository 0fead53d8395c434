"""Products of matrices: by a streamed parameter, of two groups of arrays, by ones.

Input: factors over the draft's names, and the indices that are summed.  Output: a `Product`, and a read of its result.

Of several arrays the largest is one side and the rest the other.  Where both sides run over the same indices, or a
product would be of more tiles than its body, the body is multiplied out and summed by a product with ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from math import prod

import numpy as np

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.steps import Load, Product
from cdrmix.ir.walk import size, sizes

from .. import plan
from .draft import PLANES, Draft, every, flat, indices_of, read_array, refuse
from .loads import kept, load, vector

LARGE = 16384
"""Elements of a matrix from which on it is not held in L1."""
MOST_ROWS = 32
"""Vectors that a matrix is streamed again for."""


def times(found: Sequence[Node]) -> Node:
    """The product of factors."""
    return reduce(build.mul, found) if found else build.const(1.0)


def streamed(draft: Draft, matrix: Node, left: Node, bound: tuple[Index, ...], name: str) -> Node | None:
    """The product of a parameter and a factor over all of its bound indices; None when it is better held in L1."""
    parameter = matrix.arg.ref.name
    given = draft.given[parameter]
    if parameter in draft.held:
        if prod(given.shape) <= LARGE:
            return None
        raise refuse(matrix.span, f"`{parameter}` is multiplied as a matrix, and read element by element too",
                     "a streamed matrix is not held besides: use two parameters")  # fmt: skip
    bank, mine = matrix.args[: given.banks], [a.arg for a in matrix.args[given.banks :]]
    k = tuple(i for i in mine if i in bound)
    lead = tuple(i for i in mine if i not in bound and i in left.free)
    columns = tuple(i for i in mine if i not in bound and i not in left.free)
    rows = tuple(i for i in left.free if i not in mine and i not in bound)
    if not columns:
        return None
    for i in k:
        if i in draft.here and i not in left.free:
            there = build.node("le", build.index(i), draft.token(1))
            left = build.mul(left, build.select(there, build.const(1.0), build.const(0.0)))

    def axes(group: tuple[Index, ...]) -> tuple[int, ...]:
        return tuple(given.banks + mine.index(i) for i in group)

    front, dtype = size(lead or columns), kept(draft, parameter)
    order = plan.Tiled(tuple(range(given.banks)), axes(lead), axes(columns), axes(k), plan.Split(front, front), cores=1,
                       planes=2 if dtype == "f32" else 1)  # fmt: skip
    tensor = plan.Tensor(parameter, "tiles", dtype, (*given.shape[: given.banks], *sizes(mine)), order)
    if draft.tensors.get(parameter, tensor) != tensor:
        if prod(given.shape) <= LARGE:
            return None
        raise refuse(matrix.span, f"`{parameter}` is the matrix of two products, along different axes",
                     "a streamed matrix lies in one order: use two parameters")  # fmt: skip
    if rows and (prod(given.shape) <= LARGE or size(rows) > MOST_ROWS):
        return None
    draft.tensors[parameter] = tensor
    instance = flat(bank, given.shape[: given.banks]) if bank else None

    def by_matrix(left: Node, name: str) -> Node:
        planes = planes_of(draft, left, (*lead, *k), f"{name}_in", dtype == "f32")
        names = [f"{name}_{p}" for p in range(len(planes))] if len(planes) > 1 else [name]
        outs = tuple(draft.over(n, (*lead, *columns)) for n in names)
        draft.add(Product(outs, lead, (), columns, k, planes, streamed=parameter, instance=instance))
        return reduce(build.add, [read_array(out, (*lead, *columns)) for out in outs])

    if not rows:
        return by_matrix(left, name)
    indices = (*rows, *lead, *columns)
    out = draft.over(name, indices)
    for fixed in every(rows):  # the matrix is streamed once for each
        value = by_matrix(draft.settled(walk.substitute(left, fixed)), f"{name}_row")
        draft.assign(out, (*lead, *columns), value, (*fixed.values(), *map(build.index, (*lead, *columns))))
    return read_array(out, indices)


def arrays(draft: Draft, inside: list[Node], bound: tuple[Index, ...], name: str) -> Node:
    """A product of two groups of arrays, or of the whole body and ones."""
    big = max(inside, key=lambda f: size(f.free))
    rest = times([f for f in inside if f is not big])
    for a, b in ((rest, big), (big, rest)):
        both = set(a.free) & set(b.free)
        lead = tuple(i for i in b.free if i in both and i not in bound)
        rows = tuple(i for i in a.free if i not in both)
        columns = tuple(i for i in b.free if i not in both)
        if columns and set(bound) <= both and _worth(lead, rows, columns, bound):
            left = planes_of(draft, a, (*lead, *rows, *bound), f"{name}_left", draft.wide)
            right = planes_of(draft, b, (*lead, *columns, *bound), f"{name}_right", draft.wide)
            out = draft.over(name, (*lead, *rows, *columns))
            draft.add(Product((out,), lead, rows, columns, bound, left, right))
            return read_array(out, (*lead, *rows, *columns))
    return ones(draft, times(inside), bound, name)


def _tiles(*groups: tuple[Index, ...]) -> int:
    return prod(-(-size(g) // plan.TILE) for g in groups)


def _worth(lead: tuple[Index, ...], rows: tuple[Index, ...], columns: tuple[Index, ...], k: tuple[Index, ...]) -> bool:
    """Whether the tiles of the product are fewer than those of its body multiplied out."""
    body = (*lead, *rows, *columns, *k)
    out = -(-size(body) // plan.TILE**2) + _tiles((*lead, *rows, *columns), k)
    return size(lead) * _tiles(rows, columns, k) <= 2 * out


def ones(draft: Draft, body: Node, bound: tuple[Index, ...], name: str) -> Node:
    """The sum of an expression over `bound`."""
    rows = tuple(i for i in body.free if i not in bound)
    left = planes_of(draft, body, (*rows, *bound), f"{name}_in", draft.wide)
    unit = load(draft, read_array(draft.constant("ones", np.ones(size(bound))), bound))
    out = draft.over(name, rows)
    draft.add(Product((out,), (), rows, (), bound, left, (unit,)))
    return read_array(out, rows)


# --- factors: what can be loaded, and what the matrix unit sees of it ------------------------------------------------
def guarded(draft: Draft, f: Node, i: Index) -> bool:
    """Whether a read gives zero where an index runs past the tokens that are there."""
    if f.op != "read":
        return False
    places = walk.window_positions(f.arg.view, draft.windows.get(f.arg.ref, frozenset()))
    return any(f.args[p].op == "index" and f.args[p].arg == i for p in places)


def loadable(draft: Draft, n: Node, indices: tuple[Index, ...], name: str) -> Node:
    """A value as a read of which a load can be made: as it is, or in an array over those `indices` that it has."""
    n = draft.settled(n)
    loose = any(i in draft.here and not guarded(draft, n, i) for i in n.free)
    if n.op != "read" or draft.whole(n.arg.ref) or loose:
        return draft.temporary(name, tuple(i for i in indices if i in n.free), n)
    return n


def planes_of(draft: Draft, n: Node, indices: tuple[Index, ...], name: str, wide: bool) -> tuple[Load, ...]:
    """The loads of a factor: one, or what TF32 holds of it and the rest."""
    n = loadable(draft, n, indices, name)
    if n.arg.ref.kind == "param" and any(map(walk.has_reads, n.args)):  # a chosen row, which is to be fetched
        n = draft.temporary(name, tuple(i for i in indices if i in n.free), n)
    array = n.arg.ref.name
    if n.arg.ref.kind == "param":
        vector(draft, array)
    split = wide and not set(draft.constants.get(array, (0.5,))) <= {0.0, 1.0}
    if split and array not in draft.planes:
        own = indices_of(draft.arrays[array].shape)
        made = []
        for plane in PLANES:
            made.append(draft.array(f"{array}_{plane}", sizes(own)))
            draft.assign(made[-1], own, read_array(array, own), plane=plane)
        draft.planes[array] = tuple(made)
    first = load(draft, n)
    return tuple(replace(first, array=plane) for plane in draft.planes[array]) if split else (first,)
