"""Emission of `read`: views, fixed places, computed places, places picked at run time.

Input: a `read` node and the scope.
Output: a `Value` whose axes are the indices that stand alone, in the order of the view, then those of computed places
where they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from math import prod

from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.walk import window_positions

from .scope import Scope, Symbol
from .value import ATOM, MUL, Value, atom, fit, permuted, reshaped, within

Emit = Callable[[Node, Scope], Value]
Arg = tuple[Node, Index | None]


def emit_read(n: Node, scope: Scope, emit: Emit) -> Value:
    """See the module."""
    symbol = scope.symbol(n.arg.ref, n.span)
    if symbol.type == "number":
        return Value(symbol.code, "number", const=symbol.const)
    over = {n.args[p].arg for p in window_positions(n.arg.view, scope.windows.get(n.arg.ref, frozenset()))
            if n.args[p].op == "index"}  # fmt: skip
    return clipped(_read(n, symbol, scope, emit), scope.here - over, scope)


def clipped(v: Value, over: Collection[Index], scope: Scope) -> Value:
    """The first places of these axes, as many as the windows that are met have: `unfold` makes no more than tokens."""
    axes = {i for i in v.dims if i in over and i in scope.here}
    if scope.mode != "forward" or not axes:
        return v
    first = next(p for p, i in enumerate(v.dims) if i in axes)
    cut = [f":{scope.masks[i.axis.size]}.shape[-1]" if i in axes else ":" for i in v.dims[first:]]
    return replace(v, code=f"{within(v, ATOM)}[..., {', '.join(cut)}]", level=ATOM)


def _read(n: Node, symbol: Symbol, scope: Scope, emit: Emit) -> Value:
    view = tuple(a.size for a in n.arg.view)
    code, has = symbol.code, symbol.has
    if view != symbol.sizes:
        code, has = _viewed(symbol, view)
        code = scope.view(symbol.code, view, code, n.args)
    args = [a for a, there in zip(n.args, has, strict=True) if there]
    sizes = [s for s, there in zip(view, has, strict=True) if there]
    for p in reversed([p for p, a in enumerate(args) if a.op == "const"]):
        code = _select(code, p, len(args), int(args[p].arg), symbol.lead)
        del args[p], sizes[p]
    alone = _alone(args, sizes)
    dims = tuple(i if i is not None else Index(f"at {p}", n.arg.view[0]) for p, i in enumerate(alone))
    v = Value(code, symbol.type, dims, symbol.lead, absent_is_zero=symbol.absent_is_zero)
    if all(i is not None for i in alone):
        return v
    places = {p: emit(a, scope) for p, a in enumerate(args) if alone[p] is None}
    if len(places) == 1:
        (p,) = places
        shifted = _slice(args[p], sizes[p])
        if shifted is not None:
            index, start = shifted
            end = f"{start + index.axis.size}" if start + index.axis.size != sizes[p] else ""
            colons = ", :" * (len(dims) - p - 1)
            start_code = str(start) if start else ""
            found = f"{within(v, ATOM)}[..., {start_code}:{end}{colons}]"
            return replace(v, code=found, dims=(*dims[:p], index, *dims[p + 1 :]))
        if _reversed(args[p], sizes[p]):
            dims = (*dims[:p], args[p].free[0], *dims[p + 1 :])
            return replace(v, code=f"{within(v, ATOM)}.flip({p - len(dims)})", dims=dims)
    if not any(x.lead for x in places.values()):
        return _gather_fixed(v, places, scope)
    return _gather_picked(v, places, sizes, scope) if v.lead else _rows_picked(v, places, scope)


def _viewed(symbol: Symbol, view: Sequence[int]) -> tuple[str, tuple[bool, ...]]:
    """The symbol's code under another view."""
    code = symbol.code
    if not all(symbol.has):
        pattern = ", ".join(":" if there else "None" for there in symbol.has)
        sizes = ", ".join("-1" if there else str(s) for s, there in zip(symbol.sizes, symbol.has, strict=True))
        lead = f"*{code}.shape[:-{sum(symbol.has)}], " if any(symbol.has) else f"*{code}.shape, "
        code = f"{code}[..., {pattern}].expand({lead if symbol.lead else ''}{sizes})"
    return reshaped(code, symbol.sizes, view), (True,) * len(view)


def _select(code: str, p: int, n: int, at: int, lead: bool) -> str:
    """One place of axis p of n."""
    if not lead:
        return f"{code}[{', '.join([*[':'] * p, str(at)])}]"
    return f"{code}[{', '.join(['...', str(at), *[':'] * (n - p - 1)])}]"


def _alone(args: Sequence[Node], sizes: Sequence[int]) -> list[Index | None]:
    """The index that runs over a whole axis, standing alone at its place and nowhere else, or None."""
    inside = [i for a in args for i in a.free]
    whole = [a.op == "index" and a.arg.axis.size == n for a, n in zip(args, sizes, strict=True)]
    return [a.arg if all_of_it and inside.count(a.arg) == 1 else None for a, all_of_it in zip(args, whole, strict=True)]


def _slice(a: Node, size: int) -> tuple[Index, int] | None:
    """`i + c` as a slice that starts at c."""
    if a.op == "index":
        return (a.arg, 0) if a.arg.axis.size < size else None
    if a.op not in ("add", "sub"):
        return None
    left, right = a.args
    if a.op == "add" and left.op == "const":
        left, right = right, left
    if left.op != "index" or right.op != "const" or not isinstance(right.arg, int):
        return None
    start = right.arg if a.op == "add" else -right.arg
    return (left.arg, start) if start >= 0 and start + left.arg.axis.size <= size else None


def _reversed(a: Node, size: int) -> bool:
    """Whether it is `last - i`, over the whole axis."""
    if a.op != "sub" or a.args[0].op != "const" or a.args[1].op != "index":
        return False
    return bool(a.args[0].arg == size - 1 and a.args[1].arg.axis.size == size)


def _gather_fixed(v: Value, places: dict[int, Value], scope: Scope) -> Value:
    """Places that are the same for every token: tensors of places put in the brackets, side by side."""
    first, count = min(places), len(places)
    order = [*(p for p in range(first) if p not in places), *places]
    order += [p for p in range(len(v.dims)) if p not in order]
    v = permuted(v, tuple(v.dims[p] for p in order))
    found = _axes(places, scope)
    at = [_as_places(fit(x, found)) for x in places.values()]
    pattern = ", ".join(["...", *at, *[":"] * (len(v.dims) - first - count)])
    dims = (*v.dims[:first], *found, *v.dims[first + count :])
    return replace(v, code=f"{within(v, ATOM)}[{pattern}]", dims=dims, level=ATOM, absent_is_zero=False)


def _rows_picked(v: Value, places: dict[int, Value], scope: Scope) -> Value:
    """Places that differ by token, in a tensor that does not: rows of a table."""
    rest = [d for p, d in enumerate(v.dims) if p not in places]
    v = permuted(v, (*(v.dims[p] for p in places), *rest))
    found = _axes(places, scope)
    at = [_as_places(fit(x, found)) for x in places.values()]
    if len(at) == 1 and len(rest) == 1:
        code = f"F.embedding({at[0]}, {v.code})"
    else:
        code = f"{within(v, ATOM)}[{', '.join(at)}]"
    return replace(v, code=code, dims=(*found, *rest), lead=True, level=ATOM)


def _gather_picked(v: Value, places: dict[int, Value], sizes: Sequence[int], scope: Scope) -> Value:
    """Places that differ by token, in a tensor that does too."""
    rest = [d for p, d in enumerate(v.dims) if p not in places]
    v = permuted(v, (*rest, *(v.dims[p] for p in places)))
    found = _axes(places, scope)
    extents = [sizes[p] for p in places]
    flat = ""
    for k, (_, x) in enumerate(places.items()):
        stride = prod(extents[k + 1 :])
        x = fit(x, found)
        term = f"{within(x, MUL)} * {stride}" if stride > 1 else x.code
        flat = f"{flat} + {term}" if flat else term
    code = within(v, ATOM)
    if len(places) > 1:
        code = f"{code}.flatten({-len(places)})"
    at = flat if len(found) == 1 else f"({flat}).flatten({-len(found)})" if found else f"({flat}).unsqueeze(-1)"
    if rest:
        at = f"{atom(at)}[..., {', '.join(['None'] * len(rest))}, :]"
    code = f"torch.take_along_dim({code}, {at}, -1)"
    if not found:
        code += ".squeeze(-1)"
    elif len(found) > 1:
        code += f".unflatten(-1, ({', '.join(str(i.axis.size) for i in found)}))"
    return replace(v, code=code, dims=(*rest, *found), lead=True, level=ATOM, absent_is_zero=False)


def _axes(places: dict[int, Value], scope: Scope) -> tuple[Index, ...]:
    found = {d for x in places.values() for d in x.dims}
    return tuple(i for i in scope.order if i in found)


def _as_places(x: Value) -> str:
    return x.code if x.type == "int" else f"{within(x, ATOM)}.long()"
