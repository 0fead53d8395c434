"""Emission of expressions: one rule a row of `ir.ops.OPS`.

Input: a `Node` and the scope it stands in.
Output: a `Value` over its free indices, in the order of the definition around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log

from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import TOKENS, Index, Node
from cdrmix.ir.ops import OPS as TABLE

from .casts import tensor, to_bool, to_exact, to_float, to_int
from .reads import emit_read
from .scope import Scope, refuse
from .sums import count, sum_of
from .value import (
    ADD,
    ATOM,
    BITAND,
    BITOR,
    COMPARE,
    MUL,
    NEG,
    POW,
    Type,
    Value,
    fit,
    number,
    positions,
    union,
    within,
)

Rule = Callable[[Node, Scope], Value]
RULES: dict[str, Rule] = {}

ARITHMETIC = {
    "add": ("+", ADD),
    "sub": ("-", ADD),
    "mul": ("*", MUL),
    "div": ("/", MUL),
    "floordiv": ("//", MUL),
    "mod": ("%", MUL),
    "pow": ("**", POW),
}
FLOORED = {"floordiv": "floor_divide", "mod": "remainder"}
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
FUNCTIONS = ("log", "sqrt", "abs", "sign", "relu")


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register an emission rule."""

    def register(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, fn))
        return fn

    return register


def emit(n: Node, scope: Scope) -> Value:
    """The expression of a node."""
    return RULES[n.op](n, scope)


@rule("const")
def _const(n: Node, scope: Scope) -> Value:
    return number(n.arg)


@rule("index")
def _index(n: Node, scope: Scope) -> Value:
    return Value(scope.range(n.arg), "int", (n.arg,))


@rule("context")
def _context(n: Node, scope: Scope) -> Value:
    return Value(scope.pos, "int", lead=True)


@rule("read")
def _read(n: Node, scope: Scope) -> Value:
    return emit_read(n, scope, emit)


# --- elementwise ---------------------------------------------------------------------------------------------------
def _operands(n: Node, scope: Scope, args: Sequence[Node]) -> list[Value]:
    """The operands of a float or int op, of one type as far as tinygrad does not see to it."""
    values = [emit(a, scope) for a in args]
    if n.dtype not in FLOATS:
        return [to_int(v) for v in values]
    if any(v.type in ("float", "bool") for v in values):
        return [to_float(v) for v in values]
    return [to_exact(v) for v in values]


def _folded(n: Node, values: Sequence[Value]) -> Value | None:
    """The number it is, when all operands are numbers."""
    compute = TABLE[n.op].numpy
    if compute is None or any(v.type != "number" for v in values):
        return None
    kind = float if n.dtype in FLOATS else int
    keep = TABLE[n.op].result == "bool" or n.op == "select"
    found = compute(*(v.const if keep else kind(v.const) for v in values))  # type: ignore[arg-type]
    return number(kind(found))


def _joined(values: Sequence[Value], scope: Scope) -> tuple[list[Value], tuple[Index, ...], bool]:
    """The values made to broadcast; their axes; whether the result surely has all of B and T."""
    dims = union(values, scope.order)
    return [fit(v, dims) for v in values], dims, any(v.lead for v in values)


def _type(n: Node, values: Sequence[Value]) -> Type:
    if n.dtype not in FLOATS:
        return "exact" if any(v.type == "exact" for v in values) else "int"
    return "float" if any(v.type == "float" for v in values) else "exact"


@rule(*ARITHMETIC)
def _arithmetic(n: Node, scope: Scope) -> Value:
    sign, level = ARITHMETIC[n.op]
    values = _operands(n, scope, n.args)
    folded = _folded(n, values)
    if folded is not None:
        return folded
    (a, b), dims, lead = _joined(values, scope)
    if n.op == "pow" and _type(n, values) == "int":
        return Value(f"whole_power({a.code}, {b.code})", "int", dims, lead)
    if n.op in ("floordiv", "mod") and _type(n, values) != "int":
        return Value(f"{FLOORED[n.op]}({a.code}, {b.code})", _type(n, values), dims, lead)
    left, right = (level + 1, NEG) if n.op == "pow" else (level, level + 1)
    code = f"{within(a, left)} {sign} {within(b, right)}"
    return Value(code, _type(n, values), dims, lead, level)


@rule("neg")
def _neg(n: Node, scope: Scope) -> Value:
    (v,) = _operands(n, scope, n.args)
    return _folded(n, [v]) or replace(v, code=f"-{within(v, NEG)}", level=NEG)


@rule("max", "min")
def _extreme(n: Node, scope: Scope) -> Value:
    values = _operands(n, scope, n.args)
    folded = _folded(n, values)
    if folded is not None:
        return folded
    (a, b), dims, lead = _joined(values, scope)
    if a.type == "number":
        a, b = b, a
    method = {"max": "maximum", "min": "minimum"}[n.op]
    return Value(f"{within(a, ATOM)}.{method}({b.code})", _type(n, values), dims, lead)


@rule("logaddexp")
def _logaddexp(n: Node, scope: Scope) -> Value:
    values = _operands(n, scope, n.args)
    folded = _folded(n, values)
    if folded is not None:
        return folded
    (a, b), dims, lead = _joined([tensor(v) for v in values], scope)
    return Value(f"logaddexp({a.code}, {b.code})", _type(n, values), dims, lead)


@rule(*COMPARISONS)
def _comparison(n: Node, scope: Scope) -> Value:
    values = [to_int(emit(a, scope)) for a in n.args]
    if any(v.type == "float" for v in values):
        values = [to_float(v) for v in values]
    folded = _folded(n, values)
    if folded is not None:
        return folded
    (a, b), dims, lead = _joined(values, scope)
    if a.type == "number":  # Python would compare it the other way round
        a = tensor(a) if b.type == "float" else replace(a, code=f"constant({a.code})", level=ATOM)
    return Value(f"{within(a, COMPARE + 1)} {COMPARISONS[n.op]} {within(b, COMPARE + 1)}", "bool", dims, lead, COMPARE)


@rule("and", "or")
def _logical(n: Node, scope: Scope) -> Value:
    values = [emit(a, scope) for a in n.args]
    folded = _folded(n, values)
    if folded is not None:
        return folded
    (a, b), dims, lead = _joined([to_bool(v) for v in values], scope)
    sign, level = ("&", BITAND) if n.op == "and" else ("|", BITOR)
    return Value(f"{within(a, level)} {sign} {within(b, level + 1)}", "bool", dims, lead, level)


@rule("not")
def _not(n: Node, scope: Scope) -> Value:
    v = emit(n.args[0], scope)
    folded = _folded(n, [v])
    if folded is not None:
        return folded
    return replace(to_bool(v), code=f"{within(to_bool(v), ATOM)}.logical_not()", level=ATOM)


@rule("select")
def _select(n: Node, scope: Scope) -> Value:
    cond = emit(n.args[0], scope)
    values = _operands(n, scope, n.args[1:])
    if cond.type == "number":
        return values[0] if cond.const else values[1]
    if all(v.type == "number" for v in values) and n.dtype in FLOATS:
        values = [tensor(values[0]), values[1]]
    (c, a, b), dims, lead = _joined([to_bool(cond), *values], scope)
    return Value(f"{within(c, ATOM)}.where({a.code}, {b.code})", _type(n, values), dims, lead)


@rule(*FUNCTIONS)
def _function(n: Node, scope: Scope) -> Value:
    (v,) = _operands(n, scope, n.args)
    return _folded(n, [v]) or replace(v, code=f"{within(v, ATOM)}.{n.op}()", level=ATOM)


@rule("exp", "sigmoid", "silu", "tanh", "softplus")
def _exact_function(n: Node, scope: Scope) -> Value:
    (v,) = _operands(n, scope, n.args)
    return _folded(n, [v]) or replace(v, code=f"{n.op}({v.code})", level=ATOM)


@rule("sin", "cos")
def _turn(n: Node, scope: Scope) -> Value:
    (v,) = _operands(n, scope, n.args)
    folded = _folded(n, [v])
    if folded is not None:
        return folded
    near = v.type == "exact"
    if near:  # whole turns are taken off while the angle has all its digits
        v = Value(scope.shared("angle", f"within_a_turn({v.code})"), "float", v.dims, v.lead)
    return replace(v, code=f"{n.op}({v.code}{', far=False' if near else ''})", level=ATOM)


# --- along indices -------------------------------------------------------------------------------------------------
@rule("sum", "mean")
def _sum(n: Node, scope: Scope) -> Value:
    _not_over_tokens(n)
    return sum_of(n, scope, emit)


def _not_over_tokens(n: Node) -> None:
    if any(i.axis == TOKENS for i in n.arg):
        raise refuse("E0902", n.span, "a reduction over tokens stands outside a training value")


@rule("max_over", "min_over", "logsumexp")
def _reduce(n: Node, scope: Scope) -> Value:
    _not_over_tokens(n)
    v = _operand(n, scope)
    along = [i for i in n.arg if i in v.dims]
    if n.op == "logsumexp":
        return _logsumexp(tensor(v), along, n, scope)
    if not along:
        return v
    v = masked(v, along, "inf" if n.op == "min_over" else "-inf", scope)
    dims = tuple(d for d in v.dims if d not in along)
    return Value(f"{within(v, ATOM)}.{n.op[:3]}({positions(v, along)})", v.type, dims, v.lead)


def _logsumexp(v: Value, along: Sequence[Index], n: Node, scope: Scope) -> Value:
    """Where the operand does not vary, the logarithm of how many places there are."""
    if along:
        v = masked(v, along, "-inf", scope)
        dims = tuple(d for d in v.dims if d not in along)
        v = Value(f"logsumexp({v.code}, {positions(v, along)})", v.type, dims, v.lead)
    for i in (i for i in n.arg if i not in along):
        windowed = Value(f"{count(i, scope).code}.log()", "float", (), True)
        more = windowed if i in scope.here else number(log(i.axis.size))
        a, b = (fit(x, v.dims) for x in (v, more))
        v = Value(f"{within(a, ADD)} + {within(b, ADD + 1)}", v.type, v.dims, v.lead or more.lead, ADD)
    return v


@rule("softmax")
def _softmax(n: Node, scope: Scope) -> Value:
    v = _operand(n, scope)
    if n.arg in v.dims:
        v = masked(v, (n.arg,), "-inf", scope)
        return Value(f"softmax({v.code}, {positions(v, (n.arg,))})", v.type, v.dims, v.lead)
    if n.arg not in scope.here:  # the same everywhere: an even share
        return number(1.0 / n.arg.axis.size)
    there = to_float(scope.mask(n.arg))
    return Value(f"{there.code} / {count(n.arg, scope).code}[..., None]", "float", (n.arg,), True, MUL)


def _operand(n: Node, scope: Scope) -> Value:
    """The operand, a truth value as a number."""
    v = emit(n.args[0], scope)
    if n.dtype in FLOATS:
        return to_float(v) if v.type in ("float", "bool") else to_exact(v)
    return to_int(v)


def masked(v: Value, along: Sequence[Index], fill: str, scope: Scope) -> Value:
    """The value with `fill` (a float) where a token of the window is not there."""
    for i in along:
        if i in scope.here:
            v = to_exact(v)
            code = f'{fit(scope.mask(i), v.dims).code}.where({v.code}, float("{fill}"))'
            v = replace(v, code=code, lead=True, level=ATOM)
    return v


OPS = frozenset(RULES)
