"""Values known before the program runs: settings, `let`, `dim`, `when`, shapes and op arguments.

Input: an expression and an `Env` that says what its names stand for.
Output: a `Static`: a finite number, a bool, a string, or an op with some of its arguments bound.  A mistake is
reported once, then `Failed` is raised; callers skip what depended on the value and go on.
"""

from __future__ import annotations

import math
import operator
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, Protocol

import numpy as np

from cdrmix.check.help.other_languages import as_op
from cdrmix.check.names.catalogue import squashed
from cdrmix.check.names.scope import OpDecl, OpValue, Scope, Static
from cdrmix.check.names.values import (
    CONTEXT,
    LARGEST,
    Failed,
    a_kind,
    accept,
    fail,
    inputs,
    kind_of,
    settable,
    show,
)
from cdrmix.diagnose import Report, Span, did_you_mean
from cdrmix.ir.ops import FUNCTIONS, OPS, REDUCTIONS
from cdrmix.syntax import ast

MAX_OP_VALUE = 500
"""Values an op argument may hold in all, nested ones counted: `moe(moe(moe(…)))` is a tree that can double."""

RUNTIME = ("pos", "tokens")
"""Context names that have no value before the program runs."""

STATIC_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    **{name: (row.arity, row.numpy) for name, row in FUNCTIONS.items() if row.numpy},
    "floor": (1, math.floor),
    "ceil": (1, math.ceil),
    "round": (1, round),
}
"""What a static expression may call: every elementwise function of the language, and rounding,
to whole numbers (`round` of a half to the even one)."""

RESERVED = frozenset({*CONTEXT, *RUNTIME, *STATIC_FUNCTIONS, *REDUCTIONS, "top", "softmax", "carried"})
"""Names the language gives a meaning, so that no op, `let` or setting may take them (`layers` is a usual setting)."""


class Env(Protocol):
    """What the names of an expression stand for.  The methods report what is wrong and raise `Failed`."""

    @property
    def scope(self) -> Scope:
        """The file whose expression it is."""

    def name(self, node: ast.Name) -> Static:
        """The value of a bare name."""

    def path(self, node: ast.Path) -> Static:
        """The value of a dotted name."""

    def call(self, node: ast.Call) -> Static | None:
        """The value of a call only this place knows (`carried(v0)`), or None."""


def evaluate(expr: ast.Expr, env: Env, report: Report) -> Static:
    """The value of a static expression."""
    match expr:
        case ast.Num(value=number):
            return _finite(number, expr, report)
        case ast.Str(value=value) | ast.Bool(value=value):
            return value
        case ast.Name():
            return env.name(expr)
        case ast.Path():
            return env.path(expr)
        case ast.Unary(op="not"):
            return not truth(evaluate(expr.arg, env, report), expr.arg, report)
        case ast.Unary():
            return _finite(-_number(evaluate(expr.arg, env, report), "-", expr.arg, report), expr, report)
        case ast.Binary(op="and" | "or"):
            decided = truth(evaluate(expr.left, env, report), expr.left, report)
            if decided == (expr.op == "or"):
                return decided
            return truth(evaluate(expr.right, env, report), expr.right, report)
        case ast.Binary() if expr.op in _ARITHMETIC or expr.op in _COMPARISONS:
            left, right = _each((expr.left, expr.right), env, report)
            return _binary(expr, left, right, report)
        case ast.IfElse():
            taken = truth(evaluate(expr.cond, env, report), expr.cond, report)
            return evaluate(expr.then if taken else expr.other, env, report)
        case ast.Call():
            return _call(expr, env, report)
        case ast.Compose():
            return fail(report, "E0216", expr.span, "a chain `>>` is no value", "write it in a line of the stack")
        case _:
            return not_static(expr, report)


def not_static(expr: ast.Expr, report: Report) -> NoReturn:
    """Report a value that exists only while the program runs (E0213)."""
    match expr:
        case ast.Name():
            what = f"`{expr.id}`"
        case ast.Primed():
            what = f"`{expr.id}'`"
        case ast.Binary():
            what = f"`{expr.op}`"
        case ast.Reshape():
            what = "`as`"
        case _:
            what = "an indexed value"
    fail(
        report,
        "E0213",
        expr.span,
        f"{what} is not known before the program runs, so it cannot stand here",
        "settings, `let`, `dim`, `when`, shapes and the arguments of ops are fixed before the program runs",
    )


def import_of(name: str, scope: Scope, at: Span) -> str:
    """How to make a name known that another file has; an empty string if none has it."""
    found = scope.elsewhere.find(name, scope.file) if scope.elsewhere is not None else None
    return _import(*found, name, scope, at) if found is not None else ""


def _import(file: str, true: str, name: str, scope: Scope, at: Span) -> str:
    line = f'`use "{file}" {{ {true} }}`'
    if at.file == scope.file:
        return f"add the line {line}" + ("" if true == name else f", and write `{true}`")
    setting = at.file.split()[-1].removeprefix("set.")
    where = f"a name in {at.file} is one of {scope.file}, where `{setting}` is declared: "
    if file.startswith("..") or "/" not in file:
        own = posixpath.normpath(posixpath.join(posixpath.dirname(scope.file), file))
        return f"{where}set `{setting} = {true}` in {own}"  # which may well import this one
    if scope.elsewhere is not None and scope.elsewhere.is_installed(scope.file):
        return f"{where}a spec of your own can extend its model, with the line {line} and `{setting} = {true}`"
    return f"{where}add the line {line} there"


def unknown(node: ast.Name | ast.Path, known: Iterable[str], report: Report, scope: Scope) -> NoReturn:
    """Report a name that stands for nothing (E0201)."""
    name = node.id if isinstance(node, ast.Name) else ".".join(node.parts)
    known = list(known)
    if name in STATIC_FUNCTIONS or name in REDUCTIONS:
        fail(report, "E0201", node.span, f"`{name}` is a function, not a value", f"call it: `{name}(…)`")
    if run := re.fullmatch(r"(sum|mean|max|min|logsumexp|softmax)_([A-Za-z]+)", name):
        fail(report, "E0201", node.span, f"no name `{name}` here", f"write `{run[1]}[{run[2]}]`")
    if (own := next((n for n in known if squashed(n) == squashed(name)), "")) and own != name:
        fail(report, "E0201", node.span, f"no name `{name}` here", f"did you mean `{own}`?")
    if imported := import_of(name, scope, node.span):
        fail(report, "E0201", node.span, f"no name `{name}` here", imported)
    if (help := as_op(name)) and name not in known:
        fail(report, "E0201", node.span, f"no name `{name}` here", help)
    names = list(dict.fromkeys(known))
    some = f"names here: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}" if names else "define it"
    fail(report, "E0201", node.span, f"no name `{name}` here", did_you_mean(name, names) or _near(name, scope) or some)


def _near(name: str, scope: Scope) -> str:
    found = scope.elsewhere.near(name, scope.file) if scope.elsewhere is not None else None
    return f'did you mean `{found[1]}` of "{found[0]}"?' if found is not None else ""


def truth(value: Static, at: ast.Expr, report: Report) -> bool:
    """A condition's value; anything but a bool is a mistake."""
    if isinstance(value, bool):
        return value
    fail(report, "E0216", at.span, f"a condition is true or false, {show(value)} is {a_kind(kind_of(value))}",
         "compare it, for instance `n > 0`")  # fmt: skip


# --- ops and their arguments ---------------------------------------------------------------------------------------
def bind(value: OpValue, args: Sequence[ast.Arg], env: Env, report: Report, span: Span) -> OpValue:
    """The op with more static arguments bound: positional ones go to the formals still free, in order."""
    op, formals = value.op, {f.name: f for f in settable(value.op)}
    kinds = {**dict.fromkeys(CONTEXT, "int"), **{f.name: f.kind for f in formals.values()}}
    named = {a.name for a in args}
    bound = dict(value.args)
    free = iter([f.name for f in formals.values() if f.name not in bound and f.name not in named])
    given: dict[str, Static] = {}
    failed = False
    for arg in args:
        try:
            name = arg.name or next(free, None)
            if name is None:
                fail(report, "E0209", arg.span, f"op `{op.name}` takes no more arguments", _takes(op))
            if name not in kinds:
                _no_argument(op, name, arg.span, report)
            if name in given:
                fail(report, "E0218", arg.span, f"`{name}` of op `{op.name}` is given twice", "give it once")
            result = evaluate(arg.value, env, report)
            given[name] = accept(result, kinds[name], f"`{name}` of op `{op.name}`", arg.value.span, report)
        except Failed:
            failed = True
    if failed:
        raise Failed
    bound |= given
    if sum(map(_count, bound.values())) > MAX_OP_VALUE:
        fail(report, "E0219", span, f"the arguments of `{op.name}` hold more than {MAX_OP_VALUE} values",
             "nest fewer ops in the arguments of ops")  # fmt: skip
    return OpValue(op, tuple((name, bound[name]) for name in kinds if name in bound), span)


def _count(value: Static) -> int:
    return 1 + sum(_count(arg) for _, arg in value.args) if isinstance(value, OpValue) else 1


def _takes(op: OpDecl) -> str:
    names = [f.name for f in settable(op)]
    return f"it takes {', '.join(names)}" if names else "it takes none"


def _no_argument(op: OpDecl, name: str, at: Span, report: Report) -> NoReturn:
    if name in (f.name for f in inputs(op)):
        fail(report, "E0209", at, f"`{name}` of op `{op.name}` is its input, not an argument to bind",
             f"the stack or the call gives it; {_takes(op)}")  # fmt: skip
    near = did_you_mean(name, [f.name for f in settable(op)])
    fail(report, "E0209", at, f"op `{op.name}` has no argument `{name}`", _takes(op) + (f"; {near}" if near else ""))


# --- arithmetic ----------------------------------------------------------------------------------------------------
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    row.surface: row.numpy
    for row in OPS.values()
    if row.surface in ("+", "-", "*", "/", "//", "%", "^") and row.arity == 2 and row.numpy
}
_WHOLE: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "^": operator.pow,
}
"""What keeps whole numbers whole, however large: numpy's would wrap."""

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _each(exprs: Iterable[ast.Expr], env: Env, report: Report) -> list[Static]:
    """Every value, each one's mistakes reported before failing."""
    found: list[Static] = []
    failed = False
    for expr in exprs:
        try:
            found.append(evaluate(expr, env, report))
        except Failed:
            failed = True
    if failed:
        raise Failed
    return found


def _binary(node: ast.Binary, left: Static, right: Static, report: Report) -> Static:
    compare = _COMPARISONS.get(node.op)
    if compare and node.op in ("==", "!=") and kind_of(left) == kind_of(right):
        return compare(left, right)
    a, b = _number(left, node.op, node.left, report), _number(right, node.op, node.right, report)
    if compare:
        return compare(a, b)
    if node.op == "^" and isinstance(a, int) and isinstance(b, int) and abs(a) > 1 and b * math.log2(abs(a)) > 64:
        _too_large(node, report)
    if b == 0 and node.op in ("/", "//", "%"):
        fail(report, "E0215", node.span, "division by zero", "its right side is 0 here")
    if a == 0 and b < 0 and node.op == "^":
        fail(report, "E0215", node.span, "division by zero", "its left side is 0 here, and the power negative")
    if a < 0 and node.op == "^" and b != math.floor(b):
        fail(report, "E0215", node.span, "a broken power of a negative number", "take the power of a positive one")
    if isinstance(a, int) and isinstance(b, int) and node.op != "/" and not (node.op == "^" and b < 0):
        return _computed(_WHOLE[node.op], (a, b), node, report)
    return _computed(_ARITHMETIC[node.op], (float(a), float(b)), node, report)


def _call(node: ast.Call, env: Env, report: Report) -> Static:
    special = env.call(node)
    if special is not None:
        return special
    if isinstance(node.base, ast.Name) and node.base.id in STATIC_FUNCTIONS:
        name = node.base.id
        arity, function = STATIC_FUNCTIONS[name]
        if any(a.name for a in node.args) or len(node.args) != arity:
            takes = "one number" if arity == 1 else f"{arity} numbers"
            fail(report, "E0209", node.span, f"`{name}` takes {takes}, without names", f"{len(node.args)} given")
        values = _each([a.value for a in node.args], env, report)
        numbers = [_number(v, name, a.value, report) for v, a in zip(values, node.args, strict=True)]
        return _computed(function, numbers, node, report)
    try:
        value = evaluate(node.base, env, report)
    except Failed:
        _each([a.value for a in node.args], env, report)  # what is wrong in them is told too
        raise
    if not isinstance(value, OpValue):
        fail(report, "E0216", node.base.span, f"{show(value)} is {a_kind(kind_of(value))} and cannot be called",
             "only ops and functions take arguments")  # fmt: skip
    return bind(value, node.args, env, report, node.span)


def _number(value: Static, op: str, at: ast.Expr, report: Report) -> int | float:
    """An operand; comparisons count as 0 and 1."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return value
    fail(report, "E0216", at.span, f"`{op}` wants numbers, {show(value)} is {a_kind(kind_of(value))}",
         "only `==` and `!=` compare two strings or two ops")  # fmt: skip


def _computed(function: Callable[..., Any], operands: Sequence[int | float], at: ast.Expr, report: Report) -> Static:
    """The result as a Python number."""
    try:
        with np.errstate(divide="raise", over="raise", invalid="raise", under="ignore"):
            result = function(*operands)
    except (OverflowError, FloatingPointError, ValueError):
        shown = ", ".join(show(x) for x in operands)
        fail(report, "E0215", at.span, f"this has no finite value for {shown}", "change the numbers it is made of")
    return _finite(result.item() if isinstance(result, np.generic) else result, at, report)


def _finite(value: Any, at: ast.Expr, report: Report) -> int | float | bool:
    if isinstance(value, int) and abs(value) > LARGEST or isinstance(value, float) and not math.isfinite(value):
        _too_large(at, report)
    return value  # type: ignore[no-any-return]


def _too_large(at: ast.Expr, report: Report) -> NoReturn:
    fail(report, "E0215", at.span, "the number is too large", "whole numbers stay below 2^63")
