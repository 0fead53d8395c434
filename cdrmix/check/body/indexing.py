"""Brackets: `x[h, n]`, `E[id]`, `K[t, g, n]`, `F[pick[k]](x)[d]`.

Input: an `Index` of the text.  Output: the `Value` it reads.

Items take the axes in order; the axes left over stay the value's.  With more items than axes, the axes are read as
their declared factors.  A lone index takes its range from where it stands; arithmetic is checked against it; a place
chosen at run time (`pick`) must be a place of that axis.
"""

from __future__ import annotations

from collections.abc import Sequence

from cdrmix.check.axes.axes import is_one, names
from cdrmix.check.body import stores, tensors
from cdrmix.check.body.draft import Writing
from cdrmix.check.body.expressions import is_function, store
from cdrmix.check.body.reading import Reading, place, value
from cdrmix.check.body.symbols import Held, Local, Stored
from cdrmix.check.body.tensors import Slots, Value
from cdrmix.check.body.waiting import Split
from cdrmix.check.help.index_forms import Letters
from cdrmix.check.help.quote import quote, written
from cdrmix.check.help.remedies import compared, delay, equation_of
from cdrmix.check.names.values import Failed
from cdrmix.ir.nodes import Node
from cdrmix.syntax import ast


@value.register
def _(expr: ast.Index, r: Reading) -> Value:
    base = expr.base
    if isinstance(base, ast.Name):
        symbol = r.frame.symbols.get(base.id)
        if isinstance(symbol, Stored) and symbol.kind == "history" and base.id not in r.indices:
            return _history(expr, symbol, r)
        if isinstance(symbol, Held):
            call = f"{quote(expr)}(…)" if symbol.index else f"{base.id}(…)"
            r.draft.fail("E0216", expr.span, f"`{base.id}` is a part, not a value", f"apply it: `{call}`")
        if is_function(base.id, r):
            r.draft.fail("E0209", expr.span, f"`{quote(expr)}` wants what it works on", f"as `{quote(expr)}(…)`")
    inner = r
    if isinstance(base, ast.Call):
        inner = r.reaching({i.id for i in expr.items if isinstance(i, ast.Name)})
    found = value(base, inner)
    items = [item_value(i, r, expr) for i in expr.items]
    return at_items(found, items, expr, r)


def item_value(expr: ast.Expr, r: Reading, within: ast.Index | None = None) -> Value:
    """What stands in brackets: an index, arithmetic on indices, or a place chosen at run time."""
    if isinstance(expr, ast.Name) and expr.id in r.frame.broken and not r.frame.own(expr.id):
        raise Failed
    if isinstance(expr, ast.Name) and expr.id not in r.indices and not r.frame.visible(expr.id, r.scope):
        if r.frame.left_out(expr.id) is not None:
            r.env.unknown(expr)
        if expr.id in r.waiting.told:
            raise Failed
        r.waiting.told.add(expr.id)
        others = [v.name for v in r.indices.values() if v not in r.bound]
        whole = equation_of(r.target, r.frame)
        summed = f": `sum[{expr.id}]({written(whole)})`" if isinstance(whole, ast.Binary) and whole.op == "*" else ""
        help = f"sum over it{summed}, or write `{r.target}[{', '.join((*others, expr.id))}] = …`"
        if expr.id == "t" and not summed:
            help += "; time has no index: what the token before left is a `state`"
        if r.mode == "training" and not others:  # an `aux` has no indices
            help = "sum over it"
        r.draft.fail("E0306", expr.span, f"index `{expr.id}` is free on the right and not on the left", help)
    found = value(expr, r)
    symbol = r.frame.symbols.get(expr.id) if isinstance(expr, ast.Name) and expr.id not in r.indices else None
    if found.into is None and found.bounds is None and isinstance(symbol, Stored | Local) and found.shape:
        r.draft.fail("E0207", expr.span, f"index `{symbol.name}` hides the value `{symbol.name}` defined at "
                     f"{symbol.span.line}:{symbol.span.col}", "use another letter for the index")  # fmt: skip
    if found.shape:
        r.draft.fail("E0316", expr.span, f"`{quote(expr)}` is a {names(found.shape)}, not one place",
                     "index all of its axes")  # fmt: skip
    if found.into is not None or found.bounds is not None:
        return found
    division = next((e for e in _parts(expr) if isinstance(e, ast.Binary) and e.op == "/"), None)
    if division is not None:
        r.draft.fail("E0314", division.span, f"`{quote(division)}` is not whole", "an index is floored by `//`")
    help = compared(within, expr, Letters(r)) if within is not None else ""
    r.draft.fail("E0316", within.span if within is not None else expr.span, f"`{quote(expr)}` is computed while the "
                 "program runs, so it cannot index: only the picks of `top` and inputs of type `index[…]` do",
                 help)  # fmt: skip


def _parts(expr: ast.Expr) -> list[ast.Expr]:
    match expr:
        case ast.Binary():
            return [expr, *_parts(expr.left), *_parts(expr.right)]
        case ast.Unary():
            return [expr, *_parts(expr.arg)]
        case _:
            return [expr]


def at_items(found: Value, items: Sequence[Value], expr: ast.Index, r: Reading) -> Value:
    """`found[items]`."""
    if len(items) > len(found.shape):
        return _split(found, items, expr, r)
    where = quote(expr)
    for item, axis, text in zip(items, found.shape, expr.items, strict=False):
        place(item, axis, quote(text), where, r)
    return tensors.indexed(found, items, expr)


def _split(found: Value, items: Sequence[Value], expr: ast.Index, r: Reading) -> Value:
    """A read with more indices than axes: the axes are read as their declared factors."""
    ways = r.frame.products.readings(found.shape, len(items))
    if not ways and any(a.root.name in r.frame.broken for a in found.shape):
        raise Failed
    if not ways:
        shape, text = names(found.shape), quote(expr.base)
        if not found.shape:
            r.draft.fail("E0309", expr.span, f"`{text}` is a number and has no axis to index", "leave the brackets out")
        most = max(len(w) for n in range(len(found.shape), 9) for w in r.frame.products.readings(found.shape, n))
        alone = [t for item, t in zip(items, map(quote, expr.items), strict=True) if len(found.shape) == 1
                 and item.index is not None and item.index.axis is not None
                 and is_one(item.index.axis, found.shape[0])]  # fmt: skip
        help = f"`{text}` has at most {most} axes" if most > len(found.shape) else factors_of(found, expr, r)
        if len(alone) == 1:
            help = f"it has one axis: write `{text}[{alone[0]}]`"
        r.draft.fail("E0309", expr.span, f"a {shape} indexed by {len(items)} names, but no "
                     f"`dim {found.shape[-1].root.name} = A * B` splits it", help)  # fmt: skip
    texts = tuple(quote(i) for i in expr.items)
    split = Split(found.shape, tuple(items), texts, quote(expr.base), ways, expr.span)
    r.waiting.splits.append(split)
    base = found if found.place is not None else store(found, r, expr.base)

    def emit(w: Writing, slots: Slots) -> Node:
        read = tensors.under_view(base, split.ways[0], expr.span)
        return read.emit(w, tuple(item.emit(w, ()) for item in items))

    free = tensors.union((base.free, *(item.free for item in items)))
    varies = base.varies or any(item.varies for item in items)
    return Value((), base.dtype, emit, expr.span, free, varies, into=base.into)


def factors_of(found: Value, expr: ast.Index, r: Reading) -> str:
    """The `dim` that splits an axis as the indices of a read would have it."""
    sizes = [quote(i).upper() for i in expr.items]
    whole = found.shape[0].root.name
    if (
        len(found.shape) > 1
        or len(set(sizes)) < len(sizes)
        or whole in sizes
        or not all(s.isidentifier() for s in sizes)
    ):
        return "declare one"
    product = f"`dim {whole} = {' * '.join(sizes)}`"
    unknown = [s for s in sizes if r.frame.lacks(s, r.scope)]
    more = f", and all but one of them as arguments: `{sizes[-1]}: int`" if len(unknown) > 1 else ""
    return f"add {product}{more}"


def _history(expr: ast.Index, symbol: Stored, r: Reading) -> Value:
    """`K[t, …]`: the age first, a lone index."""
    first, name = expr.items[0], symbol.name
    if isinstance(first, ast.Name) and (first.id in r.indices or not r.frame.visible(first.id, r.scope)):
        found = stores.whole(symbol, expr.base.span, r)
        return at_items(found, [item_value(i, r) for i in expr.items], expr, r)
    age = value(first, r)
    if isinstance(age.const, int) and age.const < 0:
        r.draft.fail("E0405", expr.span, f"`{quote(expr)}`: ages count back from 0, this token, and nothing is ahead",
                     "the value before this one has age 1, and is a `state`")  # fmt: skip
    if isinstance(age.const, int):
        axes = stores.own_axes(symbol)
        if symbol.window is not None and age.const >= symbol.window.root.size:
            r.draft.fail("E0405", expr.span, f"`{quote(expr)}` is always zero: the window holds "
                         f"{symbol.window.root.size} tokens, ages 0 to {symbol.window.root.size - 1}",
                         "a longer window: `last` and the number of tokens")  # fmt: skip
        r.draft.fail("E0405", expr.span, f"`{quote(expr)}`: a fixed age is a delay",
                     delay(expr, symbol.stmt, age.const, names(axes), len(axes), r.frame))  # type: ignore[arg-type]  # fmt: skip
    ahead = "; an age counts back from this token, 0, and nothing is ahead" if isinstance(first, ast.Binary) else ""
    r.draft.fail("E0404", first.span, f"`{name}` is a history: read it as `{name}[t, …]`, `t` a lone index",
                 f"with `t` reduced over: `sum[t]`, `softmax[t]`, …{ahead}")  # fmt: skip
