"""Functions of the language: `exp(x)`, `sum[j](…)`, `softmax[t](…)`, `mean[tokens](…)`.

Input: a call of such a function.  Output: its `Value`.

A reduction binds its indices; `softmax[t]` keeps `t`, which something around it binds.
"""

from __future__ import annotations

from collections.abc import Sequence

from cdrmix.check.axes.axes import AxisVar, IndexVar, names
from cdrmix.check.axes.dims import axis_of, range_of
from cdrmix.check.axes.meeting import check_number
from cdrmix.check.body import tensors
from cdrmix.check.body.draft import TOKENS, Writing
from cdrmix.check.body.expressions import OPERATORS, apply, known, literal, store, values
from cdrmix.check.body.reading import Reading, value
from cdrmix.check.body.symbols import Local
from cdrmix.check.body.tensors import Slots, Value
from cdrmix.check.help.index_forms import Letters, indexed
from cdrmix.check.help.other_languages import knows, renamed
from cdrmix.check.help.quote import quote, written
from cdrmix.check.help.translation import translated
from cdrmix.ir import build
from cdrmix.ir.nodes import Node
from cdrmix.ir.ops import FUNCTIONS, REDUCTIONS
from cdrmix.syntax import ast


def call_function(name: str, expr: ast.Call, r: Reading) -> Value:
    """A function of the language without brackets."""
    if any(a.name for a in expr.args) and knows(name):
        r.draft.fail(
            "E0209", expr.span, f"`{name}` takes no arguments by name", translated(name, expr.args, expr.span, r)
        )
    args = _positional(name, expr, r)
    if name == "softmax" and len(args) == 1:
        return _softmax_whole(expr, _one(name, args, expr, r), r)
    if name in REDUCTIONS and (name not in FUNCTIONS or len(args) == 1):
        r.draft.fail("E0209", expr.span, f"`{name}` wants the index it runs over",
                     translated(name, expr.args, expr.span, r) or f"as `{name}[i](x[i])`")  # fmt: skip
    if name == "top":
        r.draft.fail("E0209", expr.span, "`top` wants how many it chooses", "as `gate, pick = top[k < n](p)`")
    arity = FUNCTIONS[name].arity if name in FUNCTIONS else 1
    if len(args) != arity:
        takes = "one number" if arity == 1 else f"{arity} numbers"
        help = translated(name, expr.args, expr.span, r) if args and knows(name) else ""
        r.draft.fail("E0209", expr.span, f"`{name}` takes {takes}, {len(args)} are given", help)
    operands = values(args, r)
    if all(o.const is not None for o in operands):
        for operand, text in zip(operands, args, strict=True):
            check_number(operand, name, text, r)
        given = tuple(ast.Arg(o.span, None, literal(o.const, o.span)) for o in operands)
        return known(ast.Call(expr.span, expr.base, given), r)
    return apply(OPERATORS[name], name, operands, args, expr.span, r)


def _positional(name: str, expr: ast.Call, r: Reading) -> list[ast.Expr]:
    named = next((a for a in expr.args if a.name), None)
    if named is not None:
        r.draft.fail("E0209", named.span, f"`{name}` has no argument `{named.name}`", "give numbers without names")
    return [a.value for a in expr.args]


def _one(name: str, args: Sequence[ast.Expr], expr: ast.Call, r: Reading) -> ast.Expr:
    if len(args) != 1:
        r.draft.fail("E0209", expr.span, f"`{name}` works on one expression", f"{len(args)} given")
    return args[0]


def _softmax_whole(expr: ast.Call, text: ast.Expr, r: Reading) -> Value:
    """`softmax(p)` along the one axis of `p`."""
    body = value(text, r)
    if len(body.shape) != 1:
        r.draft.fail("E0313", expr.span, f"`softmax` runs along one axis, `{quote(text)}` is {names(body.shape)}",
                     "say which: " + translated("softmax", expr.args, expr.span, r))  # fmt: skip

    def emit(w: Writing, slots: Slots) -> Node:
        others = {i for v in body.free for i in w.node(v).free}
        if slots[0].op == "index" and slots[0].arg not in others:
            return build.softmax(slots[0].arg, body.emit(w, slots), expr.span)
        if not kept:
            kept.append(store(found, r, expr))
        return kept[0].emit(w, slots)

    kept: list[Value] = []
    dtype = tensors.dtype_of("softmax", [body])
    found = Value(body.shape, dtype, emit, expr.span, body.free, body.varies)
    return found


def call_bracketed(name: str, items: Sequence[ast.Expr], expr: ast.Call, r: Reading) -> Value:
    """A function of the language with brackets."""
    body = _one(name, _positional(name, expr, r), expr, r)
    if name == "top":
        local = r.frame.symbols.get(r.target)
        whole = isinstance(local, Local) and local.stmt.value is expr and local.target.items is None
        help = f"write `{r.target}, _ = {written(expr)}`" if whole else "give them an equation: `gate, pick = …`"
        r.draft.fail("E0319", expr.span, "`top` gives two values, the largest and their places", help)
    if name == "softmax":
        return _softmax(items, body, expr, r)
    if name not in REDUCTIONS:
        r.draft.fail("E0209", expr.span, f"`{name}` runs over no index", f"as `{name}(…)`")
    bound: dict[str, IndexVar] = {}
    for item in items:
        var = _bind(item, r.under(bound))
        if var.axis is None:
            var.where = name
        bound[var.name] = var
    inner = value(body, r.under(bound))
    check_number(inner, name, body, r)
    for var in bound.values():
        if var not in inner.free and var.axis is not TOKENS:
            over = list(zip(inner.shape, bound, strict=False))
            at = (
                indexed(body, over, r.under(bound), {id(body): inner.shape}) if len(bound) == len(inner.shape) else None
            )
            help = f"write `{name}[{', '.join(bound)}]({written(at)})`" if at is not None else ""
            r.draft.fail("E0308", expr.span, f"`{name}[{var.name}]`: `{var.name}` does not occur in `{quote(body)}`",
                         help or "drop it, or multiply by the axis length")  # fmt: skip
    found = tensors.reduction(REDUCTIONS[name].name, tuple(bound.values()), inner, expr.span)
    if any(v.axis is TOKENS for v in bound.values()):
        found.varies = False
    return found


def _bind(item: ast.Expr, r: Reading) -> IndexVar:
    """An index that a reduction binds: `j`, or `e < experts`."""
    name, size = range_of(item)
    if name is None and isinstance(size, ast.Name):
        name = size
        if name.id == "tokens" and not r.frame.own("tokens"):
            if r.mode != "training":
                r.draft.fail("E0601", item.span, "a reduction over `tokens` outside `aux`, `metric` and `after step`",
                             "a token cannot see the others")  # fmt: skip
            return IndexVar("tokens", item.span, TOKENS)
        return r.declare(name)
    if name is None:
        r.draft.fail("E0306", item.span, f"`{quote(item)}` is no index to reduce over", "as `sum[j](…)`")
    var = r.declare(name)
    var.axis, var.where = axis_of(size, r.env), quote(item)
    return var


def _softmax(items: Sequence[ast.Expr], text: ast.Expr, expr: ast.Call, r: Reading) -> Value:
    """`softmax[t](s[t])`: `t` stays free."""
    item = items[0]
    if len(items) != 1 or not isinstance(item, ast.Name):
        r.draft.fail("E0209", expr.span, "`softmax` runs along one index", _softmax_of_several(items, text, r))
    if item.id not in r.indices:
        left = f"{r.target or 'p'}[{item.id}]"
        r.draft.fail("E0306", item.span, f"index `{item.id}` of `softmax[{item.id}]` is bound nowhere",
                     f"`softmax` keeps its index: sum over it, or write `{left} = …`")  # fmt: skip
    var, body = r.indices[item.id], value(text, r)
    check_number(body, "softmax", text, r)
    if var not in body.free:
        r.draft.fail("E0308", expr.span, f"`softmax[{var.name}]`: `{var.name}` does not occur in `{quote(text)}`",
                     "every entry would be the same")  # fmt: skip

    def emit(w: Writing, slots: Slots) -> Node:
        node = w.node(var)
        if node.op != "index":
            r.draft.fail("E0318", expr.span, f"`{quote(expr)}` needs a name before it can be read at another place",
                         "give it an equation of its own")  # fmt: skip
        return build.softmax(node.arg, body.emit(w, slots), expr.span)

    return Value(body.shape, tensors.dtype_of("softmax", [body]), emit, expr.span, body.free, body.varies)


def _softmax_of_several(items: Sequence[ast.Expr], text: ast.Expr, r: Reading) -> str:
    """`softmax[h, n](s[h, n])`, by what it is."""
    letters, body = Letters(r), text
    for item in items:
        if not isinstance(item, ast.Name):
            return "as `softmax[t](…)`"
        body = renamed(body, item.id, letters.index(AxisVar(item.id, 0)))
    over = ", ".join(letters.taken)
    return f"write `exp({written(text)} - logsumexp[{over}]({written(body)}))`"


def chosen(items: Sequence[ast.Expr], expr: ast.Call, r: Reading) -> tuple[IndexVar, Value]:
    """`top[k < n](p)`: the index over the chosen, and what they are chosen from."""
    name, size = range_of(items[0])
    if len(items) != 1 or name is None:
        r.draft.fail("E0209", expr.span, "`top` wants how many it chooses", "as `gate, pick = top[k < n](p)`")
    text = _one("top", _positional("top", expr, r), expr, r)
    if name.id in r.indices:
        var = r.indices[name.id]  # the left side names it too
        if var.axis is None:
            var.axis, var.where = axis_of(size, r.env), quote(items[0])
    else:
        var = r.declare(name)
        var.axis, var.where = axis_of(size, r.env), quote(items[0])
    source = value(text, r)
    if len(source.shape) != 1:
        r.draft.fail("E0313", text.span, f"`top` chooses along one axis, `{quote(text)}` is {names(source.shape)}",
                     "index its other axes")  # fmt: skip
    _check_enough(var, source.shape[0], items[0], r)
    return var, source


def _check_enough(var: IndexVar, axis: AxisVar, item: ast.Expr, r: Reading) -> None:
    assert var.axis is not None
    if axis.root.window is not None:
        r.draft.fail(
            "E0406",
            item.span,
            "`top` cannot choose among the tokens of a history",
            "`softmax[t]` weighs them all; to choose a few, keep the candidates in the slots of a state, "
            "`state slots: [M, D]`, and choose among those",
        )
    if var.axis.size > axis.size:
        r.draft.fail("E0312", item.span, f"`top[{quote(item)}]` chooses {var.axis.size} of {names([axis])}, which has "
                     f"{axis.size} places", "choose as many as there are at most")  # fmt: skip
