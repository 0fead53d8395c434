"""Sizes and axes: shapes of the text to axes, `dim`s solved, tensor formals bound to what they are given.

Input: shapes and `dim`s of an op body, and a `Frame` that knows its static names.
Output: `AxisVar`s; the frame's statics and products grow as `dim`s are solved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import isqrt, log, prod

from cdrmix.check.axes.axes import AxisVar, declare_one, made_one, names, unite
from cdrmix.check.body.frame import Frame, Names, factors
from cdrmix.check.help.quote import quote
from cdrmix.check.names.mentions import nodes
from cdrmix.check.names.scope import Scope
from cdrmix.check.names.statics import RUNTIME, evaluate, import_of
from cdrmix.check.names.values import CONTEXT, Failed, show, whole
from cdrmix.diagnose import Span, did_you_mean
from cdrmix.syntax import ast

SHOWN_SIZES = 12
"""Sizes that a message lists."""

MAX_TRIED = 100_000
"""Numbers that are tried as divisors of a size."""


def axis_of(expr: ast.Expr, env: Names) -> AxisVar:
    """The axis that a dimension of a shape stands for."""
    frame = env.frame
    match expr:
        case ast.Name(id=name):
            if frame.lacks(name, env.scope) and not env.is_open(name) and not import_of(name, env.scope, expr.span):
                frame.broken.add(name)
                near = did_you_mean(name, frame.all_names(env.scope))
                frame.draft.fail("E0201", expr.span, f"no size `{name}` here", near or "give it to the op as an "
                                 f"argument, `{name}: int`, or by a `dim`")  # fmt: skip
            size = size_of(expr, env)
            if not frame.own(name) and name in env.scope.lets:
                let, _ = env.scope.lets[name]
                return frame.draft.shared.setdefault(id(let), AxisVar(name, size))
            return frame.axes.setdefault(name, AxisVar(name, size))
        case ast.Num():
            return frame.draft.literal(size_of(expr, env))
        case ast.Binary(op="*"):
            parts = tuple(axis_of(f, env) for f in factors(expr))
            found = frame.products.find(parts)
            if found is None:
                found = AxisVar(quote(expr), prod(p.size for p in parts))
                frame.products.declare(found, parts)
            return found
        case _:
            return frame.axes.setdefault(quote(expr), AxisVar(quote(expr), size_of(expr, env)))


def size_of(expr: ast.Expr, env: Names, what: str = "an axis") -> int:
    """A count of places, one at least."""
    size = whole(evaluate(expr, env, env.frame.report), f"`{quote(expr)}`", expr.span, env.frame.report)
    if size < 1:
        env.frame.draft.fail("E0317", expr.span, f"`{quote(expr)}` is {size}, and {what} has one place at least",
                             "give it a size above zero")  # fmt: skip
    return size


def range_of(expr: ast.Expr) -> tuple[ast.Name | None, ast.Expr]:
    """The index and the size of a dimension `i < D`; no index where it is only a size."""
    match expr:
        case ast.Binary(op="<", left=ast.Name() as name, right=size):
            return name, size
        case _:
            return None, expr


# --- dim -----------------------------------------------------------------------------------------------------------
def solve(frame: Frame) -> None:
    """Solve the `dim`s that can be solved by now; one that cannot waits for the names that it lacks."""
    todo = dict(enumerate(frame.dims))
    waiting: dict[str, list[int]] = {}
    ready = deque(todo)
    while ready:
        at = ready.popleft()
        if at not in todo:
            continue
        dim, scope = todo[at]
        try:
            lacks = _solve_one(dim, scope, frame)
        except Failed:
            lacks = []
            frame.draft.failed = True
            frame.broken.update(_names(dim))
        for name in lacks:
            waiting.setdefault(name, []).append(at)
        if not lacks:
            del todo[at]
            ready += [other for name in _names(dim) for other in waiting.pop(name, ())]
    frame.dims[:] = todo.values()


def check_solved(frame: Frame) -> None:
    """Report the `dim`s that have no solution (E0302)."""
    for dim, scope in frame.dims:
        unknown = [n for n in _names(dim) if not _is_ready(ast.Name(dim.span, n), frame, scope)]
        listed = " and ".join(dict.fromkeys(unknown))
        if len(unknown) == 2:
            message = f"two unknowns in `dim {dim.name} = {quote(dim.value)}`: {listed}"
        else:
            message = f"`dim {dim.name} = {quote(dim.value)}` leaves open: {listed}"
        frame.draft.error("E0302", dim.span, message, "give all but one a value")
        frame.broken.update(_names(dim))
    frame.dims.clear()


def _names(dim: ast.Dim) -> list[str]:
    return [dim.name, *(n.id for n in nodes(dim.value) if isinstance(n, ast.Name))]


def _is_ready(expr: ast.Expr, frame: Frame, scope: Scope) -> bool:
    """Whether an expression needs no `dim` that is not solved."""
    return _lacks(expr, frame, scope) is None


def _lacks(expr: ast.Expr, frame: Frame, scope: Scope) -> str | None:
    """A name without a value that an expression needs; mistakes count as known, evaluation reports them."""
    todo, seen = [(expr, scope)], set[str]()
    while todo:
        expr, scope = todo.pop()
        for node in nodes(expr):
            if not isinstance(node, ast.Name) or node.id in seen:
                continue
            name = node.id
            if name in frame.statics or name in frame.symbols or name in CONTEXT or name in RUNTIME:
                continue
            formal = frame.formal(name)
            if name in frame.lets:
                let, where = frame.lets[name]
                todo.append((let.value, where))
            elif formal is not None and formal.default is not None:
                todo.append((formal.default, scope))
            elif formal is None and not (name in scope.lets or name in scope.ops or _is_function(name, expr)):
                return name
            seen.add(name)
    return None


def _is_function(name: str, expr: ast.Expr) -> bool:
    calls = (n for n in nodes(expr) if isinstance(n, ast.Call))
    return any(isinstance(c.base, ast.Name) and c.base.id == name for c in calls)


def _solve_one(dim: ast.Dim, scope: Scope, frame: Frame) -> list[str]:
    """Solve a `dim` with one unknown, check one with none; else the names that it lacks."""
    env, parts = frame.names(scope), factors(dim.value)
    lacks = [_lacks(p, frame, scope) for p in parts]
    unknown = _lacks(ast.Name(dim.span, dim.name), frame, scope)
    known, open_ = unknown is None, [p for p, name in zip(parts, lacks, strict=True) if name is not None]
    if len(open_) + (not known) > 1 or any(not isinstance(p, ast.Name) for p in open_):
        return [name for name in (*lacks, unknown) if name is not None]
    if not known:
        _define(frame, dim.name, _value(dim, env), dim.span)
    elif open_:
        _solve_factor(dim, open_[0], [p for p in parts if p is not open_[0]], env)
    else:
        have, want = _size(frame, dim.name, dim.span), _value(dim, env)
        if have != want:
            frame.draft.fail("E0301", dim.span, f"{dim.name} = {have} is not {quote(dim.value)} = {want}",
                             f"mend one of the sizes in `dim {dim.name} = {quote(dim.value)}`")  # fmt: skip
    _declare(dim, parts, env)
    return []


def _value(dim: ast.Dim, env: Names) -> int:
    """The right side as a size; a division must come out whole."""
    value = evaluate(dim.value, env, env.frame.report)
    if isinstance(value, float) and not value.is_integer():
        env.frame.draft.fail("E0301", dim.span, f"dim {dim.name} = {quote(dim.value)} is {show(value)}, not whole",
                             "change one of the sizes")  # fmt: skip
    return _positive(int(value) if isinstance(value, float) else value, dim, env)


def _positive(value: object, dim: ast.Dim, env: Names) -> int:
    size = whole(value, f"`{quote(dim.value)}`", dim.span, env.frame.report)  # type: ignore[arg-type]
    if size < 1:
        env.frame.draft.fail("E0317", dim.span, f"`{quote(dim.value)}` is {size}, and an axis has one place at least",
                             "give it a size above zero")  # fmt: skip
    return size


def _size(frame: Frame, name: str, span: Span) -> int:
    value = frame.static(name)
    if value is None:
        frame.draft.fail("E0213", span, f"`{name}` is not known before the program runs", "a `dim` is made of sizes")
    return whole(value, f"`{name}`", span, frame.report)


def _define(frame: Frame, name: str, size: int, span: Span) -> None:
    if not frame.is_new(name, span):
        raise Failed
    frame.statics[name] = size


def _solve_factor(dim: ast.Dim, factor: ast.Expr, others: Sequence[ast.Expr], env: Names) -> None:
    assert isinstance(factor, ast.Name)
    total = _size(env.frame, dim.name, dim.span)
    by = prod(size_of(p, env) for p in others)
    if total % by:
        low = total // by * by
        near = f"{low} or {low + by}" if low else f"{by}"
        divisor = " * ".join(quote(p) for p in others)
        shown = f"{divisor} = {by}" if divisor != str(by) else divisor
        near = f"{total} divides by {_divisors(total, by)}; {shown} divides {dim.name} = {near}"
        env.frame.draft.fail("E0301", dim.span,
                             f"{dim.name} = {total} does not divide by {shown} (dim {dim.name} = {quote(dim.value)})",
                             near)  # fmt: skip
    _define(env.frame, factor.id, total // by, factor.span)


def _divisors(total: int, near: int) -> str:
    """The sizes that divide `total`, the nearest ones where they are many."""
    small = [n for n in range(1, min(isqrt(total), MAX_TRIED) + 1) if total % n == 0]
    every = sorted({*small, *(total // n for n in small)})
    kept = sorted(sorted(every, key=lambda n: abs(log(n / near)))[:SHOWN_SIZES])
    *first, last = map(str, kept)
    return f"{', '.join(first)} and {last}" if first else last


def _declare(dim: ast.Dim, parts: Sequence[ast.Expr], env: Names) -> None:
    """Let the axis be read as its factors; `dim A = B` makes two axes one."""
    if not all(isinstance(p, ast.Name | ast.Num) for p in parts) or isinstance(parts[0], ast.Num) and len(parts) == 1:
        return
    whole_axis = axis_of(ast.Name(dim.span, dim.name), env)
    axes = tuple(axis_of(p, env) for p in parts)
    if len(axes) == 1:
        declare_one(whole_axis, axes[0])
    else:
        env.frame.products.declare(whole_axis, axes)


# --- formals -------------------------------------------------------------------------------------------------------
def bind_axes(frame: Frame, formal: ast.Formal, given: Sequence[AxisVar], span: Span) -> None:
    """Give the names in a tensor formal's shape the axes of what it is given, so far as they are new names."""
    assert formal.type is not None
    if len(formal.type.dims) != len(given):
        _mismatch(frame, formal, given, span)
    for dim, axis in zip(formal.type.dims, given, strict=True):
        if isinstance(dim, ast.Name) and _binds(dim.id, frame, formal):
            frame.spans.setdefault(dim.id, dim.span)
            frame.statics[dim.id] = axis.size
            frame.axes[dim.id] = axis
        elif isinstance(dim, ast.Binary) and dim.op == "*":
            text = quote(dim)
            frame.statics[text] = axis.size
            frame.axes[text] = axis
            frame.dims.append((ast.Dim(dim.span, text, dim), frame.scope_of(formal, frame.decl.scope)))


def _binds(name: str, frame: Frame, formal: ast.Formal) -> bool:
    scope = frame.scope_of(formal, frame.decl.scope)
    return name not in frame.axes and frame.formal(name) is None and name not in scope.lets and name not in scope.ops


def check_axes(frame: Frame, formal: ast.Formal, given: Sequence[AxisVar], span: Span) -> None:
    """Check that what a tensor formal is given has the formal's shape, and make the axes one."""
    assert formal.type is not None
    env = frame.names(frame.scope_of(formal, frame.decl.scope))
    for dim, axis in zip(formal.type.dims, given, strict=True):
        want = axis_of(dim, env)
        if not unite(want, axis):
            if want.size == axis.size:
                one, two = axis.root.name, want.root.name
                message = f"`{formal.name}` of `{frame.decl.name}`: [{one}] and [{two}] have one size, {axis.size}, " \
                          "but are not one axis"  # fmt: skip
                frame.draft.fail("E0304", span, message, f"if they are meant to be, {made_one(axis.root, want.root)}")
            _mismatch(frame, formal, given, span)


def _mismatch(frame: Frame, formal: ast.Formal, given: Sequence[AxisVar], span: Span) -> None:
    assert formal.type is not None
    want = f"[{', '.join(quote(d) for d in formal.type.dims)}]"
    ways = frame.parent.products.readings(given, len(formal.type.dims)) if frame.parent is not None else []
    help = f"give it `as {names(ways[0])}`" if len(ways) == 1 and len(ways[0]) != len(given) else ""
    frame.draft.fail("E0303", span, f"`{formal.name}` of `{frame.decl.name}` is {want}, it is given {_sized(given)}",
                     help or "give it a value of its shape")  # fmt: skip


def _sized(axes: Sequence[AxisVar]) -> str:
    shown = names(axes)
    sizes = "[" + ", ".join(str(a.size) for a in axes) + "]"
    return shown if shown == sizes else f"{shown} = {sizes}"
