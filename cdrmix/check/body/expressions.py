"""Expressions: names, arithmetic, `@`, choice and `as`.

Input: an expression and the `Reading` it stands in.  Output: its `Value`; every axis is checked here.

Elementwise operands have the same axes, or none.  What is known before the program runs is computed at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from cdrmix.check.axes.axes import AxisVar, names, unite
from cdrmix.check.axes.dims import axis_of
from cdrmix.check.axes.meeting import check_number, meet
from cdrmix.check.body import stores, tensors
from cdrmix.check.body.draft import Definition
from cdrmix.check.body.matrix import check_turned, matrix_product
from cdrmix.check.body.reading import Reading, read, value
from cdrmix.check.body.symbols import Stored
from cdrmix.check.body.tensors import Value
from cdrmix.check.help.quote import dims, quote
from cdrmix.check.names.needs import Ring, in_turn, surely
from cdrmix.check.names.scope import OpValue, Static
from cdrmix.check.names.statics import evaluate, not_static
from cdrmix.check.names.values import CONTEXT, Failed, a_kind, kind_of, show
from cdrmix.diagnose import Span, did_you_mean
from cdrmix.ir.nodes import DType, Ref
from cdrmix.ir.ops import FUNCTIONS, OPS, REDUCTIONS
from cdrmix.syntax import ast

OPERATORS = {row.surface: row.name for row in OPS.values() if row.kind == "elementwise" and row.surface}
OPERATORS["-"] = "sub"
"""Operators and functions of the language to rows of the IR; the sign is `neg`."""


# --- names ---------------------------------------------------------------------------------------------------------
@value.register
def _(expr: ast.Num, r: Reading) -> Value:
    return tensors.constant(expr.value, expr.span)


@value.register
def _(expr: ast.Bool, r: Reading) -> Value:
    return tensors.constant(expr.value, expr.span)


@value.register
def _(expr: ast.Str, r: Reading) -> Value:
    return tensors.constant(expr.value, expr.span)


@value.register
def _(expr: ast.Name, r: Reading) -> Value:
    name, frame = expr.id, r.frame
    if name in r.indices:
        return tensors.index(r.indices[name], expr.span)
    if name in frame.broken:
        raise Failed
    if name in frame.symbols:
        return read(frame.symbols[name], expr.span, r)
    if r.mode == "init" and name in frame.lets and name not in frame.statics:
        return _let(name, expr, r)
    if name in CONTEXT and not frame.own(name) and r.mode == "init":
        if frame.context.layer is None:
            frame.outside(name, expr.span)
        if frame.context.given:
            return tensors.constant(frame.placed(name, expr.span), expr.span)
        frame.seen["inside",] = True
        return tensors.context(name, expr.span)
    if name == "pos" and not frame.own(name):
        if r.mode == "start":
            stores.not_at_start(name, expr.span, r)
        if r.mode == "init":
            not_static(expr, r.frame.report)
        if r.mode == "training":
            r.draft.fail("E0318", expr.span, "`pos` needs a name before a training value can use it",
                         "give it an equation of its own: `place = pos`")  # fmt: skip
        return tensors.context(name, expr.span)
    if name == "tokens" and not frame.own(name):
        r.draft.fail("E0601", expr.span, "`tokens` is an axis to reduce over, not a value",
                     "as `mean[tokens](…)`, in `aux`, `metric` and `after step`")  # fmt: skip
    return tensors.constant(r.env.name(expr), expr.span)


def _let(name: str, expr: ast.Name, r: Reading) -> Value:
    """A `let` in an init rule: its expression, so that one cell serves all layers."""
    frame = r.frame

    def needs(name: str) -> list[str]:
        """The `let`s that have no value yet and that a `let` surely needs."""
        return [n for n in surely(frame.lets[name][0].value)
                if n in frame.lets and n not in frame.statics and n not in frame.symbolic]  # fmt: skip

    if name in frame.busy:
        return tensors.constant(r.env.name(expr), expr.span)
    try:
        for needed in in_turn(name, needs) if name not in frame.symbolic else ():
            let, scope = frame.lets[needed]
            frame.busy.append(needed)
            try:
                where = Reading(frame, scope, r.waiting, mode="init", target=r.target)
                frame.symbolic[needed] = value(let.value, where)
            finally:
                frame.busy.pop()
    except Ring as ring:
        frame.fail_ring(ring.names)
    return frame.symbolic[name]


@value.register
def _(expr: ast.Path, r: Reading) -> Value:
    return tensors.constant(r.env.path(expr), expr.span)


@value.register
def _(expr: ast.Primed, r: Reading) -> Value:
    name, symbol = expr.id, r.frame.symbols.get(expr.id)
    if isinstance(symbol, Stored) and symbol.kind == "state":
        return stores.whole(symbol, expr.span, r, following=True)
    if isinstance(symbol, Stored) and symbol.kind == "carry" and name in r.frame.following:
        return read(r.frame.following[name], expr.span, r)
    if isinstance(symbol, Stored) and symbol.kind == "buffer":
        r.draft.fail("E0602", expr.span, f"`{name}'` of a buffer is known only after the step", f"read `{name}`")
    if symbol is None and not r.frame.own(name):
        r.env.unknown(ast.Name(expr.span, name))
    if isinstance(symbol, Stored) and symbol.kind == "param":
        r.draft.fail("E0402", expr.span, f"`{name}'` is read, and a param has no next value",
                     f"a prime is no transpose: a transposed product is `y[j] = sum[i]({name}[i,j]*x[i])`")  # fmt: skip
    r.draft.fail("E0402", expr.span, f"`{name}'` is read but `{name}` is not declared a state",
                 f"declare `state {name}: […]`, or read `{name}`")  # fmt: skip


# --- arithmetic ----------------------------------------------------------------------------------------------------
@value.register
def _(expr: ast.Unary, r: Reading) -> Value:
    operand = value(expr.arg, r)
    if operand.const is not None:
        return known(ast.Unary(expr.span, expr.op, _literal(operand)), r)
    return apply("neg" if expr.op == "-" else "not", expr.op, [operand], [expr.arg], expr.span, r)


@value.register
def _(expr: ast.Binary, r: Reading) -> Value:
    check_turned(expr, r)
    spine = [expr]
    while isinstance(spine[-1].left, ast.Binary):
        spine.append(spine[-1].left)
    try:
        left = value(spine[-1].left, r)
        while spine:  # a long sum nests to the left
            left = _binary(spine.pop(), left, r)
        return left
    except Failed:
        for node in reversed(spine):  # what is wrong in the other operands is told too
            with r.draft.attempt():
                value(node.right, r)
        raise


def _binary(expr: ast.Binary, left: Value, r: Reading) -> Value:
    if expr.op in ("and", "or") and isinstance(left.const, bool) and left.const == (expr.op == "or"):
        return left
    right = value(expr.right, r)
    if expr.op == "@":
        return matrix_product(expr, left, right, r)
    if left.const is not None and right.const is not None:
        if isinstance(left.const, OpValue) and isinstance(right.const, OpValue) and expr.op in ("==", "!="):
            return tensors.constant((left.const == right.const) == (expr.op == "=="), expr.span)
        return known(ast.Binary(expr.span, expr.op, _literal(left), _literal(right)), r)
    return apply(OPERATORS[expr.op], expr.op, [left, right], [expr.left, expr.right], expr.span, r)


@value.register
def _(expr: ast.IfElse, r: Reading) -> Value:
    cond = value(expr.cond, r)
    if cond.const is not None:
        if not isinstance(cond.const, bool):
            kind = a_kind(kind_of(cond.const))
            r.draft.fail("E0216", expr.cond.span, f"a condition is true or false, {show(cond.const)} is {kind}",
                         "compare it, for instance `n > 0`")  # fmt: skip
        return value(expr.then if cond.const else expr.other, r)
    branches = values((expr.then, expr.other), r)
    return apply("select", "if", [cond, *branches], [expr.cond, expr.then, expr.other], expr.span, r)


def values(exprs: Sequence[ast.Expr], r: Reading) -> list[Value]:
    """The value of each, every one's mistakes told before failing."""
    found: list[Value] = []
    for expr in exprs:
        with r.draft.attempt():
            found.append(value(expr, r))
    if len(found) < len(exprs):
        raise Failed
    return found


@value.register
def _(expr: ast.Compose, r: Reading) -> Value:
    r.draft.fail("E0216", expr.span, "a chain `>>` is no value", "call one op on the other's value: `g(f(x))`")


def apply(op: str, symbol: str, operands: Sequence[Value], texts: Sequence[ast.Expr], span: Span, r: Reading) -> Value:
    """An elementwise row of operands that are not all known."""
    for operand, text in zip(operands, texts, strict=True):
        check_number(operand, symbol, text, r)
    shape: tuple[AxisVar, ...] = ()
    first = None
    leaves = next((o.leaves for o in operands if o.leaves is not None), None)
    for operand, text in zip(operands, texts, strict=True):
        if operand.shape and first is None:
            shape, first = operand.shape, text
        elif operand.shape and first is not None:
            meet(shape, first, operand.shape, text, symbol, span, r, leaves, _whole(symbol, texts, span))
    return tensors.elementwise(op, operands, shape, span)


def _whole(symbol: str, texts: Sequence[ast.Expr], span: Span) -> ast.Expr:
    """An operator or function with its operands as text again."""
    match texts:
        case (then, cond, other) if symbol == "if":
            return ast.IfElse(span, cond, then, other)
        case (left, right) if not symbol.isidentifier() or symbol in ("and", "or"):
            return ast.Binary(span, symbol, left, right)
    return ast.Call(span, ast.Name(span, symbol), tuple(ast.Arg(t.span, None, t) for t in texts))


def known(expr: ast.Expr, r: Reading) -> Value:
    """What can be computed now."""
    return tensors.constant(evaluate(expr, r.env, r.frame.report), expr.span)


def _literal(operand: Value) -> ast.Expr:
    return literal(operand.const, operand.span)


def literal(static: Static | None, span: Span) -> ast.Expr:
    """A known value as syntax again."""
    match static:
        case bool():
            return ast.Bool(span, static)
        case int() | float():
            return ast.Num(span, static)
        case OpValue():
            return ast.Str(span, static.op.name)
        case _:
            return ast.Str(span, str(static))


# --- as ------------------------------------------------------------------------------------------------------------
@value.register
def _(expr: ast.Reshape, r: Reading) -> Value:
    base = value(expr.base, r)
    _check_sizes(expr, base, r)
    axes = tuple(axis_of(d, r.env) for d in expr.type.dims)
    products = r.frame.products
    if not base.shape:
        r.draft.fail("E0311", expr.span, f"`{quote(expr.base)}` is a number and has no axes to read as "
                     f"{dims(expr.type.dims)}", "leave the `as` out")  # fmt: skip
    if not products.same_elements(base.shape, axes):
        _explain_as(expr, base, axes, r)
    for a, b in zip(base.shape, axes, strict=False):
        if len(axes) == len(base.shape):
            unite(a, b)
    dtype = expr.type.dtype
    if base.place is None or dtype is not None and dtype != base.dtype:
        base = store(base, r, expr.base, dtype)  # type: ignore[arg-type]  # the grammar knows the dtypes
    return tensors.under_view(base, axes, expr.span)


def _check_sizes(expr: ast.Reshape, base: Value, r: Reading) -> None:
    """Report a size that nothing gives, and the `dim` that would (E0201)."""
    dims_ = expr.type.dims
    unknown = [d for d in dims_ if isinstance(d, ast.Name) and r.frame.lacks(d.id, r.scope)]
    if not unknown or not all(a.root.name.replace("_", "").isalnum() for a in base.shape):
        return
    name, have = unknown[0].id, " * ".join(a.root.name for a in base.shape)
    product = f"dim {have} = {' * '.join(map(quote, dims_))}" if len(base.shape) == 1 else f"dim {name} = {have}"
    help = f"add `{product}`" if len(unknown) == 1 else f"add `{product}`, with one of them an argument: `{name}: int`"
    if len(base.shape) > 1 and len(dims_) > 1:
        help = f"give it to the op as an argument, `{name}: int`, or by a `dim`"
    near = did_you_mean(name, r.frame.all_names(r.scope))
    r.frame.broken.update(d.id for d in unknown)
    r.draft.fail("E0201", unknown[0].span, f"no size `{name}` here", f"{help}; {near}" if near else help)


def _explain_as(expr: ast.Reshape, base: Value, axes: tuple[AxisVar, ...], r: Reading) -> None:
    have, want = _count(base.shape), _count(axes)
    fits = [name for name, axis in r.frame.axes.items() if r.frame.products.same_elements(base.shape, (axis,))]
    if fits:
        help = f"did you mean `as [{fits[0]}]`?"
    elif _elements(base.shape) == _elements(axes):
        help = "one size is not one axis: declare the product with `dim`"
        if len(base.shape) == 1 and all(a.root.name.isidentifier() for a in (*base.shape, *axes)):
            help = f"add `dim {base.shape[0].root.name} = {' * '.join(a.root.name for a in axes)}`"
    else:
        help = "the elements must be the same"
    r.draft.fail("E0311", expr.span, f"`{quote(expr)}`: {names(base.shape)} has {have} elements, "
                 f"{dims(expr.type.dims)} has {want}", help)  # fmt: skip


def _elements(axes: Sequence[AxisVar]) -> int:
    count = 1
    for axis in axes:
        count *= axis.size
    return count


def _count(axes: Sequence[AxisVar]) -> str:
    text = "*".join(a.root.name for a in axes)
    return text if text.isdigit() else f"{text} = {_elements(axes)}"


def store(base: Value, r: Reading, text: ast.Expr, dtype: DType | None = None, hint: str = "") -> Value:
    """The value under a name of its own, so that it can be read under another view or given to a part."""
    if r.pure:
        what = "a training value" if r.mode == "training" else "an init rule"
        r.draft.fail("E0318", text.span, f"`{quote(text)}` needs a name before {what} can use it like this",
                     "give it an equation of its own")  # fmt: skip
    ref = Ref("def", r.draft.unique(hint or r.hint))
    return Definition(r.draft, ref, (), base, dtype or base.dtype, text.span).read(text.span)


def is_function(name: str, r: Reading) -> bool:
    """Whether a name is a function of the language here, and not hidden by a name of the text."""
    known_ = name in FUNCTIONS or name in REDUCTIONS or name in ("softmax", "top", "carried")
    return known_ and not r.frame.own(name) and name not in r.indices
