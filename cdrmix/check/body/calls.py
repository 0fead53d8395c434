"""Calls: functions of the language, parts, and ops that are functions, whose equations are written out in place.

Input: a `Call` of the text.  Output: its `Value`.

An op without parameters, state and parts is a function.  Each call makes a frame of its own; its equations become
definitions of the caller's cell, named `<op>_<name>`, under the free indices of the arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from cdrmix.check.axes.axes import names, unite
from cdrmix.check.axes.dims import axis_of, bind_axes, check_axes
from cdrmix.check.axes.meeting import merged
from cdrmix.check.body.bodies import open_body
from cdrmix.check.body.draft import CALL, Definition
from cdrmix.check.body.equations import reading, solve
from cdrmix.check.body.expressions import is_function, store
from cdrmix.check.body.frame import Frame
from cdrmix.check.body.order import in_order
from cdrmix.check.body.parts import apply_held
from cdrmix.check.body.reading import Reading, finish, place, value
from cdrmix.check.body.reductions import call_bracketed, call_function
from cdrmix.check.body.symbols import Bound, Held, Local, Stored
from cdrmix.check.body.tensors import Value, constant, stored
from cdrmix.check.help.other_languages import MODULES, knows
from cdrmix.check.help.quote import quote, written
from cdrmix.check.help.remedies import NO_RECURSION
from cdrmix.check.help.translation import translated
from cdrmix.check.names.catalogue import squashed
from cdrmix.check.names.mentions import leaves, nodes
from cdrmix.check.names.scope import OpDecl, OpValue
from cdrmix.check.names.statics import STATIC_FUNCTIONS, evaluate, import_of, not_static
from cdrmix.check.names.values import a_kind, accept, inputs, kind_of, settable, show
from cdrmix.diagnose import did_you_mean
from cdrmix.ir.build import FLOATS
from cdrmix.ir.ops import FUNCTIONS, INITS
from cdrmix.syntax import ast

_OWNERS = {
    ast.Param: "parameters", ast.Buffer: "a buffer", ast.State: "state", ast.History: "a history",
    ast.Carry: "a carry", ast.Part: "parts", ast.Bank: "a bank", ast.Aux: "training values",
    ast.Metric: "training values", ast.AfterStep: "training values",
}  # fmt: skip
"""Statements that only a cell can hold."""

MAX_INLINED = 24
"""How deep functions may call functions."""


@value.register
def _(expr: ast.Call, r: Reading) -> Value:
    match expr.base:
        case ast.Name(id=name) if name == "carried" and is_function(name, r):
            found = r.env.call(expr)
            assert found is not None
            return constant(found, expr.span)
        case ast.Name(id=name) if is_function(name, r):
            return call_function(name, expr, r)
        case ast.Index(base=ast.Name(id=name), items=items) if is_function(name, r):
            return call_bracketed(name, items, expr, r)
        case ast.Name(id=name) if isinstance(held := r.frame.symbols.get(name), Held):
            return apply_held(held, None, expr, r)
        case ast.Index(base=ast.Name(id=name), items=items) if isinstance(held := r.frame.symbols.get(name), Held):
            return apply_held(held, items, expr, r)
        case ast.Name(id=name) if name in r.frame.symbols or name in r.indices:
            symbol = r.frame.symbols.get(name)
            if (
                isinstance(symbol, Stored)
                and symbol.kind == "param"
                and len(symbol.indices or ()) == len(expr.args) + 1
            ):
                help = f"a matrix is applied by `@`: write `({name} @ {written(expr.args[0].value)})`"
                r.draft.fail("E0216", expr.span, f"`{name}` is a value, not an op, and cannot be called", help)
            r.draft.fail("E0216", expr.base.span, f"`{name}` is a value, not an op, and cannot be called",
                         f"index it as `{name}[…]`")  # fmt: skip
        case ast.Name(id=name) if name in INITS and not r.frame.visible(name, r.scope):
            r.draft.fail("E0201", expr.span, f"`{name}` is an init rule and stands alone after `~`",
                         f"as `param w: [D] ~ {name}(…)`")  # fmt: skip
        case ast.Name(id="grad" | "gradient") if r.mode == "training" and not r.frame.visible(expr.base.id, r.scope):
            r.draft.fail("E0605", expr.span, "a gradient is not available here", "metrics are of values")
        case ast.Name(id=name) if knows(name) and name not in r.indices and not r.frame.visible(name, r.scope):
            help = translated(name, expr.args, expr.span, r)
            r.draft.fail("E0201", expr.span, f"no function `{name}` here", help)
        case ast.Path(parts=(*front, name)) if front[0] in MODULES or r.frame.own(front[0]):
            _of_a_module(front, name, expr, r)
        case ast.Name() | ast.Path() | ast.Call():
            pass
        case _:
            message = f"`{quote(expr.base)}` cannot be called"
            if isinstance(expr.base, ast.Num) and len(expr.args) == 1:
                product = ast.Binary(expr.span, "*", expr.base, expr.args[0].value)
                r.draft.fail("E0216", expr.span, message, f"a product is written out: write `{written(product)}`")
            r.draft.fail("E0216", expr.base.span, message, "only ops and functions take arguments")
    op = evaluate(expr.base, r.env, r.frame.report)
    if not isinstance(op, OpValue):
        r.draft.fail("E0216", expr.base.span, f"{show(op)} is {a_kind(kind_of(op))} and cannot be called",
                     "only ops and functions take arguments")  # fmt: skip
    return inline(op, expr, r)


def _of_a_module(front: Sequence[str], name: str, expr: ast.Call, r: Reading) -> NoReturn:
    """`torch.exp(x)`, `x.sum()`."""
    args, of = expr.args, ".".join(front)
    if r.frame.own(front[0]):
        args = (ast.Arg(expr.base.span, None, ast.Name(expr.base.span, front[0])), *args)
    plain = ast.Call(expr.span, ast.Name(expr.base.span, name), args)
    own = next((n for n in r.frame.all_names(r.scope) if squashed(n) == squashed(name)), "")
    known = name in FUNCTIONS or name in STATIC_FUNCTIONS or r.frame.visible(name, r.scope)
    if known and not any(a.name for a in args):
        help = f"write `{written(plain)}`"
    elif own and not r.frame.own(front[0]):
        help = f"an op is a part, `part n: {own}`, or a line of the stack"
    elif knows(name):
        help = translated(name, args, expr.span, r)
    else:
        help = import_of(name, r.scope, expr.span) or "functions stand alone: `exp(x)`"
    r.draft.fail("E0201", expr.span, f"`{of}` has nothing behind a dot, no `{name}`", help)


def inline(op: OpValue, expr: ast.Call, r: Reading) -> Value:
    """The call of an op that is a function."""
    _check_function(op.op, expr, r)
    r.draft.spend(expr.span, CALL)
    given = _bind(op, expr.args, expr, r)
    prefix = f"{r.frame.prefix}_{op.op.name}" if r.frame.prefix else op.op.name
    context, asked = r.frame.context.of(op), dict[tuple[str, ...], object]()
    frame = Frame(r.draft, op, context, r.frame.home, asked, r.frame, prefix, r.pure, r.waiting)
    frame.statics.update(op.args)
    tensors = {}
    for formal in op.op.formals:
        if formal.name in given and formal.kind not in ("tensor", "index"):
            _bind_static(formal, given[formal.name], frame, r)
        elif formal.name in given:
            tensors[formal.name] = _argument(formal, given[formal.name], op.op, r)
    for formal in inputs(op.op):
        if formal.type is not None:
            bind_axes(frame, formal, tensors[formal.name].shape, given[formal.name].span)
    for formal in inputs(op.op):
        frame.declare(formal.name, Bound(formal.name, tensors[formal.name], formal.span))
    with r.frame.report.used(expr.span):
        open_body(frame)
        for formal in inputs(op.op):
            _check_argument(formal, tensors[formal.name], given[formal.name], frame, r)
        for symbol in in_order(frame):
            if isinstance(symbol, Local):  # one that the result does not need is checked all the same
                with r.draft.attempt():
                    solve(symbol, frame, r.mode if r.pure else "body")
        result = _result(frame, expr, r)
    r.frame.ask(op, asked)
    if not r.draft.failed:
        frame.home.check_reach(frame)
    return result


def _check_function(op: OpDecl, expr: ast.Call, r: Reading) -> None:
    owner = next((s for s in leaves(op.body) if type(s) in _OWNERS), None)
    if owner is not None:
        r.draft.fail("E0501", expr.span, f"op `{op.name}` has {_OWNERS[type(owner)]}: it cannot be called in an "
                     "expression", f"declare `part {op.name.split('_')[-1]}: {op.name}` and call that")  # fmt: skip
    depth, around = 0, r.frame
    while around.parent is not None and around.decl is not op:
        around, depth = around.parent, depth + 1
    if around.decl is op:
        way = "" if around is r.frame else f", by way of `{r.frame.decl.name}`"
        r.draft.fail("E0206", expr.span, f"op `{op.name}` calls itself{way}", NO_RECURSION)
    if depth >= MAX_INLINED:
        r.draft.fail("E0219", expr.span, f"functions call functions more than {MAX_INLINED} levels deep",
                     "write the equations of the inner ones where they are used")  # fmt: skip


def _bind(op: OpValue, args: Sequence[ast.Arg], expr: ast.Call, r: Reading) -> dict[str, ast.Expr]:
    """What each formal is given: tensors first, then the settings that are not bound yet."""
    decl = op.op
    bound = {name for name, _ in op.args}
    order = [f.name for f in (*inputs(decl), *settable(decl)) if f.name not in bound]
    takes = f"it takes {', '.join(f.name for f in decl.formals)}"
    given: dict[str, ast.Expr] = {}
    named = {a.name for a in args}
    free = iter([name for name in order if name not in named])
    for arg in args:
        name = arg.name or next(free, None)
        if name is None:
            r.draft.fail("E0209", arg.span, f"op `{decl.name}` takes no more arguments", takes)
        if all(f.name != name for f in decl.formals):
            near = did_you_mean(name, [f.name for f in decl.formals])
            help = f"{takes}; {near}" if near else takes
            r.draft.fail("E0209", arg.span, f"op `{decl.name}` has no argument `{name}`", help)
        if name in given:
            r.draft.fail("E0218", arg.span, f"`{name}` of op `{decl.name}` is given twice", "give it once")
        given[name] = arg.value
    for formal in decl.formals:
        if formal.name not in given and formal.name not in bound and formal.default is None:
            r.draft.fail("E0210", expr.span, f"op `{decl.name}` needs `{formal.name}`", f"give `{formal.name}=…`")
    return given


def _bind_static(formal: ast.Formal, text: ast.Expr, frame: Frame, r: Reading) -> None:
    is_op = formal.kind == "op"
    found = constant(evaluate(text, r.env, r.frame.report), text.span) if is_op else value(text, r)
    if found.const is None and r.mode == "init" and formal.kind in ("int", "float") and not found.shape:
        frame.symbols[formal.name] = Bound(formal.name, found, formal.span)
        return
    if found.const is None:
        not_static(text, r.frame.report)
    what = f"`{formal.name}` of op `{frame.decl.name}`"
    static = accept(found.const, formal.kind, what, text.span, r.frame.report)
    frame.statics[formal.name] = static
    if formal.kind == "int" and static >= 1 and isinstance(text, ast.Name | ast.Num):  # type: ignore[operator]
        frame.axes[formal.name] = axis_of(text, r.env)


def _argument(formal: ast.Formal, text: ast.Expr, op: OpDecl, r: Reading) -> Value:
    """What a tensor formal stands for: what must be computed is computed once, under a name."""
    found = value(text, r.named(f"{op.name}_{formal.name}"))
    if isinstance(found.const, str | OpValue):
        r.draft.fail("E0216", text.span, f"`{formal.name}` of op `{op.name}` is a tensor, {show(found.const)} is "
                     f"{a_kind(kind_of(found.const))}", "give a value")  # fmt: skip
    if r.pure or found.place is not None or found.bounds is not None or not (found.shape or found.varies):
        return found
    return store(found, r, text, hint=f"{op.name}_{formal.name}")


def _check_argument(formal: ast.Formal, found: Value, text: ast.Expr, frame: Frame, r: Reading) -> None:
    if formal.type is not None:
        check_axes(frame, formal, found.shape, text.span)
        return
    assert formal.extent is not None
    axis = axis_of(formal.extent, frame.names(frame.scope_of(formal, frame.decl.scope)))
    if found.shape or found.into is None and found.bounds is None:
        r.draft.fail("E0316", text.span, f"`{formal.name}` of op `{frame.decl.name}` is a place on {names([axis])}, "
                     f"`{quote(text)}` is none", "give an index or a pick")  # fmt: skip
    if found.into is not None and not unite(found.into, axis) or found.into is None:
        place(found, axis, quote(text), f"{frame.decl.name}[{formal.name}]", r)


def _result(frame: Frame, expr: ast.Call, r: Reading) -> Value:
    """The value of a function's `return`, cast to the dtype that the op declares."""
    decl = frame.decl
    stmt, scope = next(((s, at) for s, at in frame.statements if isinstance(s, ast.Return)), (None, decl.scope))
    if stmt is None:
        r.draft.fail("E0217", decl.span, f"op `{decl.name}` returns nothing", "end it with `return …`")
    inner = reading(frame, scope, "out", r.mode)
    found = value(stmt.value, inner)
    finish(inner)
    want = tuple(axis_of(d, frame.names(frame.scope_of(decl.type, decl.scope))) for d in decl.type.dims)
    if len(want) != len(found.shape) or not all(map(unite, found.shape, want)):
        help = merged(found.shape, stmt.value, want, None, inner) or "mend the type after `->`, or the value"
        r.draft.fail("E0303", stmt.span, f"op `{decl.name}` returns {names(want)}, `{quote(stmt.value)}` is "
                     f"{names(found.shape)}", help)  # fmt: skip
    _free_axes(frame, found, r)
    dtype = decl.type.dtype or "work"
    if found.dtype in FLOATS and found.dtype != dtype and not r.pure and found.const is None:
        return _cast(frame, stmt.value, found, dtype, inner)
    return found


def _cast(frame: Frame, text: ast.Expr, found: Value, dtype: str, r: Reading) -> Value:
    """The value kept in the declared dtype: under its own name where that is read nowhere else."""
    name = text.base if isinstance(text, ast.Reshape) else text
    local = frame.symbols.get(name.id) if isinstance(name, ast.Name) else None
    if isinstance(local, Local) and isinstance(local.unit, Definition) and found.place is not None:
        uses = [n for n in nodes(*frame.decl.body) if isinstance(n, ast.Name) and n.id == local.name]
        if len(uses) == 1:
            local.unit.dtype = found.dtype = dtype  # type: ignore[assignment]
            return _again(found)
    return store(found, r, text, dtype, hint=f"{frame.prefix}_out")  # type: ignore[arg-type]


def _again(found: Value) -> Value:
    assert found.place is not None
    return stored(found.place, found.shape, found.dtype, found.varies, found.into, found.span)


def _free_axes(frame: Frame, found: Value, r: Reading) -> None:
    """Axes that only the function has a name for take the identity of what they meet in the caller."""
    outer = {id(a.root) for a in (*r.frame.axes.values(), *r.draft.literals.values(), *r.draft.shared.values())}
    outer |= {id(a.root) for s in frame.symbols.values() if isinstance(s, Bound) for a in s.value.shape}
    for axis in found.shape:
        if id(axis.root) not in outer and axis.root.window is None:
            axis.root.loose = True
