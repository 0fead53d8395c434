"""Emission of the statements that forward and step share: equations, `top`, parts and banks.

Input: a statement and the scope.
Output: lines in the scope, and symbols for what they define.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cdrmix.ir import walk
from cdrmix.ir.nodes import Apply, Axis, Def, Given, Index, Node, Ref, Top

from . import names as escape
from .casts import full
from .expressions import emit
from .scope import Scope, Symbol, refuse
from .value import ATOM, Value, fit, within


def begin(scope: Scope, indices: Sequence[Index], roots: Iterable[Node]) -> None:
    """Turn to an equation: the order of its axes, and which of its indices run over a window."""
    roots = tuple(roots)
    inside = [i for n in roots for m in walk.nodes(n) for i in (*m.free, *walk.bound(m))]
    scope.order = tuple(dict.fromkeys((*indices, *inside)))
    scope.here = frozenset(i for n in roots for i in walk.windowed(n, scope.windows))


def valued(scope: Scope, n: Node, indices: Sequence[Index]) -> Value:
    """The expression, its axes in the order of `indices`."""
    begin(scope, indices, [n])
    return emit(n, scope)


def emit_def(d: Def, scope: Scope) -> None:
    """`name = expression`; a name for what has one already costs no line."""
    scope.say(d.span)
    v = valued(scope, d.value, d.indices)
    v = fit(v, [i for i in d.indices if i in v.dims])
    if v.type == "number" or v.code.isidentifier():
        scope.define(d.ref, v, d.indices, within(v, ATOM))
        return
    suffix = {"next": "_next", "carry": "_out"}.get(d.ref.kind, "")
    scope.define(d.ref, v, d.indices, scope.let(d.ref.name + suffix, v.code))


def emit_top(t: Top, scope: Scope) -> None:
    """The largest entries and their places."""
    scope.say(t.span)
    source = full(valued(scope, t.source, (*t.lead, t.over)), (*t.lead, t.over), scope)
    values = scope.names.fresh(t.values) if t.values is not None else "_"
    picks = scope.names.fresh(t.picks) if t.picks is not None else "_"
    scope.line(f"{values}, {picks} = top({source}, {t.k.axis.size})")
    indices = (*t.lead, t.k)
    if t.values is not None:
        scope.define(Ref("def", t.values), Value(values, "float", indices, lead=True), indices, values)
    if t.picks is not None:
        scope.define(Ref("def", t.picks), Value(picks, "int", indices, lead=True), indices, picks)


# --- parts ---------------------------------------------------------------------------------------------------------
def given(g: Given, lead: Sequence[Index], formal: int, place: bool, scope: Scope) -> tuple[str, int]:
    """Code of an argument with the leading axes, as many of `lead` as it has in front, and its own `formal` ones.

    Returns the code and how many of `lead` stand in front.
    """
    symbol = scope.symbol(g.ref)
    own = tuple(Index(f"own {p}", Axis("", s)) for p, s in enumerate(symbol.sizes[len(g.lead) :]))
    indices = (*g.lead, *own)
    present = tuple(i for i, there in zip(indices, symbol.has, strict=True) if there)
    v = Value(symbol.code, symbol.type, present, symbol.lead, const=symbol.const)
    assert len(own) == formal
    front = 0
    if g.lead:  # in the order of the call, from its first
        front = max(lead.index(i) for i in g.lead) + 1
    return full(v, (*lead[:front], *own), scope, place=place), front


def emit_part(a: Apply, formals: Sequence[tuple[int, bool]], scope: Scope) -> None:
    """One advance of a part; `formals` are each input's number of axes and whether it is a place."""
    scope.say(a.span)
    if a.lead:
        message = f"part `{a.part}` is called at every place of an index"
        raise refuse("E0903", a.span, message, f"make it a bank over that index: `bank {a.part}: [i < n] of …`")
    inputs = [given(g, (), axes, place, scope)[0] for g, (axes, place) in zip(a.inputs, formals, strict=True)]
    method = {"forward": "", "step": ".step", "rows": ".routed", "init": ""}[scope.mode]
    context = "rows" if scope.mode == "rows" else "stream"
    code = f"self.{escape.attribute(a.part)}{method}({', '.join([*inputs, context])})"
    name = scope.let(a.name, code)
    scope.symbols[Ref("def", a.name)] = Symbol(
        name, "float", tuple(i.axis.size for i in a.outs), (True,) * len(a.outs), True
    )
