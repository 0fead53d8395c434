"""Sums: a sum of products is a contraction, never the product's tensor.

Input: a `sum` or `mean` node and the draft.  Output: a `contract` for products, with a stored weight where one is a
factor, else a plain `sum` or `mean`.

What does not depend on the summed indices is taken out of the sum.  Tokens of a window that are not there add
nothing, and a mean divides by those that are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

from cdrmix.ir import types
from cdrmix.ir.arrays import Array, Contract, Stored, Type, union
from cdrmix.ir.build import FLOATS
from cdrmix.ir.layout import scaled
from cdrmix.ir.nodes import TOKENS, Axis, DType, Index, Node, Param
from cdrmix.ir.types import NARROW, matrix_product

from .casts import alike, held, number, ordered, tensor, to_exact, to_float, to_int
from .draft import Draft

Lower = Callable[[Node, Draft], Array]


@dataclass(slots=True)
class Product:
    """A product: `over / under`, with a sign."""

    over: list[Node]
    under: list[Node]
    negative: bool = False


def sum_of(n: Node, draft: Draft, lower: Lower) -> Array:
    """A sum or mean as an array."""
    bound: tuple[Index, ...] = n.arg
    if any(i.axis == TOKENS for i in bound):
        return draft.tokens(n, draft)
    if n.dtype not in FLOATS:
        return _total([to_int(lower(n.args[0], draft))], bound, draft)
    if n.op == "mean" and not draft.here & {*bound} and not _worth_parting(n.args[0], bound, draft):
        (x,) = alike([lower(n.args[0], draft)], draft)
        if x.type != "number" and set(bound) <= set(x.dims):
            return _along(x, bound, "mean")
    product = matrix_product(n)
    if product is not None and (dtype := _param_type(product.matrix, draft)) in NARROW:
        return _rounded_product(product, dtype, bound, draft, lower)
    total = _sum(n.args[0], bound, draft, lower)
    for i in bound if n.op == "mean" else ():
        total = _scaled(total, count_of(i, draft), "div", draft)
    return total


def count_of(i: Index, draft: Draft) -> Array:
    """How many places an index has; of a window, how many tokens are there."""
    if i not in draft.here:
        return number(i.axis.size)
    return Array("count", (draft.there(i),), i, "float" if draft.traits.fuses else "int", (), True)


def _worth_parting(body: Node, bound: Sequence[Index], draft: Draft) -> bool:
    """Whether a mean is better made of sums: a term is a product with a weight, or the body is a product at all."""
    if draft.traits.fuses:
        return _by_weight(body, bound, draft)
    return body.op in ("mul", "div", "neg", "add", "sub")


def _sum(body: Node, bound: Sequence[Index], draft: Draft, lower: Lower) -> Array:
    if body.op in ("add", "sub") and _parts(body, bound, draft):
        found = alike([_sum(a, bound, draft, lower) for a in body.args], draft)
        return _both(body.op, found[0], found[1], draft)
    product = _factors(body, bound)
    inner = [f for f in product.over if set(f.free) & set(bound)]
    found_ = _weighted(inner, tuple(bound), draft, lower)
    x = found_ or _total(alike([lower(f, draft) for f in inner] or [number(1.0)], draft), bound, draft)
    for f in (f for f in product.over if f not in inner):
        x = _scaled(x, lower(f, draft), "mul", draft)
    for f in product.under:
        x = _scaled(x, lower(f, draft), "div", draft)
    if not product.negative:
        return x
    return number(-x.const) if x.const is not None else Array("neg", (x,), None, x.type, x.dims, x.lead)


def _parts(body: Node, bound: Sequence[Index], draft: Draft) -> bool:
    """Whether each term is summed by itself: adding first would make a larger tensor, or hide a product."""
    if draft.traits.fuses:
        return _by_weight(body, bound, draft)
    if any(i in draft.here for i in bound):
        return False
    size = prod(i.axis.size for i in body.free)
    return all(prod(i.axis.size for i in a.free) < size or _is_product(a, bound) for a in body.args)


def _is_product(n: Node, bound: Sequence[Index]) -> bool:
    inner = [f for f in _factors(n, bound).over if set(f.free) & set(bound)]
    return len({frozenset(f.free) for f in inner}) > 1


def _by_weight(body: Node, bound: Sequence[Index], draft: Draft) -> bool:
    """Whether a term of the body is a product with a stored weight."""
    if body.op in ("add", "sub"):
        return any(_by_weight(a, bound, draft) for a in body.args)
    inner = [f for f in _factors(body, bound).over if set(f.free) & set(bound)]
    return any(_matrix(f, inner, tuple(bound), draft) for f in inner)


def _factors(n: Node, bound: Sequence[Index]) -> Product:
    product = Product([], [])
    _collect(n, set(bound), product)
    return product


def _collect(n: Node, bound: set[Index], into: Product) -> None:
    """The factors of `n`; a division is taken apart when its divisor does not depend on the summed indices."""
    if n.op == "mul" and n.dtype in FLOATS:
        for a in n.args:
            _collect(a, bound, into)
    elif n.op == "neg" and n.dtype in FLOATS:
        into.negative = not into.negative
        _collect(n.args[0], bound, into)
    elif n.op == "div" and not set(n.args[1].free) & bound and set(n.args[0].free) & bound:
        into.under.append(n.args[1])
        _collect(n.args[0], bound, into)
    else:
        into.over.append(n)


def _both(op: str, a: Array, b: Array, draft: Draft) -> Array:
    kind = a.type if b.type == "number" else b.type
    return Array(op, (a, b), None, kind, union([a, b], draft.order), a.lead or b.lead)


def _scaled(x: Array, by: Array, op: str, draft: Draft) -> Array:
    if x.const is not None and by.const is not None:
        return number(x.const * by.const if op == "mul" else x.const / by.const)
    if op == "div" or not all(y.type in ("int", "number") for y in (x, by)):
        x, by = alike([x, by], draft)
    if x.const == 1 and op == "mul":
        return by
    if by.const == 1:
        return x
    found = _both(op, x, by, draft)
    return replace(found, absent_is_zero=zero_where_absent(op, x, by, draft))


def zero_where_absent(op: str, x: Array, by: Array, draft: Draft) -> bool:
    """Whether a product or a quotient is zero where a token of a window is not there."""
    if op == "div":
        return x.absent_is_zero and _is_finite(by, draft)
    some = x.absent_is_zero or by.absent_is_zero
    return some and all(y.absent_is_zero or _is_finite(y, draft) for y in (x, by))


def _is_finite(x: Array, draft: Draft) -> bool:
    """Whether a factor is a number where a token is not there: where gradients are wanted, all are."""
    return draft.traits.gradients or _is_weight(x) or not draft.here & {*x.dims}


# --- products with a weight ----------------------------------------------------------------------------------------
def _matrix(n: Node, factors: Sequence[Node], bound: tuple[Index, ...], draft: Draft) -> Contract | None:
    """A stored weight as matrices [*groups, *outs, *along] or [along, *outs], if nothing else has its rows."""
    p = _param(n, draft)
    if p is None or any(a.op != "index" for a in n.args) or draft.mode == "init":
        return None
    places: list[Index] = [a.arg for a in n.args]
    others = {i for f in factors if f is not n for i in f.free}
    outs = [i for i in places if i not in others]
    if len(set(places)) < len(places) or not outs or draft.here & {*places} or not set(bound) <= others:
        return None
    if not draft.traits.by_weight:
        return _plain_matrix(n, p, places, bound, outs)
    if any(i.axis.size != a.size for i, a in zip(places, n.arg.view, strict=True)):
        return None
    kept = places[: len(places) - len(bound)]
    groups = kept[: len(kept) - len(outs)]
    if set(outs) & {*bound, *groups} or set(places) != {*kept, *bound}:
        return None
    if scaled(p) and prod(i.axis.size for i in bound) != p.indices[-1].axis.size:
        return None
    along = tuple(i for i in places if i in bound)
    return Contract(bound, 0, tuple(groups), tuple(outs), along)


def _param(n: Node, draft: Draft) -> Param | None:
    if n.op != "read" or n.arg.ref.kind != "param":
        return None
    return next(p for p in draft.cell.params if p.name == n.arg.ref.name)


def _param_type(n: Node, draft: Draft) -> DType:
    p = _param(n, draft)
    return "f32" if p is None else p.dtype


def _plain_matrix(
    n: Node, p: Param, places: list[Index], bound: tuple[Index, ...], outs: list[Index]
) -> Contract | None:
    """A stored [rows, columns], of which one whole axis is summed."""
    if len(bound) != 1 or len(p.indices) != 2 or len(places) < 2 or len(outs) != len(places) - 1:
        return None
    view, sizes = [a.size for a in n.arg.view], [i.axis.size for i in p.indices]
    if places[-1] == bound[0] and view[-1] == sizes[1]:
        return Contract(bound, 0, (), tuple(places[:-1]), bound)
    if places[0] == bound[0] and view[0] == sizes[0]:
        return Contract(bound, 0, (), tuple(places[1:]), bound, transposed=True)
    return None


def _weighted(factors: Sequence[Node], bound: tuple[Index, ...], draft: Draft, lower: Lower) -> Array | None:
    """The sum as a product with a stored weight; the weight with the most rows is the matrix."""
    found = [(m, f) for f in factors if (m := _matrix(f, factors, bound, draft)) is not None]
    if not found or (len(found) > 1 and not draft.traits.by_weight):
        return None
    m, weight = max(found, key=lambda pair: prod(i.axis.size for i in pair[0].outs))
    rest = [to_float(lower(f, draft), draft) for f in factors if f is not weight]
    if any(x.type == "number" for x in rest):
        return None
    x = _product(rest, draft)
    if not x.lead or not {*m.groups, *m.along} <= set(x.dims):
        return None
    if draft.mode == "rows" and x.dims != m.along:
        return None
    middle = tuple(d for d in x.dims if d not in (*m.groups, *m.along))
    x = ordered(x, (*m.groups, *middle, *m.along))
    dims = (*m.groups, *middle, *m.outs)
    matrix = to_float(held(_stored_matrix(weight, m, draft), _param_type(weight, draft), draft), draft)
    product = Array("contract", (matrix, x), m, "float", dims, True)
    if draft.traits.by_weight and not m.groups and len(m.along) == 1:
        return _named(weight.arg.ref.name, product, m, middle, draft)
    return product


def _stored_matrix(weight: Node, m: Contract, draft: Draft) -> Array:
    """The weight under the indices of its rows and columns, in the order in which it is stored."""
    value = draft.symbol(weight.arg.ref).value
    dims = (*m.along, *m.outs) if m.transposed else (*m.groups, *m.outs, *m.along)
    sizes = tuple(i.axis.size for i in dims)
    seen = None if sizes == value.arg.shape else sizes
    return replace(value, arg=Stored(value.arg.name, value.arg.shape, seen), dims=dims)


def _named(weight: str, product: Array, m: Contract, middle: tuple[Index, ...], draft: Draft) -> Array:
    """A name for the product with its rows flat, so that it can stand beside others; seen under its own axes."""
    if len(m.outs) == 1:
        return draft.let(f"{weight}_x", product)
    rows = "*".join(i.axis.name for i in m.outs)
    flat = Index(rows, Axis(rows, prod(i.axis.size for i in m.outs)))
    name = draft.let(f"{weight}_x", replace(product, dims=(*middle, flat), arg=replace(m, outs=(flat,))))
    old, new = [[i.axis.size for i in (*middle, *outs)] for outs in ((flat,), m.outs)]
    return Array("view", (name,), (tuple(old), tuple(new)), "float", (*middle, *m.outs), True)


def _rounded_product(
    product: types.Product, dtype: DType, bound: tuple[Index, ...], draft: Draft, lower: Lower
) -> Array:
    """A value that meets a narrow matrix: rounded as one, and the sum is not."""
    x = _product([to_float(lower(f, draft), draft) for f in product.operand], draft)
    x = to_float(held(tensor(x, draft), dtype, draft), draft)
    weight = product.matrix
    m = _matrix(weight, [weight, *product.operand], bound, draft)
    if m is not None and x.lead and {*m.along} <= set(x.dims) and (draft.mode != "rows" or x.dims == m.along):
        middle = tuple(d for d in x.dims if d not in m.along)
        matrix = held(_stored_matrix(weight, m, draft), dtype, draft)
        args = (to_float(matrix, draft), ordered(x, (*middle, *m.along)))
        found = Array("contract", args, m, "float", (*middle, *m.outs), True)
    else:
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


def _total(found: list[Array], bound: Sequence[Index], draft: Draft) -> Array:
    """The sum over `bound` of the values' product: as often as there are places where it does not vary."""
    x = _over(found, tuple(i for i in bound if any(i in y.dims for y in found)), draft)
    for i in bound:
        if not any(i in y.dims for y in found):
            if x.type == "int" and i not in draft.here:
                x = _both("mul", x, number(i.axis.size), draft)
            else:
                by = count_of(i, draft)
                x = _scaled(to_exact(x) if by.type == "float" else x, by, "mul", draft)
    return x


def _over(found: list[Array], bound: tuple[Index, ...], draft: Draft) -> Array:
    """The same, over indices that each vary in some value."""
    if not bound:
        return _product(found, draft)
    found = [tensor(x, draft) for x in found]
    found = _without_absent(found, [i for i in bound if i in draft.here and not _vanishes(found, i)], draft)
    merged: dict[frozenset[Index], Array] = {}
    for x in found:  # factors over the same indices make no larger tensor together
        key = frozenset(x.dims)
        merged[key] = _product([merged[key], x], draft) if key in merged else x
    found = list(merged.values())
    if len(found) == 1:
        x = found[0]
        return _along(to_int(x), bound, "sum")
    kind: Type = "float" if any(x.type == "float" for x in found) else "exact"
    dims = union(found, [i for i in draft.order if i not in bound])
    return Array("contract", tuple(found), Contract(bound), kind, dims, any(x.lead for x in found))


def _vanishes(found: Sequence[Array], i: Index) -> bool:
    """Whether the product is zero where a token is not there: a factor is, and no other can be infinite there."""
    over = [x for x in found if i in x.dims]
    return all(map(_is_tame, over)) and any(x.absent_is_zero for x in over)


def _is_tame(x: Array) -> bool:
    return x.absent_is_zero or _is_weight(x)


SEEN = frozenset({"permute", "view", "at", "slice", "flip", "clip", "cast"})
"""Ways in which a tensor is seen, its elements being what they are."""


def _is_weight(x: Array) -> bool:
    """Whether it is a weight, however it is seen."""
    return x.op == "stored" or (x.op in SEEN and _is_weight(x.args[0]))


def _without_absent(found: list[Array], bound: Sequence[Index], draft: Draft) -> list[Array]:
    """The factors with zeros where a token of the window is not there: the smallest, and what may be infinite there."""
    found = list(found)
    for i in bound:
        over = [p for p, x in enumerate(found) if i in x.dims]
        wild = [p for p in over if not _is_tame(found[p])] if not draft.traits.gradients else []
        for p in wild or [min(over, key=lambda p: len(found[p].dims))]:
            x = found[p]
            zero = number(0.0 if x.type in ("float", "exact") else 0)
            found[p] = Array("select", (draft.there(i), x, zero), None, x.type, x.dims, True, None, True)
    return found


def _along(x: Array, bound: Sequence[Index], op: str) -> Array:
    return Array(op, (x,), tuple(bound), x.type, tuple(d for d in x.dims if d not in bound), x.lead)
