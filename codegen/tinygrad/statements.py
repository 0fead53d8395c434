"""Emission of equations, `top`, parts and banks.

Input: a statement of the sequence form and the scope.
Output: lines in the scope, and symbols for what the statement defines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from math import prod

from cdrmix.ir import python as escape
from cdrmix.ir import walk
from cdrmix.ir.nodes import Apply, Axis, Cell, Def, Given, Index, Node, Ref, Top

from .casts import full
from .expressions import emit
from .scope import Scope, Symbol, axes_of, refuse
from .value import ATOM, Value, fit, viewed, within


def valued(scope: Scope, n: Node, indices: Sequence[Index]) -> Value:
    """The expression, its axes in the order of `indices`."""
    inside = [i for m in walk.nodes(n) for i in (*m.free, *walk.bound(m))]
    scope.order = tuple(dict.fromkeys((*indices, *inside)))
    scope.here = frozenset(walk.windowed(n, scope.windows))
    return emit(n, scope)


def read_back(symbol: Symbol, indices: Sequence[Index]) -> Value:
    """The value that a symbol holds."""
    present = tuple(i for i, there in zip(indices, symbol.has, strict=True) if there)
    return Value(symbol.code, symbol.type, present, symbol.lead, const=symbol.const)


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of the model and the names of their functions."""

    cells: Mapping[str, Cell]
    functions: Mapping[str, str]


@singledispatch
def emit_statement(stmt: object, scope: Scope, cells: Cells) -> None:
    """The lines of a statement; `cells` are the functions that parts and banks call."""
    raise TypeError(type(stmt))


@emit_statement.register
def _(d: Def, scope: Scope, cells: Cells) -> None:
    """`name = expression`; a name for what has one already costs no line."""
    scope.say(d.span)
    v = valued(scope, d.value, d.indices)
    v = fit(v, [i for i in d.indices if i in v.dims])
    suffix = {"next": "_next", "carry": "_out"}.get(d.ref.kind, "")
    renamed = scope.rename(v.code, d.ref.name + suffix)
    v = v if renamed is None else replace(v, code=renamed)
    if v.type == "number" or v.code.isidentifier():
        scope.define(d.ref, v, d.indices, within(v, ATOM))
        return
    scope.define(d.ref, v, d.indices, scope.let(d.ref.name + suffix, v.code, axes_of(v.dims)))


def emit_moments(mean: Def, variance: Def, scope: Scope) -> None:
    """A mean and the variance about it, in one call."""
    for d in (mean, variance):
        scope.say(d.span)
    (along,) = mean.value.arg
    x = full(valued(scope, mean.value.args[0], (*mean.indices, along)), (*mean.indices, along), scope)
    names = [scope.names.fresh(d.ref.name) for d in (mean, variance)]
    scope.line(f"{', '.join(names)} = moments({x})  # {axes_of(mean.indices)}")
    for d, name in zip((mean, variance), names, strict=True):
        scope.known(d.ref, name, [i.axis.size for i in d.indices])


@emit_statement.register
def _(t: Top, scope: Scope, cells: Cells) -> None:
    scope.say(t.span)
    source = full(valued(scope, t.source, (*t.lead, t.over)), (*t.lead, t.over), scope)
    values = scope.names.fresh(t.values + scope.suffix) if t.values is not None else "_"
    picks = scope.names.fresh(t.picks + scope.suffix) if t.picks is not None else "_"
    indices = (*t.lead, t.k)
    scope.line(f"{values}, {picks} = top({source}, {t.k.axis.size})  # {axes_of(indices)}")
    if t.values is not None:
        scope.define(Ref("def", t.values), Value(values, "float", indices, lead=True), indices, values)
    if t.picks is not None:
        scope.define(Ref("def", t.picks), Value(picks, "int", indices, lead=True), indices, picks)


# --- parts and banks -----------------------------------------------------------------------------------------------
def _given(g: Given, lead: Sequence[Index], place: bool, scope: Scope) -> tuple[str, list[int], bool]:
    """Code of an argument, its own sizes, and whether all of `lead` stands in front of them."""
    symbol = scope.symbol(g.ref)
    own = tuple(Index(f"own {p}", Axis("", s)) for p, s in enumerate(symbol.sizes[len(g.lead) :]))
    v = read_back(symbol, (*g.lead, *own))
    indices = (*lead, *own) if g.lead else own
    return full(v, indices, scope, place=place), [i.axis.size for i in own], bool(g.lead)


@emit_statement.register
def _(a: Apply, scope: Scope, cells: Cells) -> None:
    scope.say(a.span)
    part = next(p for p in scope.cell.parts if p.name == a.part)
    function, formals = cells.functions[part.cell], cells.cells[part.cell].inputs
    inputs = [_given(g, a.lead, f.dtype == "pick", scope) for g, f in zip(a.inputs, formals, strict=True)]
    shapes = [[x.size for x in f.axes] for f in formals]
    if part.bank is None:
        if a.lead:
            message = f"part `{a.part}` is called at every place of an index"
            raise refuse("E0903", a.span, message, f"make it a bank over that index: `bank {a.part}: [i < n] of …`")
        args = [viewed(code, own, shape) for (code, own, _), shape in zip(inputs, shapes, strict=True)]
        code = f"{function}({', '.join([f'here.part({escape.text(a.part)})', *args])})"
    else:
        count = prod(i.axis.size for i in a.lead)
        args = []
        for (given, own, many), shape in zip(inputs, shapes, strict=True):
            old = [*(i.axis.size for i in a.lead), *own] if many else own
            args.append(viewed(given, old, [count if many else 1, *shape]))
        head = f"{escape.text(a.part)}, {part.bank.axis.size}, {function}"
        code = f"{_route(a, scope, head, count)}{', '.join(args)})"
        out = [x.size for x in cells.cells[part.cell].out_axes]
        code = viewed(code, [count, *out], [i.axis.size for i in (*a.lead, *a.outs)])
    indices = (*a.lead, *a.outs)
    scope.known(Ref("def", a.name), scope.let(a.name, code, axes_of(indices)), [i.axis.size for i in indices])


def _route(a: Apply, scope: Scope, head: str, count: int) -> str:
    """The start of a bank's call."""
    assert a.select is not None
    if a.select.op == "index":
        if a.lead != (a.select.arg,):
            message = f"bank `{a.part}` is called over more than its own index"
            raise refuse("E0903", a.span, message, "give each instance all of its values at once, and index the result")
        return f"here.every({head}, "
    pick = full(valued(scope, a.select, a.lead), a.lead, scope, place=True)
    return f"here.chosen({head}, {viewed(pick, [i.axis.size for i in a.lead], [count])}, "
