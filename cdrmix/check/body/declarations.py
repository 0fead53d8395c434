"""Declarations to IR: params with their init rules, states, histories, carries, buffers and parts.

Input: the symbols of a cell's frame.  Output: the records of `ir.nodes`.

Init rules stay symbolic in `layer` and `layers`, so that one cell serves every layer; functions in them are written
out as one expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cdrmix.check.axes.axes import AxisVar, IndexVar, names, unite
from cdrmix.check.body.bodies import attribute
from cdrmix.check.body.draft import Writing
from cdrmix.check.body.frame import Frame
from cdrmix.check.body.reading import Reading, finish, value
from cdrmix.check.body.stores import own_axes
from cdrmix.check.body.symbols import Held, Stored
from cdrmix.check.body.tensors import Value
from cdrmix.check.body.waiting import Waiting
from cdrmix.check.help.quote import quote
from cdrmix.check.names.statics import RESERVED
from cdrmix.check.names.values import Failed
from cdrmix.diagnose import did_you_mean
from cdrmix.ir import build, nodes
from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.ops import INITS
from cdrmix.syntax import ast


def declare_param(symbol: Stored, frame: Frame) -> nodes.Param:
    """`param w: [i < D] ~ init !lr(2)`."""
    stmt = symbol.stmt
    assert isinstance(stmt, ast.Param)
    own_axes(symbol)
    rates: dict[str, float] = {}
    for attr in stmt.attrs:
        with frame.draft.attempt():
            if attr.name not in ("lr", "decay"):
                near = did_you_mean(attr.name, ("lr", "decay"))
                frame.draft.fail("E0209", attr.span, f"a param has no attribute `!{attr.name}`",
                                 f"it takes !lr and !decay{'; ' + near if near else ''}")  # fmt: skip
            rates[attr.name] = attribute(attr, frame.names(symbol.scope))
    w = Writing(frame.draft)
    indices = _open(symbol, w)
    init = _init(symbol, stmt.init, frame, w)
    return nodes.Param(symbol.name, indices, init, symbol.dtype, rates.get("lr", 1.0), rates.get("decay"), stmt.span)


def _open(symbol: Stored, w: Writing) -> tuple[Index, ...]:
    assert symbol.indices is not None
    return tuple(w.open(v) if v.name else w.fresh(v.axis) for v in symbol.indices if v.axis is not None)


def _reading(symbol: Stored, frame: Frame) -> Reading:
    known = {v.name: v for v in symbol.indices or () if v.name}
    return Reading(frame, symbol.scope, Waiting(), known, mode="init", target=symbol.name)


def _init(symbol: Stored, expr: ast.Expr, frame: Frame, w: Writing) -> nodes.Init:
    r = _reading(symbol, frame)
    match expr:
        case ast.Call(base=ast.Name(id=rule)) if rule in INITS and not frame.visible(rule, symbol.scope):
            found = [_scalar(v, r, w) for v in _arguments(rule, expr, r)]
            return nodes.Init(rule, tuple(found))  # type: ignore[arg-type]
        case ast.Name(id=rule) if rule in INITS and not frame.visible(rule, symbol.scope):
            frame.draft.fail("E0209", expr.span, f"`{rule}` is called", f"write `{rule}(…)`")
        case ast.Call(base=ast.Name(id=rule)) if not (
            frame.visible(rule, symbol.scope) or rule in RESERVED or rule in frame.broken
        ):
            near = _INITS_ELSEWHERE.get(rule.rstrip("_").split("_")[0], "") or did_you_mean(rule, INITS)
            frame.draft.fail("E0201", expr.base.span, f"no init rule `{rule}`", near or "a formula such as `0`, or "
                             "`orthogonal()`, `uniform(low, high)`, `normal(std)`")  # fmt: skip
        case _:
            return nodes.Init("value", (_number(value(expr, r), expr, r, w),))


_INITS_ELSEWHERE = {
    "zeros": "write `0`",
    "zero": "write `0`",
    "ones": "write `1`",
    "constant": "write the number itself: `0.5`",
    "eye": "a formula over its indices: `param W: [i < D, j < D] ~ i == j`",
    "identity": "a formula over its indices: `param W: [i < D, j < D] ~ i == j`",
    "randn": "write `normal(0.02)`",
    "rand": "write `uniform(0, 1)`",
    "gaussian": "write `normal(0.02)`",
    "trunc": "write `normal(0.02)`",
    **dict.fromkeys(("xavier", "glorot", "kaiming", "he", "lecun"), "write `orthogonal()`, or `normal(std)`"),
}
"""Init rules of other languages, by their first word."""


def _arguments(rule: str, expr: ast.Call, r: Reading) -> list[tuple[Value, ast.Expr]]:
    """The arguments of an init rule that draws random numbers, in its order."""
    formals = INITS[rule]
    takes = f"it takes {', '.join(name for name, _ in formals)}"
    given: dict[str, ast.Expr] = {}
    free = iter([name for name, _ in formals if all(a.name != name for a in expr.args)])
    for arg in expr.args:
        name = arg.name or next(free, None)
        if name is None or all(name != other for other, _ in formals):
            what = f"argument `{name}`" if name else "more arguments"
            r.draft.fail("E0209", arg.span, f"`{rule}` has no {what}", takes)
        if name in given:
            r.draft.fail("E0218", arg.span, f"`{name}` of `{rule}` is given twice", "give it once")
        given[name] = arg.value
    found = []
    for name, default in formals:
        text = given.get(name, ast.Num(expr.span, default) if default is not None else None)
        if text is None:
            r.draft.fail("E0210", expr.span, f"`{rule}` needs `{name}`", takes)
        found.append((value(text, r), text))
    return found


def _scalar(given: tuple[Value, ast.Expr], r: Reading, w: Writing) -> Node:
    found, text = given
    if found.free:
        r.draft.fail("E0216", text.span, f"`{quote(text)}` differs by place, and this is one number for the whole "
                     "tensor", "leave its indices out")  # fmt: skip
    return _number(found, text, r, w)


def _number(found: Value, text: ast.Expr, r: Reading, w: Writing) -> Node:
    if isinstance(found.const, str) or found.const is not None and not isinstance(found.const, int | float):
        r.draft.fail("E0216", text.span, f"`{quote(text)}` is no number", "an init rule gives numbers")
    if found.shape:
        r.draft.fail("E0303", text.span, f"`{quote(text)}` is {names(found.shape)}, an init rule gives one number a "
                     "place", "name the indices in the shape: `[i < D]`")  # fmt: skip
    finish(r)
    return w.emit(found, (), text.span)


def declare_state(symbol: Stored, frame: Frame) -> nodes.State:
    """`state S: [H, N] = start`."""
    stmt = symbol.stmt
    assert isinstance(stmt, ast.State)
    for attr in stmt.attrs:
        frame.draft.error("E0209", attr.span, f"a state has no attribute `!{attr.name}`", "leave it out")
    axes = own_axes(symbol)
    w = Writing(frame.draft)
    indices = _open(symbol, w)
    r = replace(_reading(symbol, frame), mode="start")
    init = _start(stmt.init, axes, indices, r, w)
    return nodes.State(symbol.name, indices, init, symbol.dtype, stmt.span)


def _start(expr: ast.Expr | None, axes: Sequence[AxisVar], indices: Sequence[Index], r: Reading, w: Writing) -> Node:
    """A state's value before a document's first token: a constant, or a param."""
    if expr is None:
        return build.const(0.0)
    found = value(expr, r)
    if isinstance(found.const, int | float):
        return build.const(float(found.const), expr.span)
    finish(r)
    slots = [build.index(i, expr.span) for i in indices]
    if found.place is None or found.shape and (len(found.shape) != len(axes) or not all(map(unite, found.shape, axes))):
        if found.shape and found.place is not None:
            message = f"state `{r.target}` is {names(axes)}, `{quote(expr)}` is {names(found.shape)}"
            r.draft.fail("E0303", expr.span, message, "start from a param of its axes")
        what = "changes with the token" if found.varies else "is neither a constant nor a param"
        r.draft.fail("E0408", expr.span, f"state `{r.target}` starts from `{quote(expr)}`, which {what}",
                     "start from a constant or a param; what the first token sets is chosen by `pos == 0`")  # fmt: skip
    return w.emit(found, tuple(slots) if found.shape else (), expr.span)


def declare_buffer(symbol: Stored, frame: Frame) -> nodes.Buffer:
    """`buffer bias: [experts] = 0`."""
    stmt = symbol.stmt
    assert isinstance(stmt, ast.Buffer)
    own_axes(symbol)
    w = Writing(frame.draft)
    indices = _open(symbol, w)
    r = _reading(symbol, frame)
    init = _number(value(stmt.init, r), stmt.init, r, w)
    return nodes.Buffer(symbol.name, indices, init, symbol.dtype, stmt.span)


def declare_history(symbol: Stored, frame: Frame) -> nodes.History:
    """`history K: [N] last window = …`."""
    stmt = symbol.stmt
    assert isinstance(stmt, ast.History)
    for attr in stmt.attrs:
        frame.draft.error("E0209", attr.span, f"a history has no attribute `!{attr.name}`", "leave it out")
    if symbol.window is None:
        raise Failed
    axes = tuple(frame.draft.axis(a) for a in own_axes(symbol))
    return nodes.History(symbol.name, frame.draft.axis(symbol.window), axes, symbol.dtype, stmt.span)


def declare_carry(symbol: Stored, frame: Frame) -> nodes.Carry:
    """`carry v0: [D]`."""
    axes = own_axes(symbol)
    writes = symbol.name in frame.following
    found = tuple(frame.draft.axis(a) for a in axes)
    return nodes.Carry(symbol.name, found, symbol.used, writes, symbol.dtype, symbol.span)


def declare_part(held: Held, frame: Frame) -> nodes.Part:
    """`part f: op(…)`, `bank F: [e < experts] of op(…)`."""
    if held.cell is None:
        raise Failed
    bank = None
    if held.index is not None:
        w = Writing(frame.draft)
        bank = w.open(held.index) if held.index.name else w.fresh(_axis(held.index))
    return nodes.Part(held.name, held.cell, bank, held.capacity, held.span)


def _axis(var: IndexVar) -> AxisVar:
    if var.axis is None:
        raise Failed
    return var.axis
