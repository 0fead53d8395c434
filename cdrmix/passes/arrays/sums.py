"""Sums: a sum of products is a contraction, never the product's tensor.

Input: a `sum` or `mean` node and the draft.  Output: a `contract` for products, with a stored weight where one is a
factor, else a plain `sum` or `mean`.

What does not depend on the summed indices is taken out of the sum.  Tokens of a window that are not there add
nothing, and a mean divides by those that are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cdrmix.ir import types
from cdrmix.ir.arrays import Array, Contract, Indices, Stored, Type, seen, union
from cdrmix.ir.build import FLOATS
from cdrmix.ir.layout import scaled
from cdrmix.ir.nodes import Axis, DType, Index, Node, Param
from cdrmix.ir.ops import OPS
from cdrmix.ir.types import NARROW, matrix_product
from cdrmix.ir.walk import size, sizes

from .draft import Draft
from .values import MOVES, alike, along, elementwise, held, number, ordered, tensor, to_exact, to_float, to_int

Lower = Callable[[Node, Draft], Array]


@dataclass(frozen=True, slots=True)
class Summand:
    """What is summed: ± Π inner · Π outer / Π under, of which only `inner` varies along the summed indices.

    A sum or difference is its own only factor, and has `terms`.  `matrices` are the inner factors that are stored
    weights, and how they are multiplied.
    """

    body: Node
    inner: list[Node]
    outer: list[Node]
    under: list[Node]
    negative: bool
    matrices: list[tuple[Contract, Node]]
    terms: tuple[Summand, ...] = ()

    @property
    def by_weight(self) -> bool:
        """Whether it, or a term of it, is a product with a stored weight."""
        return any(t.by_weight for t in self.terms) if self.terms else bool(self.matrices)

    @property
    def is_product(self) -> bool:
        """Whether its factors vary along different indices: multiplied, they would be a larger tensor."""
        return len({frozenset(f.free) for f in self.inner}) > 1

    def by_terms(self, bound: Indices, draft: Draft) -> bool:
        """Whether each term is summed by itself: adding first would make a larger tensor, or hide a product."""
        if draft.traits.fuses:
            return self.by_weight
        if draft.here & {*bound}:
            return False
        whole = size(self.body.free)
        return all(size(t.body.free) < whole or t.is_product for t in self.terms)


def classified(n: Node, bound: Indices, draft: Draft) -> Summand:
    """The factors of what is summed; a division is taken apart when its divisor does not vary along `bound`."""
    over, under, negative, summed, todo = list[Node](), list[Node](), False, {*bound}, [n]
    while todo:
        f = todo.pop()
        if f.op == "mul" and f.dtype in FLOATS:
            todo += f.args[::-1]
        elif f.op == "neg" and f.dtype in FLOATS:
            negative = not negative
            todo += f.args
        elif f.op == "div" and not summed & {*f.args[1].free} and summed & {*f.args[0].free}:
            under.append(f.args[1])
            todo.append(f.args[0])
        else:
            over.append(f)
    inner = [f for f in over if summed & {*f.free}]
    matrices = [(m, f) for f in inner if (m := _matrix(f, inner, bound, draft)) is not None]
    terms = tuple(classified(a, bound, draft) for a in n.args) if n.op in ("add", "sub") else ()
    return Summand(n, inner, [f for f in over if f not in inner], under, negative, matrices, terms)


def sum_of(n: Node, draft: Draft, lower: Lower) -> Array:
    """A sum or mean as an array."""
    bound: Indices = n.arg
    if n.dtype not in FLOATS:
        return _total([to_int(lower(n.args[0], draft))], bound, draft)
    summand = classified(n.args[0], bound, draft)
    if n.op == "mean" and not draft.here & {*bound}:
        # better made of sums where a term is a product with a weight, or where the body is a product at all
        parted = summand.by_weight if draft.traits.fuses else n.args[0].op in ("mul", "div", "neg", "add", "sub")
        if not parted:
            (x,) = alike([lower(n.args[0], draft)], draft)
            if x.type != "number" and set(bound) <= set(x.dims):
                return along("mean", x, bound)
    product = matrix_product(n)
    if product is not None and (param := _param(product.matrix, draft)) and param.dtype in NARROW:
        return _rounded_product(product, param.dtype, bound, draft, lower)
    total = _sum(summand, bound, draft, lower)
    for i in bound if n.op == "mean" else ():
        total = _scaled(total, count_of(i, draft), "div", draft)
    return total


def count_of(i: Index, draft: Draft) -> Array:
    """How many places an index has; of a window, how many tokens are there."""
    if i not in draft.here:
        return number(i.axis.size)
    return Array("count", (draft.there(i),), (i,), "float" if draft.traits.fuses else "int", (), True)


def _sum(s: Summand, bound: Indices, draft: Draft, lower: Lower) -> Array:
    if s.terms and s.by_terms(bound, draft):
        found = alike([_sum(t, bound, draft, lower) for t in s.terms], draft)
        return _both(s.body.op, found[0], found[1], draft)
    x = _weighted(s, bound, draft, lower)
    if x is None:
        x = _total(alike([lower(f, draft) for f in s.inner] or [number(1.0)], draft), bound, draft)
    for f in s.outer:
        x = _scaled(x, lower(f, draft), "mul", draft)
    for f in s.under:
        x = _scaled(x, lower(f, draft), "div", draft)
    if not s.negative:
        return x
    return number(-x.const) if x.const is not None else Array("neg", (x,), None, x.type, x.dims, x.lead)


def _both(op: str, a: Array, b: Array, draft: Draft, zero: bool = False) -> Array:
    return elementwise(op, (a, b), a.type if b.type == "number" else b.type, draft, zero)


def _scaled(x: Array, by: Array, op: str, draft: Draft) -> Array:
    if x.const is not None and by.const is not None:
        return number(x.const * by.const if op == "mul" else x.const / by.const)
    if op == "div" or not all(y.type in ("int", "number") for y in (x, by)):
        x, by = alike([x, by], draft)
    if x.const == 1 and op == "mul":
        return by
    return x if by.const == 1 else _both(op, x, by, draft, zero_where_absent(op, (x, by), draft))


def zero_where_absent(op: str, found: Sequence[Array], draft: Draft) -> bool:
    """Whether an operation is zero where a token of a window is not there."""
    x = found[0]
    if len(found) == 1:
        return OPS[op].zero and x.absent_is_zero
    if op == "div":
        return x.absent_is_zero and _is_finite(found[1], draft)
    some = op == "mul" and any(y.absent_is_zero for y in found)
    return some and all(y.absent_is_zero or _is_finite(y, draft) for y in found)


def _is_finite(x: Array, draft: Draft) -> bool:
    """Whether a factor is a number where a token is not there: where gradients are wanted, all are."""
    return draft.traits.gradients or _is_weight(x) or not draft.here & {*x.dims}


# --- products with a weight ----------------------------------------------------------------------------------------
def _matrix(n: Node, factors: Sequence[Node], bound: Indices, draft: Draft) -> Contract | None:
    """How a stored weight is multiplied as a matrix; None where another factor has its rows, or it is none."""
    p = _param(n, draft)
    if p is None or any(a.op != "index" for a in n.args) or draft.mode == "init":
        return None
    places, view = tuple(a.arg for a in n.args), tuple(a.size for a in n.arg.view)
    others = {i for f in factors if f is not n for i in f.free}
    outs = tuple(i for i in places if i not in others)
    if len({*places}) < len(places) or not outs or draft.here & {*places} or not others >= {*bound} <= {*places}:
        return None
    along, rest = tuple(i for i in places if i in bound), tuple(i for i in places if i not in bound)
    groups, transposed = rest[: -len(outs)], places == (*along, *rest)
    if sizes(places) != view or rest != (*groups, *outs) or places not in ((*rest, *along), (*along, *rest)):
        return None
    stored = sizes(p.indices)
    if draft.traits.by_weight:  # [*groups, *outs, *along], a scale a row of what is stored
        fits = not transposed and (not scaled(p) or size(bound) == stored[-1])
    else:  # [rows, columns], of which one whole axis is summed
        fits = not groups and len(bound) == 1 and len(stored) == 2 and size(bound) == stored[0 if transposed else 1]
    return Contract(bound, 0, groups, outs, along, transposed) if fits else None


def _param(n: Node, draft: Draft) -> Param | None:
    if n.op != "read" or n.arg.ref.kind != "param":
        return None
    return next(p for p in draft.cell.params if p.name == n.arg.ref.name)


def _weighted(s: Summand, bound: Indices, draft: Draft, lower: Lower) -> Array | None:
    """The sum as a product with a stored weight; the weight with the most rows is the matrix."""
    if not s.matrices or (len(s.matrices) > 1 and not draft.traits.by_weight):
        return None
    m, weight = max(s.matrices, key=lambda pair: size(pair[0].outs))
    rest = [to_float(lower(f, draft), draft) for f in s.inner if f is not weight]
    if any(x.type == "number" for x in rest):
        return None
    product = _by_matrix(weight, m, _product(rest, draft), draft)
    if product is None or not draft.traits.by_weight or m.groups or len(m.along) > 1:
        return product
    return _named(weight.arg.ref.name, product, m, draft)


def _by_matrix(weight: Node, m: Contract, x: Array, draft: Draft) -> Array | None:
    """A stored weight [*groups, *outs, *along] times x [*groups, …, *along]: [*groups, …, *outs]."""
    if not x.lead or not {*m.groups, *m.along} <= {*x.dims} or (draft.mode == "rows" and x.dims != m.along):
        return None
    middle = tuple(d for d in x.dims if d not in (*m.groups, *m.along))
    value = draft.symbol(weight.arg.ref).value
    dims = (*m.along, *m.outs) if m.transposed else (*m.groups, *m.outs, *m.along)  # as it is stored
    view = None if sizes(dims) == value.arg.shape else sizes(dims)
    matrix = replace(value, arg=Stored(value.arg.name, value.arg.shape, view), dims=dims)
    param = _param(weight, draft)
    assert param is not None
    args = to_float(held(matrix, param.dtype, draft), draft), ordered(x, (*m.groups, *middle, *m.along))
    return Array("contract", args, m, "float", (*m.groups, *middle, *m.outs), True)


def _named(weight: str, product: Array, m: Contract, draft: Draft) -> Array:
    """A name for the product with its rows flat, so that it can stand beside others; seen under its own axes."""
    if len(m.outs) == 1:
        return draft.let(f"{weight}_x", product)
    rows = "*".join(i.axis.name for i in m.outs)
    flat = Index(rows, Axis(rows, size(m.outs)))
    dims = (*product.dims[: -len(m.outs)], flat)
    name = draft.let(f"{weight}_x", replace(product, dims=dims, arg=replace(m, outs=(flat,))))
    return seen("view", name, (sizes(dims), sizes(product.dims)), product.dims)


def _rounded_product(product: types.Product, dtype: DType, bound: Indices, draft: Draft, lower: Lower) -> Array:
    """A value that meets a narrow matrix: rounded as one, and the sum is not."""
    weight = product.matrix
    x = _product([to_float(lower(f, draft), draft) for f in product.operand], draft)
    x = to_float(held(tensor(x, draft), dtype, draft), draft)
    m = _matrix(weight, [weight, *product.operand], bound, draft)
    found = None if m is None else _by_matrix(weight, m, x, draft)
    if found is None:
        found = _total(alike([lower(weight, draft), x], draft), bound, draft)
    for f in product.outer:
        found = _scaled(found, lower(f, draft), "mul", draft)
    return found


# --- other sums ----------------------------------------------------------------------------------------------------
def _product(found: Sequence[Array], draft: Draft) -> Array:
    """Values multiplied place by place."""
    x = found[0]
    for y in found[1:]:
        x = _scaled(x, y, "mul", draft)
    return x


def _total(found: list[Array], bound: Indices, draft: Draft) -> Array:
    """The sum over `bound` of the values' product: as often as there are places where it does not vary."""
    varies = {i for x in found for i in x.dims}
    x = _over(found, tuple(i for i in bound if i in varies), draft)
    for i in bound:
        if i not in varies:
            by = count_of(i, draft)
            x = _scaled(to_exact(x) if by.type == "float" else x, by, "mul", draft)
    return x


def _over(found: list[Array], bound: Indices, draft: Draft) -> Array:
    """The same, over indices that each vary in some value."""
    if not bound:
        return _product(found, draft)
    found = [tensor(x, draft) for x in found]
    _leave_out_absent(found, [i for i in bound if i in draft.here and not _vanishes(found, i)], draft)
    merged: dict[frozenset[Index], Array] = {}
    for x in found:  # factors over the same indices make no larger tensor together
        key = frozenset(x.dims)
        merged[key] = _product([merged[key], x], draft) if key in merged else x
    found = list(merged.values())
    if len(found) == 1:
        return along("sum", to_int(found[0]), bound)
    kind: Type = "float" if any(x.type == "float" for x in found) else "exact"
    dims = union(found, [i for i in draft.order if i not in bound])
    return Array("contract", tuple(found), Contract(bound), kind, dims, any(x.lead for x in found))


def _is_tame(x: Array) -> bool:
    """Whether it is finite where a token is not there."""
    return x.absent_is_zero or _is_weight(x)


def _is_weight(x: Array) -> bool:
    """Whether it is a weight, however it is seen."""
    return x.op == "stored" or ((x.op in MOVES or x.op in ("clip", "cast")) and _is_weight(x.args[0]))


def _vanishes(found: Sequence[Array], i: Index) -> bool:
    """Whether the product is zero where a token is not there: a factor is, and no other can be infinite there."""
    met = [x for x in found if i in x.dims]
    return all(map(_is_tame, met)) and any(x.absent_is_zero for x in met)


def _leave_out_absent(found: list[Array], bound: Sequence[Index], draft: Draft) -> None:
    """Put zeros where a token of the window is not there: in the smallest factor, or in what may be infinite there."""
    for i in bound:
        met = [p for p, x in enumerate(found) if i in x.dims]
        wild = [p for p in met if not _is_tame(found[p])] if not draft.traits.gradients else []
        for p in wild or [min(met, key=lambda p: len(found[p].dims))]:
            x = found[p]
            zero = number(0.0 if x.type in ("float", "exact") else 0)
            found[p] = Array("select", (draft.there(i), x, zero), None, x.type, x.dims, True, True)
