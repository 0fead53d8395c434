"""Emission of `read`: views, fixed places, computed places, places picked at run time.

Input: a `read` node and the scope.
Output: a `Value` whose axes are the indices that stand alone, in the order of the view, then those of computed places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

from cdrmix.ir import python as escape
from cdrmix.ir.nodes import Index, Node

from .casts import to_int
from .scope import Scope, Symbol
from .value import ADD, ATOM, MUL, Value, fit, permuted, viewed, within

Emit = Callable[[Node, Scope], Value]


def emit_read(n: Node, scope: Scope, emit: Emit) -> Value:
    """See the module."""
    row = _row(n, scope, emit)
    if row is not None:
        return row
    symbol = scope.symbol(n.arg.ref, n.span)
    if symbol.type == "number":
        return Value(symbol.code, "number", const=symbol.const)
    view = tuple(a.size for a in n.arg.view)
    code, has = symbol.code, symbol.has
    if view != symbol.sizes:
        code, has = _viewed(symbol, view, n, scope)
    args = [a for a, there in zip(n.args, has, strict=True) if there]
    sizes = [s for s, there in zip(view, has, strict=True) if there]
    code = _fixed(code, args)
    sizes = [s for s, a in zip(sizes, args, strict=True) if a.op != "const"]
    args = [a for a in args if a.op != "const"]
    alone = _alone(args, sizes)
    dims = tuple(i if i is not None else Index(f"at {p}", n.arg.view[0]) for p, i in enumerate(alone))
    v = Value(code, symbol.type, dims, symbol.lead)
    places = [p for p, i in enumerate(alone) if i is None]
    if len(places) == 1:
        moved = _moved(v, args[places[0]], places[0], sizes[places[0]])
        if moved is not None:
            return moved
    return _taken(v, {p: emit(args[p], scope) for p in places}, sizes, scope) if places else v


def _row(n: Node, scope: Scope, emit: Emit) -> Value | None:
    """Whole rows of a stored table, picked at run time: only they are widened."""
    p = scope.param(n.arg.ref)
    if p is None or not n.args or [i.axis.size for i in p.indices] != [a.size for a in n.arg.view]:
        return None
    first, *rest = n.args
    whole = all(a.op == "index" and a.arg.axis.size == x.size for a, x in zip(rest, n.arg.view[1:], strict=True))
    if not whole or first.op in ("index", "const"):
        return None
    inside = [i for a in n.args for i in a.free]
    at = emit(first, scope)
    if not at.lead or len(set(inside)) < len(inside):
        return None
    return Value(f"here.row({escape.text(p.name)}, {at.code})", "float", (*at.dims, *(a.arg for a in rest)), True)


def _viewed(symbol: Symbol, view: tuple[int, ...], n: Node, scope: Scope) -> tuple[str, tuple[bool, ...]]:
    """The symbol's code under another view."""
    p = scope.param(n.arg.ref)
    if p is not None:
        return f"here.weight({', '.join([escape.text(p.name), *map(str, view)])})", (True,) * len(view)
    code = symbol.code
    if not all(symbol.has):
        pattern = ", ".join(":" if there else "None" for there in symbol.has)
        code = f"{code}[:, :, {pattern}].expand(-1, -1, {', '.join(map(str, symbol.sizes))})"
    letters = "".join(a.arg.name[0] if a.op == "index" else "x" for a in n.args)
    return scope.view(symbol.code, view, viewed(code, symbol.sizes, view), letters), (True,) * len(view)


def _fixed(code: str, args: Sequence[Node]) -> str:
    """The code at those places that are constants."""
    if not any(a.op == "const" for a in args):
        return code
    pattern = [str(int(a.arg)) if a.op == "const" else ":" for a in args]
    while pattern[-1] == ":":
        pattern.pop()
    return f"{code}[:, :, {', '.join(pattern)}]"


def _alone(args: Sequence[Node], sizes: Sequence[int]) -> list[Index | None]:
    """The index that runs over a whole axis, standing alone at its place and nowhere else, or None."""
    inside = [i for a in args for i in a.free]
    whole = [a.op == "index" and a.arg.axis.size == n for a, n in zip(args, sizes, strict=True)]
    return [a.arg if all_of_it and inside.count(a.arg) == 1 else None for a, all_of_it in zip(args, whole, strict=True)]


def _moved(v: Value, a: Node, p: int, size: int) -> Value | None:
    """A place that is `i + c` as a slice, or `last - i` as a flip."""
    dims = (*v.dims[:p], *a.free[:1], *v.dims[p + 1 :])
    if len(set(dims)) < len(v.dims):
        return None
    start = _start(a, size)
    if start is not None:
        end = "" if start + dims[p].axis.size == size else str(start + dims[p].axis.size)
        rest = ", :" * (len(dims) - p - 1)
        return replace(v, code=f"{within(v, ATOM)}[..., {start or ''}:{end}{rest}]", dims=dims)
    turned = a.op == "sub" and a.args[0].op == "const" and a.args[0].arg == size - 1
    if turned and a.args[1].op == "index" and a.args[1].arg.axis.size == size:
        return replace(v, code=f"{within(v, ATOM)}.flip({p - len(dims)})", dims=dims)
    return None


def _start(a: Node, size: int) -> int | None:
    """Where the slice begins that a place `i`, `i + c`, `c + i` or `i - c` runs over."""
    if a.op == "index":
        return 0 if a.arg.axis.size < size else None
    if a.op not in ("add", "sub"):
        return None
    left, right = a.args
    if a.op == "add" and left.op == "const":
        left, right = right, left
    if left.op != "index" or right.op != "const" or not isinstance(right.arg, int):
        return None
    start = right.arg if a.op == "add" else -right.arg
    return start if start >= 0 and start + left.arg.axis.size <= size else None


def _taken(v: Value, places: dict[int, Value], sizes: Sequence[int], scope: Scope) -> Value:
    """Computed places: the axes they stand at made the last one, and read there at flat places."""
    rest = [d for p, d in enumerate(v.dims) if p not in places]
    extents = [sizes[p] for p in places]
    v = permuted(v, [*rest, *(v.dims[p] for p in places)])
    found = tuple(i for i in scope.order if any(i in x.dims for x in places.values()))
    terms: list[str] = []
    for k, x in enumerate(places.values()):
        stride = prod(extents[k + 1 :])
        x = fit(to_int(x), found)
        if x.type == "number":
            x = replace(x, code=f"constant({x.code})", level=ATOM)
        terms.append(f"{within(x, MUL)} * {stride}" if stride > 1 else within(x, ADD + 1 if terms else ADD))
    code = v.code
    if len(places) > 1:
        code = f"{within(v, ATOM)}.flatten({-len(places)})"
    lead = v.lead or any(x.lead for x in places.values())
    return Value(f"take({code}, {' + '.join(terms)})", v.type, (*rest, *found), lead)
