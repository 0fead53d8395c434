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
from cdrmix.ir.walk import nodes

from .casts import tensor, to_bool, to_exact, to_float, to_int
from .choices import guarded, whole_power
from .products import count, sum_of
from .reads import clipped, emit_read
from .scope import Scope
from .value import (
    ADD,
    AND,
    ATOM,
    BITAND,
    BITOR,
    CHOICE,
    COMPARE,
    MUL,
    NEG,
    NOT,
    OR,
    POW,
    Type,
    Value,
    fit,
    listed,
    number,
    position,
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
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
FUNCTIONS = {
    "exp": "torch.exp",
    "log": "torch.log",
    "sqrt": "torch.sqrt",
    "abs": "torch.abs",
    "sign": "torch.sign",
    "sin": "torch.sin",
    "cos": "torch.cos",
    "tanh": "torch.tanh",
    "sigmoid": "torch.sigmoid",
    "silu": "F.silu",
    "relu": "torch.relu",
    "softplus": "F.softplus",
}
OF_NUMBERS = {f: f"math.{f}" for f in ("exp", "log", "sqrt", "sin", "cos", "tanh")} | {"abs": "abs"}


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
    v = Value(scope.range(n.arg), "exact" if scope.mode == "init" else "int", (n.arg,))
    return clipped(v, {n.arg}, scope)


@rule("context")
def _context(n: Node, scope: Scope) -> Value:
    if n.arg == "pos":
        return Value(scope.pos, "int", lead=True)
    return Value(n.arg, "number")


@rule("read")
def _read(n: Node, scope: Scope) -> Value:
    return emit_read(n, scope, emit)


# --- elementwise ---------------------------------------------------------------------------------------------------
def _operands(n: Node, scope: Scope, args: Sequence[Node]) -> list[Value]:
    """The operands of a float or int op, of one type as far as torch does not see to it."""
    values = [emit(a, scope) for a in args]
    values = [_unless_absent(n, p, v, scope) for p, v in enumerate(values)]
    tensors = [v for v in values if v.type != "number"]
    if n.dtype not in FLOATS:
        return [to_int(v) for v in values]
    if any(v.type == "float" for v in tensors):
        plain = n.op in ("add", "sub", "mul", "div")  # torch lifts int tensors here by itself
        return [v if plain and v.type == "int" else to_float(v, scope) for v in values]
    return [to_exact(v, scope) for v in values]


def _unless_absent(n: Node, p: int, v: Value, scope: Scope) -> Value:
    """One in place of a token that is not there, where zero has no value or no gradient."""
    absent = [d for d in v.dims if d in scope.here]
    at, safe = TABLE[n.op].singular or (None, 0.0)
    if p != at or not safe or not absent or v.type != "float" or whole_power(n):
        return v
    for i in absent:
        v = replace(v, code=f"torch.where({fit(scope.mask(i), v.dims).code}, {v.code}, 1.0)", level=ATOM)
    return replace(v, absent_is_zero=False)


def _folded(n: Node, values: Sequence[Value]) -> Value | None:
    """The number it is, when all operands are known."""
    compute = TABLE[n.op].numpy
    if compute is None or any(v.const is None for v in values):
        return None
    kind = float if n.dtype in FLOATS else int
    keep = TABLE[n.op].result == "bool" or n.op == "select"
    found = compute(*(v.const if keep else kind(v.const) for v in values))  # type: ignore[arg-type]
    return number(bool(found) if n.dtype == "bool" else kind(found))


def _joined(values: Sequence[Value], scope: Scope) -> tuple[list[Value], tuple[Index, ...], bool]:
    """The values made to broadcast; their axes; whether the result has the leading ones."""
    dims = union(values, scope.order)
    return [fit(v, dims) for v in values], dims, any(v.lead for v in values)


def _result_type(n: Node, values: Sequence[Value]) -> Type:
    if all(v.type == "number" for v in values):
        return "number"
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
    zero = _vanishes(n, values)
    if n.op in ("floordiv", "mod") and _result_type(n, values) == "float":
        values[0] = tensor(values[0], scope)  # torch has no gradient of `number % tensor`
    (a, b), dims, lead = _joined(values, scope)
    if n.op == "floordiv" and _result_type(n, values) == "float":  # and none of `//`, not even zero
        return Value(f'torch.div({a.code}, {b.code}, rounding_mode="floor")', "float", dims, lead)
    left, right = (level + 1, NEG) if n.op == "pow" else (level, level + 1)
    return Value(
        f"{within(a, left)} {sign} {within(b, right)}",
        _result_type(n, values),
        dims,
        lead,
        level,
        absent_is_zero=zero,
    )


def _vanishes(n: Node, values: Sequence[Value]) -> bool:
    match n.op:
        case "mul":
            return any(v.absent_is_zero for v in values)
        case "div":
            return values[0].absent_is_zero
        case _:
            return False


@rule("neg")
def _neg(n: Node, scope: Scope) -> Value:
    (v,) = _operands(n, scope, n.args)
    folded = _folded(n, [v])
    return folded or replace(v, code=f"-{within(v, NEG)}", level=NEG, const=None)


@rule("max", "min")
def _extreme(n: Node, scope: Scope) -> Value:
    values = _operands(n, scope, n.args)
    folded = _folded(n, values)
    if folded is not None:
        return folded
    (a, b), dims, lead = _joined(values, scope)
    kind = _result_type(n, values)
    if kind == "number":
        return Value(f"{n.op}({a.code}, {b.code})", "number")
    if a.type == "number":
        a, b = b, a
    if b.type == "number":
        bound = "min" if n.op == "max" else "max"
        return Value(f"{within(a, ATOM)}.clamp({bound}={b.code})", kind, dims, lead)
    return Value(f"torch.{n.op}imum({a.code}, {b.code})", kind, dims, lead)


@rule(*COMPARISONS)
def _comparison(n: Node, scope: Scope) -> Value:
    values = [to_int(emit(a, scope)) for a in n.args]
    folded = _folded(n, values)
    if folded is not None:
        return folded
    (a, b), dims, lead = _joined(values, scope)
    kind: Type = "number" if a.type == b.type == "number" else "bool"
    sign = COMPARISONS[n.op]
    return Value(f"{within(a, COMPARE + 1)} {sign} {within(b, COMPARE + 1)}", kind, dims, lead, COMPARE)


@rule("and", "or")
def _logical(n: Node, scope: Scope) -> Value:
    values = [emit(a, scope) for a in n.args]
    folded = _folded(n, values)
    if folded is not None:
        return folded
    if all(v.type == "number" for v in values):
        level = AND if n.op == "and" else OR
        return Value(f" {n.op} ".join(within(v, level + 1) for v in values), "number", level=level)
    (a, b), dims, lead = _joined([to_bool(v) for v in values], scope)
    sign, level = ("&", BITAND) if n.op == "and" else ("|", BITOR)
    return Value(f"{within(a, level)} {sign} {within(b, level + 1)}", "bool", dims, lead, level)


@rule("not")
def _not(n: Node, scope: Scope) -> Value:
    v = emit(n.args[0], scope)
    folded = _folded(n, [v])
    if folded is not None:
        return folded
    if v.type == "number":
        return Value(f"not {within(v, NOT)}", "number", level=NOT)
    return replace(to_bool(v), code=f"~{within(to_bool(v), NEG)}", level=NEG, absent_is_zero=False)


@rule("select")
def _select(n: Node, scope: Scope) -> Value:
    cond = emit(n.args[0], scope)
    branches = list(n.args[1:])
    if scope.mode != "init" and cond.type != "number":
        branches = [guarded(b, n.args[0], taken) for b, taken in zip(branches, (True, False), strict=True)]
        if any(TABLE[m.op].kind == "reduce" for m in nodes(n.args[0])):  # guards ask it again
            cond = replace(cond, code=scope.shared("condition", cond.code), level=ATOM)
    values = _operands(n, scope, branches)
    folded = _folded(n, [cond, *values])
    if folded is not None:
        return folded
    if cond.type == "number":
        if all(v.type == "number" for v in values):
            code = f"{within(values[0], OR)} if {within(cond, OR)} else {within(values[1], CHOICE)}"
            return Value(code, "number", level=CHOICE)
        cond = Value(f"{scope.data}.new_tensor({cond.code}).bool()", "bool")
    kind = _result_type(n, values)
    if kind == "number":  # two numbers, chosen by a tensor
        kind = "float" if n.dtype in FLOATS and scope.mode != "init" else "exact" if n.dtype in FLOATS else "int"
        values = [tensor(values[0], scope) if kind == "float" else values[0], values[1]]
    (c, a, b), dims, lead = _joined([to_bool(cond), *values], scope)
    return Value(f"torch.where({c.code}, {a.code}, {b.code})", kind, dims, lead)


@rule(*FUNCTIONS)
def _function(n: Node, scope: Scope) -> Value:
    norm = _norm(n, scope)
    if norm is not None:
        return norm
    (v,) = _operands(n, scope, n.args)
    folded = _folded(n, [v])
    if folded is not None:
        return folded
    if v.type == "number":
        if n.op in OF_NUMBERS:
            return Value(f"{OF_NUMBERS[n.op]}({v.code})", "number")
        v = tensor(v, scope)
    zero = TABLE[n.op].zero and v.absent_is_zero
    return Value(f"{FUNCTIONS[n.op]}({v.code})", v.type, v.dims, v.lead, absent_is_zero=zero)


def _norm(n: Node, scope: Scope) -> Value | None:
    """`sqrt(sum[i](x[i]^2))` as a norm, which has a gradient at zero."""
    if n.op != "sqrt" or n.args[0].op != "sum" or n.args[0].args[0].op != "pow" or scope.mode == "init":
        return None
    total = n.args[0]
    body, exponent = total.args[0].args
    if exponent.op != "const" or exponent.arg != 2 or set(total.arg) & scope.here or total.arg[0].axis == TOKENS:
        return None
    v = emit(body, scope)
    if v.type != "float" or not set(total.arg) <= set(v.dims):
        return None
    dims = tuple(d for d in v.dims if d not in total.arg)
    return Value(f"torch.linalg.vector_norm({v.code}, dim={_places(v, total.arg)})", "float", dims, v.lead)


@rule("logaddexp")
def _logaddexp(n: Node, scope: Scope) -> Value:
    values = _operands(n, scope, n.args)
    folded = _folded(n, values)
    if folded is not None:
        return folded
    (a, b), dims, lead = _joined([tensor(v, scope) for v in values], scope)
    return Value(f"torch.logaddexp({a.code}, {b.code})", _result_type(n, [a, b]), dims, lead)


# --- along indices -------------------------------------------------------------------------------------------------
@rule("sum", "mean")
def _sum(n: Node, scope: Scope) -> Value:
    return sum_of(n, scope, emit)


@rule("max_over", "min_over", "logsumexp")
def _reduce(n: Node, scope: Scope) -> Value:
    v = _operand(n, scope)
    along = [i for i in n.arg if i in v.dims]
    if n.op == "logsumexp":
        return _logsumexp(v, along, n, scope)
    if not along:
        return v
    v = _masked(v, along, "math.inf" if n.op == "min_over" else "-math.inf", scope)
    dims = tuple(d for d in v.dims if d not in along)
    return Value(f"{within(v, ATOM)}.a{n.op[:3]}({_places(v, along)})", v.type, dims, v.lead)


def _logsumexp(v: Value, along: Sequence[Index], n: Node, scope: Scope) -> Value:
    """Where the operand does not vary, the logarithm of how many places there are."""
    v = _masked(tensor(v, scope), along, "-math.inf", scope)
    dims = tuple(d for d in v.dims if d not in along)
    code = f"torch.logsumexp({v.code}, {_places(v, along)})" if along else v.code
    v = Value(code, v.type, dims, v.lead, ATOM if along else v.level)
    for i in (i for i in n.arg if i not in along):
        more = Value(f"torch.log({count(i, scope).code})", "float", (), True) if i in scope.here else None
        more = more or number(log(i.axis.size))
        a, b = (fit(x, dims) for x in (v, more))
        v = Value(f"{within(a, ADD)} + {within(b, ADD + 1)}", v.type, dims, a.lead or b.lead, ADD)
    return v


def _places(v: Value, along: Sequence[Index]) -> str:
    """Where the indices stand, as an argument."""
    return listed(*(str(position(v, i)) for i in along)) if len(along) > 1 else str(position(v, along[0]))


@rule("softmax")
def _softmax(n: Node, scope: Scope) -> Value:
    v = _operand(n, scope)
    if n.arg in v.dims:
        v = _masked(v, (n.arg,), "-math.inf", scope)
        code = f"torch.softmax({v.code}, {position(v, n.arg)})"
        return Value(code, v.type, v.dims, v.lead, absent_is_zero=n.arg in scope.here)
    if n.arg not in scope.here:  # the same everywhere: an even share
        return number(1.0 / n.arg.axis.size)
    there, seen = to_float(scope.mask(n.arg), scope), count(n.arg, scope)
    return Value(f"{there.code} / {seen.code}[..., None]", "float", (n.arg,), True, MUL, absent_is_zero=True)


def _operand(n: Node, scope: Scope) -> Value:
    """The operand, a truth value as a number."""
    v = emit(n.args[0], scope)
    if n.dtype in FLOATS:
        return to_float(v, scope) if v.type in ("float", "bool") else to_exact(v, scope)
    return to_int(v)


def _masked(v: Value, along: Sequence[Index], fill: str, scope: Scope) -> Value:
    """The value with `fill` where a token of the window is not there."""
    for i in along:
        if i in scope.here:
            v = to_exact(v, scope)
            mask = fit(scope.mask(i), v.dims)
            if not v.lead:
                v = replace(v, code=f"torch.where({mask.code}, {v.code}, {fill})", lead=True, level=ATOM)
            else:
                v = replace(v, code=f"{within(v, ATOM)}.masked_fill(~{mask.code}, {fill})", level=ATOM)
    return v


OPS = frozenset(RULES)
