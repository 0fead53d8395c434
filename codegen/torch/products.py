"""Emission of sums: a sum of products is a matrix product, never the product's tensor.

Input: a `sum` or `mean` node and the scope.
Output: a `Value`: F.linear for a matrix times a value, einsum for other products, else a plain sum.

What does not depend on the summed indices is taken out of the sum.  Tokens of a window that are not there add
nothing, and a mean divides by those that are.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import TOKENS, Index, Node

from .casts import alike, tensor, to_float
from .scope import Scope
from .value import ADD, ATOM, MUL, NEG, Type, Value, fit, number, permuted, position, union, within

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
    if any(i.axis == TOKENS for i in bound):
        return scope.tokens(n, scope)
    if n.dtype not in FLOATS:
        return _total([emit(n.args[0], scope)], bound, scope)
    if n.op == "mean" and n.args[0].op not in ("mul", "div", "neg", "add", "sub") and not scope.here & {*bound}:
        (v,) = alike([emit(n.args[0], scope)], scope)
        if v.type != "number" and set(bound) <= set(v.dims):
            return _along(v, bound, "mean", v.type)
    total = _sum(n.args[0], bound, scope, emit)
    if n.op == "mean":
        for i in bound:
            total = _over_count(total, i, scope)
    return total


def _over_count(v: Value, i: Index, scope: Scope) -> Value:
    if i not in scope.here:
        if v.const is not None:
            return number(v.const / i.axis.size)
        return replace(v, code=f"{within(v, MUL)} / {i.axis.size}", level=MUL)
    (a, b), dims = [fit(x, v.dims) for x in (v, count(i, scope))], v.dims
    return Value(f"{within(a, MUL)} / {within(b, ATOM)}", "float", dims, True, MUL)


def count(i: Index, scope: Scope) -> Value:
    """How many tokens of the window are there."""
    return Value(f"{scope.mask(i).code}.sum(-1)", "int", (), True)


def _sum(body: Node, bound: Sequence[Index], scope: Scope, emit: Emit) -> Value:
    if body.op in ("add", "sub") and _spreads(body, bound, scope):
        values = [_sum(a, bound, scope, emit) for a in body.args]
        values, dims = alike(values, scope), union(values, scope.order)
        a, b = (fit(v, dims) for v in values)
        sign = "+" if body.op == "add" else "-"
        kind = a.type if b.type == "number" else b.type
        return Value(f"{within(a, ADD)} {sign} {within(b, ADD + 1)}", kind, dims, a.lead or b.lead, ADD)
    product = Product([], [])
    _collect(body, set(bound), product)
    inner = [f for f in product.over if set(f.free) & set(bound)]
    outer = [f for f in product.over if f not in inner]
    found = _contract(inner, tuple(bound), scope, emit)
    for f in outer:
        found = _scaled(found, emit(f, scope), "*", scope)
    for f in product.under:
        found = _scaled(found, emit(f, scope), "/", scope)
    return replace(found, code=f"-{within(found, NEG)}", level=NEG, const=None) if product.negative else found


def _spreads(body: Node, bound: Sequence[Index], scope: Scope) -> bool:
    """Whether adding first would make a larger tensor than each term does."""
    if any(i in scope.here for i in bound):
        return False
    size = prod(i.axis.size for i in body.free)
    return all(prod(i.axis.size for i in a.free) < size or _is_product(a, bound) for a in body.args)


def _is_product(n: Node, bound: Sequence[Index]) -> bool:
    product = Product([], [])
    _collect(n, set(bound), product)
    inner = [f for f in product.over if set(f.free) & set(bound)]
    return len({frozenset(f.free) for f in inner}) > 1


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
    if sign == "/" or not all(x.type in ("int", "number") for x in (v, by)):
        v, by = alike([v, by], scope)
    if v.const == 1 and sign == "*":
        return by
    if by.const == 1:
        return v
    dims = union([v, by], scope.order)
    a, b = fit(v, dims), fit(by, dims)
    kind = a.type if b.type == "number" else b.type
    return Value(f"{within(a, MUL)} {sign} {within(b, MUL + 1)}", kind, dims, a.lead or b.lead, MUL)


# --- the inner product ---------------------------------------------------------------------------------------------
def _contract(factors: list[Node], bound: tuple[Index, ...], scope: Scope, emit: Emit) -> Value:
    """The sum over `bound` of a product."""
    found = _linear(factors, bound, scope, emit)
    return found or _total(alike([emit(f, scope) for f in factors] or [number(1.0)], scope), bound, scope)


def _total(values: list[Value], bound: tuple[Index, ...], scope: Scope) -> Value:
    """The sum over `bound` of the values' product: as often as there are places where it does not vary."""
    found = _general(values, tuple(i for i in bound if any(i in v.dims for v in values)), scope)
    for i in bound:
        if not any(i in v.dims for v in values):
            found = _scaled(found, count(i, scope) if i in scope.here else number(i.axis.size), "*", scope)
    return found


@dataclass(frozen=True, slots=True)
class Matrix:
    """A read of a stored [rows, columns] as a matrix: `outs` make up one axis, `along` is the other."""

    code: str
    outs: tuple[Index, ...]
    along: Index
    transposed: bool


def _matrix(n: Node, bound: tuple[Index, ...], scope: Scope) -> Matrix | None:
    if n.op != "read" or n.arg.ref.kind != "param" or len(bound) != 1:
        return None
    places = [a.arg for a in n.args if a.op == "index"]
    symbol = scope.symbol(n.arg.ref)
    if len(places) != len(n.args) or len({*places}) != len(places) or len(symbol.sizes) != 2 or len(places) < 2:
        return None
    view = [a.size for a in n.arg.view]
    if scope.here & {*places}:  # a window may be shorter than the matrix
        return None
    (k,) = bound
    if places[-1] == k and view[-1] == symbol.sizes[1]:
        return Matrix(scope.parameter(n.arg.ref), tuple(places[:-1]), k, False)
    if places[0] == k and view[0] == symbol.sizes[0]:
        return Matrix(scope.parameter(n.arg.ref), tuple(places[1:]), k, True)
    return None


def _linear(factors: list[Node], bound: tuple[Index, ...], scope: Scope, emit: Emit) -> Value | None:
    """A parameter's matrix times one value that has the summed index and none of the matrix's others."""
    found = [(m, f) for f in factors if (m := _matrix(f, bound, scope)) is not None]
    if len(found) != 1 or scope.mode == "init":
        return None
    matrix, factor = found[0]
    others = [f for f in factors if f is not factor]
    if not others or any(set(f.free) & set(matrix.outs) for f in others):
        return None
    values = [to_float(emit(f, scope), scope) for f in others]
    if not any(v.lead for v in values) or any(v.type == "number" for v in values):
        return None
    x = _product(values, scope)
    if matrix.along not in x.dims:
        return None
    if x.dims != (matrix.along,) and scope.mode == "rows":
        return None
    x = permuted(x, (*(d for d in x.dims if d != matrix.along), matrix.along))
    if scope.mode == "rows":
        code = f"grouped_linear({x.code}, {matrix.code}{'.mT' if matrix.transposed else ''}, rows)"
    else:
        code = f"F.linear({x.code}, {matrix.code}{'.T' if matrix.transposed else ''})"
    if len(matrix.outs) > 1:
        code += f".unflatten(-1, ({', '.join(str(i.axis.size) for i in matrix.outs)}))"
    return Value(code, "float", (*x.dims[:-1], *matrix.outs), True)


def _product(values: Sequence[Value], scope: Scope) -> Value:
    """Values multiplied place by place."""
    found = values[0]
    for v in values[1:]:
        found = replace(_scaled(found, v, "*", scope), absent_is_zero=found.absent_is_zero or v.absent_is_zero)
    return found


def _general(values: list[Value], bound: tuple[Index, ...], scope: Scope) -> Value:
    """The same, over indices that each vary in some value."""
    if not bound:
        return _product(values, scope)
    values = [tensor(v, scope) for v in values]
    if not all(any(v.absent_is_zero and i in v.dims for v in values) for i in bound if i in scope.here):
        values = _without_absent(values, bound, scope)
    merged: dict[frozenset[Index], Value] = {}
    for v in values:  # factors over the same indices make no larger tensor together
        key = frozenset(v.dims)
        merged[key] = _product([merged[key], v], scope) if key in merged else v
    values = list(merged.values())
    if len(values) == 1:
        return _along(values[0], bound, "sum", "int" if values[0].type == "bool" else values[0].type)
    return _einsum(values, bound, scope)


def _without_absent(values: list[Value], bound: tuple[Index, ...], scope: Scope) -> list[Value]:
    """The smallest factor with zeros where a token of the window is not there."""
    values = list(values)
    for i in bound:
        if i in scope.here:
            at = min((p for p, v in enumerate(values) if i in v.dims), key=lambda p: len(values[p].dims))
            v = values[at]
            mask, zero = fit(scope.mask(i), v.dims), "0.0" if v.type in ("float", "exact") else "0"
            values[at] = replace(
                v, code=f"torch.where({mask.code}, {v.code}, {zero})", lead=True, level=ATOM, absent_is_zero=True
            )
    return values


def _along(v: Value, bound: Sequence[Index], op: str, kind: Type) -> Value:
    at = ", ".join(str(position(v, i)) for i in bound)
    at = at if len(bound) == 1 else f"({at})"
    return Value(f"{within(v, ATOM)}.{op}({at})", kind, tuple(d for d in v.dims if d not in bound), v.lead)


def _einsum(values: Sequence[Value], bound: tuple[Index, ...], scope: Scope) -> Value:
    letters: dict[Index, str] = {}
    free = list(string.ascii_letters)
    for d in union(values, scope.order):
        first = d.name[:1]
        letters[d] = first if first in free else free[0]
        free.remove(letters[d])
    out = union(values, [i for i in scope.order if i not in bound])
    lead = any(v.lead for v in values)
    terms = ["..." * v.lead + "".join(letters[d] for d in v.dims) for v in values]
    spec = f"{','.join(terms)}->{'...' * lead}{''.join(letters[d] for d in out)}"
    kind: Type = "float" if any(v.type == "float" for v in values) else "exact"
    return Value(f'torch.einsum("{spec}", {", ".join(v.code for v in values)})', kind, out, lead)
