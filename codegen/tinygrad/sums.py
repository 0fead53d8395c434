"""Emission of sums.

Input: a `sum` or `mean` node and the scope.
Output: a `Value`: a product with a stored weight where the sum is one, else factors multiplied and summed, which
tinygrad makes one kernel without the product's tensor.

What does not depend on the summed indices is taken out of the sum.  Tokens of a window that are not there add
nothing, and a mean divides by those that are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

from cdrmix.ir import python as escape
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Index, Node

from .casts import alike, to_exact, to_float, to_int
from .scope import Scope, axes_of
from .value import ADD, ATOM, MUL, NEG, Value, fit, number, permuted, positions, union, viewed, within

Emit = Callable[[Node, Scope], Value]


@dataclass(slots=True)
class Product:
    """A product: `over / under`, with a sign."""

    over: list[Node]
    under: list[Node]
    negative: bool = False


def sum_of(n: Node, scope: Scope, emit: Emit) -> Value:
    """See the module."""
    bound: tuple[Index, ...] = n.arg
    if n.dtype not in FLOATS:
        return _total([to_int(emit(n.args[0], scope))], bound, scope)
    if n.op == "mean" and not scope.here & {*bound} and not _products(n.args[0], bound, scope):
        (v,) = alike([emit(n.args[0], scope)])
        if v.type != "number" and set(bound) <= set(v.dims):
            return _mean_of_rows(n.args[0], v, bound, scope, emit) or _along(v, bound, "mean")
    total = _sum(n.args[0], bound, scope, emit)
    for i in bound if n.op == "mean" else ():
        total = _scaled(total, count(i, scope), "/", scope)
    return total


def count(i: Index, scope: Scope) -> Value:
    """How many places an index has; of a window, how many tokens are there."""
    if i not in scope.here:
        return number(i.axis.size)
    return Value(f"{scope.mask(i).code}.float().sum(-1)", "float", (), True)


def _sum(body: Node, bound: Sequence[Index], scope: Scope, emit: Emit) -> Value:
    if body.op in ("add", "sub") and _products(body, bound, scope):
        values = alike([_sum(a, bound, scope, emit) for a in body.args])
        dims = union(values, scope.order)
        a, b = (fit(v, dims) for v in values)
        sign = "+" if body.op == "add" else "-"
        kind = a.type if b.type == "number" else b.type
        return Value(f"{within(a, ADD)} {sign} {within(b, ADD + 1)}", kind, dims, a.lead or b.lead, ADD)
    product = _factors(body, bound)
    inner = [f for f in product.over if set(f.free) & set(bound)]
    found = _weighted(inner, tuple(bound), scope, emit)
    found = found or _total(alike([emit(f, scope) for f in inner] or [number(1.0)]), bound, scope)
    for f in (f for f in product.over if f not in inner):
        found = _scaled(found, emit(f, scope), "*", scope)
    for f in product.under:
        found = _scaled(found, emit(f, scope), "/", scope)
    return replace(found, code=f"-{within(found, NEG)}", level=NEG, const=None) if product.negative else found


def _products(body: Node, bound: Sequence[Index], scope: Scope) -> bool:
    """Whether a term of the body is a product with a stored weight."""
    if body.op in ("add", "sub"):
        return any(_products(a, bound, scope) for a in body.args)
    inner = [f for f in _factors(body, bound).over if set(f.free) & set(bound)]
    return any(_matrix(f, inner, tuple(bound), scope) for f in inner)


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


def _scaled(v: Value, by: Value, sign: str, scope: Scope) -> Value:
    if v.const is not None and by.const is not None:
        return number(v.const * by.const if sign == "*" else v.const / by.const)
    v, by = alike([v, by])
    if v.const == 1 and sign == "*":
        return by
    if by.const == 1:
        return v
    dims = union([v, by], scope.order)
    a, b = fit(v, dims), fit(by, dims)
    kind = a.type if b.type == "number" else b.type
    return Value(f"{within(a, MUL)} {sign} {within(b, MUL + 1)}", kind, dims, a.lead or b.lead, MUL)


# --- products with a weight ----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Matrix:
    """A stored weight as matrices: `groups` are shared with the other factors, `outs` are its own rows."""

    name: str
    groups: tuple[Index, ...]
    outs: tuple[Index, ...]


def _matrix(n: Node, factors: Sequence[Node], bound: tuple[Index, ...], scope: Scope) -> _Matrix | None:
    """Groups, rows and then the summed indices, in the order in which they are stored."""
    p = scope.param(n.arg.ref) if n.op == "read" else None
    if p is None or any(a.op != "index" or a.arg.axis.size != x.size for a, x in zip(n.args, n.arg.view, strict=True)):
        return None
    places = [a.arg for a in n.args]
    others = {i for f in factors if f is not n for i in f.free}
    own = [i for i in places if i not in others]
    kept = places[: len(places) - len(bound)]
    groups = kept[: len(kept) - len(own)]
    if len(set(places)) < len(places) or not own or set(own) & {*bound, *groups} or set(places) != {*kept, *bound}:
        return None
    if set(bound) & scope.here or not set(bound) <= others:
        return None
    whole = prod(i.axis.size for i in bound) == p.indices[-1].axis.size
    return _Matrix(p.name, tuple(groups), tuple(own)) if p.stored != "i8" or whole else None


def _weighted(factors: Sequence[Node], bound: tuple[Index, ...], scope: Scope, emit: Emit) -> Value | None:
    """The sum as a product with a stored weight; the weight with the most rows is the matrix."""
    found = [(m, f) for f in factors if (m := _matrix(f, factors, bound, scope)) is not None]
    if not found:
        return None
    m, weight = max(found, key=lambda pair: prod(i.axis.size for i in pair[0].outs))
    along = tuple(a.arg for a in weight.args if a.arg in bound)
    rest = [to_float(emit(f, scope)) for f in factors if f is not weight]
    x = rest[0]
    for v in rest[1:]:
        x = _scaled(x, v, "*", scope)
    if not x.lead or not {*m.groups, *along} <= set(x.dims):
        return None
    middle = tuple(d for d in x.dims if d not in (*m.groups, *along))
    given = permuted(x, (*m.groups, *middle, *along)).code
    sizes = [i.axis.size for i in (*m.groups, *middle)]
    if m.groups or len(along) > 1:
        groups = f", groups=({', '.join(str(i.axis.size) for i in m.groups)},)" if m.groups else ""
        count = f", along={len(along)}" if len(along) > 1 else ""
        code = f"here.product({escape.text(m.name)}, {given}{groups}{count})"
    else:
        code = scope.product(m.name, given, axes_of((*middle, *m.outs)))
    code = viewed(code, [*sizes, prod(i.axis.size for i in m.outs)], [*sizes, *(i.axis.size for i in m.outs)])
    return Value(code, "float", (*m.groups, *middle, *m.outs), True)


def _mean_of_rows(body: Node, v: Value, bound: Sequence[Index], scope: Scope, emit: Emit) -> Value | None:
    """The mean of a tensor, or of its square, along its last axis, in a kernel for long rows."""
    square = body.op == "pow" and body.args[1].op == "const" and body.args[1].arg == 2
    x = emit(body.args[0], scope) if square else v
    if not x.code.isidentifier() or x.type != "float" or not x.lead or tuple(bound) != x.dims[-1:]:
        return None
    return Value(f"{'mean_square' if square else 'mean'}({x.code})", "float", x.dims[:-1], True)


# --- other sums ----------------------------------------------------------------------------------------------------
def _total(values: Sequence[Value], bound: Sequence[Index], scope: Scope) -> Value:
    """The sum over `bound` of the values' product: as often as there are places where it does not vary."""
    found = values[0]
    for v in values[1:]:
        found = _scaled(found, v, "*", scope)
    varies = [i for i in bound if i in found.dims]
    for i in varies:
        if i in scope.here:
            code = f"{fit(scope.mask(i), found.dims).code}.where({found.code}, 0)"
            found = replace(found, code=code, lead=True, level=ATOM)
    if varies:
        found = _along(found, varies, "sum")
    for i in (i for i in bound if i not in varies):
        found = _scaled(found, count(i, scope), "*", scope) if found.type != "int" else _times(found, i, scope)
    return found


def _times(v: Value, i: Index, scope: Scope) -> Value:
    """A whole number as often as an index has places."""
    if i in scope.here:
        return _scaled(to_exact(v), count(i, scope), "*", scope)
    return replace(v, code=f"{within(v, MUL)} * {i.axis.size}", level=MUL)


def _along(v: Value, bound: Sequence[Index], op: str) -> Value:
    dims = tuple(d for d in v.dims if d not in bound)
    return Value(f"{within(v, ATOM)}.{op}({positions(v, bound)})", v.type, dims, v.lead)
