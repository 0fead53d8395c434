"""Products of matrices: by a streamed parameter, of two groups of arrays, by ones.

Input: factors over the draft's names, and the indices that are summed.  Output: a `Product`, and a read of its result.

Of several arrays the largest is one side and the rest the other.  Where both sides run over the same indices, or a
product would be of more tiles than its body, the body is multiplied out and summed by a product with ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import product as places
from math import prod

import numpy as np

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Axis, Index, Node, Ref
from cdrmix.ir.steps import Load, Product
from cdrmix.ir.walk import size, sizes

from .. import plan
from .draft import Draft, read_array, refuse
from .loads import kept, load, vector

LARGE = 16384
"""Elements of a matrix from which on it is not held in L1."""
MOST_ROWS = 32
"""Vectors that a matrix is streamed again for."""


def times(found: Sequence[Node]) -> Node:
    """The product of factors."""
    return reduce(build.mul, found) if found else build.const(1.0)


def streamed(
    draft: Draft, matrix: Node, left: Node, bound: tuple[Index, ...], here: set[Index], name: str
) -> Node | None:
    """The product of a parameter and a factor over all of its bound indices; None when it is better held in L1."""
    given = draft.given[matrix.arg.ref.name]
    if matrix.arg.ref.name in draft.held:
        if prod(given.shape) <= LARGE:
            return None
        raise refuse(matrix.span, f"`{matrix.arg.ref.name}` is multiplied as a matrix, and read element by element too",
                     "a streamed matrix is not held besides: use two parameters")  # fmt: skip
    mine = [a.arg for a in matrix.args[given.banks :]]
    k = tuple(i for i in mine if i in bound)
    lead = tuple(i for i in mine if i not in bound and i in left.free)
    columns = tuple(i for i in mine if i not in bound and i not in left.free)
    rows = tuple(i for i in left.free if i not in mine and i not in bound)
    if not columns:
        return None
    for i in k:
        if i in here and i not in left.free:
            there = build.node("le", build.index(i), draft.token(1))
            left = build.mul(left, build.select(there, build.const(1.0), build.const(0.0)))
    other = draft.tensors.get(matrix.arg.ref.name)
    if other is not None and other != _tensor(draft, matrix, (lead, columns, k)):
        if prod(given.shape) <= LARGE:
            return None
        raise refuse(matrix.span, f"`{matrix.arg.ref.name}` is the matrix of two products, along different axes",
                     "a streamed matrix lies in one order: use two parameters")  # fmt: skip
    if rows:
        if prod(given.shape) <= LARGE or size(rows) > MOST_ROWS:
            return None
        return _row_by_row(draft, matrix, left, (lead, rows, columns, k), here, name)
    return _by_matrix(draft, matrix, left, (lead, columns, k), here, name)


def _row_by_row(
    draft: Draft,
    matrix: Node,
    left: Node,
    by: tuple[tuple[Index, ...], ...],
    here: set[Index],
    name: str,
) -> Node:
    """A matrix by several vectors: streamed once for each."""
    lead, rows, columns, k = by
    indices = (*rows, *lead, *columns)
    out = draft.array(name, sizes(indices))
    draft.note(out, indices, here)
    for at in places(*(range(i.axis.size) for i in rows)):
        fixed = {i: build.const(p) for i, p in zip(rows, at, strict=True)}
        one = draft.settled(walk.substitute(left, fixed))
        value = _by_matrix(draft, matrix, one, (lead, columns, k), here, f"{name}_row")
        place = (*(build.const(p) for p in at), *map(build.index, (*lead, *columns)))
        draft.assign(out, (*lead, *columns), value, place)
    return read_array(out, indices)


def _by_matrix(
    draft: Draft, matrix: Node, left: Node, by: tuple[tuple[Index, ...], ...], here: set[Index], name: str
) -> Node:
    lead, columns, k = by
    given = draft.given[matrix.arg.ref.name]
    tensor = _tensor(draft, matrix, by)
    draft.tensors[tensor.name] = tensor
    instance = None
    if given.banks:
        instance = reduce(
            lambda a, b: build.add(build.mul(a, build.const(b[1])), b[0]),
            list(zip(matrix.args[1 : given.banks], given.shape[1 : given.banks], strict=True)),
            matrix.args[0],
        )
    planes = planes_of(draft, left, (*lead, *k), here, f"{name}_in", tensor.dtype == "f32")
    indices = (*lead, *columns)
    outs = tuple(draft.array(f"{name}_{p}" if len(planes) > 1 else name, sizes(indices)) for p in range(len(planes)))
    for out in outs:
        draft.note(out, indices, here)
    draft.add(Product(outs, lead, (), columns, k, planes, streamed=tensor.name, instance=instance))
    return reduce(build.add, [read_array(out, indices) for out in outs])


def _tensor(draft: Draft, matrix: Node, by: tuple[tuple[Index, ...], ...]) -> plan.Tensor:
    """The parameter as it is streamed: the shape that it is read under, and which of its axes are what."""
    local, given = matrix.arg.ref.name, draft.given[matrix.arg.ref.name]
    axes = [a.arg for a in matrix.args[given.banks :]]
    shape = (*given.shape[: given.banks], *sizes(axes))
    lead, columns, k = (tuple(given.banks + axes.index(i) for i in group) for group in by)
    front = prod(shape[p] for p in lead or columns)
    dtype = kept(draft, local)
    planes = 2 if dtype == "f32" else 1
    tiled = plan.Tiled(tuple(range(given.banks)), lead, columns, k, plan.Split(front, front), cores=1, planes=planes)
    return plan.Tensor(local, "tiles", dtype, shape, tiled)


def arrays(draft: Draft, inside: list[Node], bound: tuple[Index, ...], here: set[Index], name: str) -> Node:
    """A product of two groups of arrays, or of the whole body and ones."""
    big = max(inside, key=lambda f: size(f.free))
    right, left = big, times([f for f in inside if f is not big])
    if len(inside) > 1:
        for a, b in ((left, right), (right, left)):
            columns = tuple(i for i in b.free if i not in a.free and i not in bound)
            k = tuple(i for i in bound if i in a.free and i in b.free)
            if columns and k and set(bound) <= set(a.free) & set(b.free):
                lead = tuple(i for i in b.free if i in a.free and i not in bound)
                rows = tuple(i for i in a.free if i not in b.free and i not in bound)
                if _worth(lead, rows, columns, k):
                    return _multiplied(draft, a, b, (lead, rows, columns, k), here, name)
    return ones(draft, times(inside), bound, here, name)


def _tiles(*groups: tuple[Index, ...]) -> int:
    return prod(-(-size(g) // plan.TILE) for g in groups)


def _worth(lead: tuple[Index, ...], rows: tuple[Index, ...], columns: tuple[Index, ...], k: tuple[Index, ...]) -> bool:
    """Whether the tiles of the product are fewer than those of its body multiplied out."""
    body = (*lead, *rows, *columns, *k)
    out = -(-size(body) // plan.TILE**2) + _tiles((*lead, *rows, *columns), k)
    return size(lead) * _tiles(rows, columns, k) <= 2 * out


def _multiplied(draft: Draft, a: Node, b: Node, by: tuple[tuple[Index, ...], ...], here: set[Index], name: str) -> Node:
    lead, rows, columns, k = by
    left = planes_of(draft, a, (*lead, *rows, *k), here, f"{name}_left", draft.wide)
    right = planes_of(draft, b, (*lead, *columns, *k), here, f"{name}_right", draft.wide)
    indices = (*lead, *rows, *columns)
    out = draft.array(name, sizes(indices))
    draft.note(out, indices, here)
    draft.add(Product((out,), lead, rows, columns, k, left, right))
    return read_array(out, indices)


def ones(draft: Draft, body: Node, bound: tuple[Index, ...], here: set[Index], name: str) -> Node:
    """The sum of an expression over `bound`."""
    rows = tuple(i for i in body.free if i not in bound)
    left = planes_of(draft, body, (*rows, *bound), here, f"{name}_in", draft.wide)
    unit = draft.constant("ones", np.ones(size(bound)))
    flat = load(draft, build.read(Ref("def", unit), [i.axis for i in bound], bound, "f32"))
    out = draft.array(name, sizes(rows))
    draft.note(out, rows, here)
    draft.add(Product((out,), (), rows, (), bound, left, (flat,)))
    return read_array(out, rows)


# --- planes: what the matrix unit sees of a factor, and the rest -----------------------------------------------------
def guarded(draft: Draft, f: Node, i: Index) -> bool:
    """Whether a read gives zero where an index runs past the tokens that are there."""
    if f.op != "read":
        return False
    places = walk.window_positions(f.arg.view, draft.windows.get(f.arg.ref, frozenset()))
    return any(f.args[p].op == "index" and f.args[p].arg == i for p in places)


def planes_of(
    draft: Draft, n: Node, indices: tuple[Index, ...], here: set[Index], name: str, wide: bool
) -> tuple[Load, ...]:
    """The loads of a factor: one, or what TF32 holds of it and the rest."""
    n = draft.settled(n)
    loose = any(i in here and not guarded(draft, n, i) for i in n.free)
    if n.op != "read" or draft.whole(n.arg.ref) or _fetched(draft, n) or loose:
        n = draft.temporary(name, tuple(i for i in indices if i in n.free), n, here, "f32")
    if n.arg.ref.kind == "param":
        vector(draft, n.arg.ref.name)
    array = n.arg.ref.name
    if not wide or set(draft.constants.get(array, (0.5,))) <= {0.0, 1.0}:
        return (load(draft, n),)
    if array not in draft.planes:
        shape = draft.arrays[array].shape
        own = tuple(Index(f"d{p}", Axis(f"d{p}", size)) for p, size in enumerate(shape))
        whole, made = read_array(array, own), []
        for plane in ("hi", "lo"):
            made.append(draft.array(f"{array}_{plane}", shape))
            draft.assign(made[-1], own, whole, None, plane)
        draft.planes[array] = tuple(made)
    first = load(draft, n)
    return tuple(Load(p, first.view, first.at, first.when, first.fill) for p in draft.planes[array])


def _fetched(draft: Draft, n: Node) -> bool:
    """Whether a read needs a step of its own before anything else can use it."""
    return n.arg.ref.kind == "param" and any(map(walk.has_reads, n.args))
