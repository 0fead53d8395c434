"""Op bodies: statements to symbols, `when` decided, `dim` solved, declared axes known.

Input: a `Frame` with its formals bound.  Output: the frame's symbols and statements, ready for equations to be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cdrmix.check.axes.axes import AxisVar, IndexVar
from cdrmix.check.axes.dims import axis_of, check_solved, range_of, size_of, solve
from cdrmix.check.body.frame import Frame, Names
from cdrmix.check.body.symbols import Declaration, Held, Kind, Local, Stored
from cdrmix.check.help.quote import quote
from cdrmix.check.help.remedies import choice_by_value, without_prime
from cdrmix.check.names.mentions import defined, mentioned
from cdrmix.check.names.scope import OpValue, Scope
from cdrmix.check.names.statics import evaluate, truth
from cdrmix.check.names.values import Failed, a_kind, accept, check_complete, kind_of, show
from cdrmix.syntax import ast

MAX_STATES = 100
"""States and histories that one op may have: how each is computed over a sequence depends on all of them."""


def open_body(frame: Frame) -> None:
    """Declare everything that the body's statements name."""
    _collect(frame, frame.decl.body, frame.decl.scope)
    _read_as_primed(frame)
    check_solved(frame)
    for symbol in tuple(frame.symbols.values()):
        with frame.draft.attempt():
            _settle(symbol, frame)
    for stmt, scope in frame.statements:
        if isinstance(stmt, ast.Require):
            _require(stmt, scope, frame)  # what a setting that is refused leads to is no further mistake
    _check_states(frame)


def _collect(frame: Frame, body: Sequence[ast.Stmt], around: Scope) -> None:
    whens: list[tuple[ast.When, Scope]] = []
    for stmt in body:
        scope = frame.scope_of(stmt, around)
        if isinstance(stmt, ast.When):
            whens.append((stmt, scope))
        else:
            _declare(stmt, scope, frame)
    solve(frame)
    for when, scope in whens:
        with frame.draft.attempt():
            try:
                _check_condition(when, frame)
                taken = truth(evaluate(when.cond, frame.names(scope), frame.report), when.cond, frame.report)
            except Failed:
                frame.broken.update(name for stmt in (*when.body, *when.other) for name in defined(stmt))
                raise
            _collect(frame, when.body if taken else when.other, scope)


def _declare(stmt: ast.Stmt, scope: Scope, frame: Frame) -> None:
    frame.statements.append((stmt, scope))
    match stmt:
        case ast.Let():
            if frame.is_new(stmt.name, stmt.span):
                frame.lets[stmt.name] = (stmt, scope)
        case ast.Dim():
            frame.dims.append((stmt, scope))
        case ast.Param():
            _declare_stored("param", stmt, scope, stmt.type.dtype or "work", frame)
        case ast.State():
            _declare_stored("state", stmt, scope, stmt.type.dtype or "f32", frame)
        case ast.Carry():
            _declare_stored("carry", stmt, scope, stmt.type.dtype or "work", frame)
        case ast.History():
            _declare_stored("history", stmt, scope, stmt.type.dtype or "work", frame)
        case ast.Buffer():
            _declare_stored("buffer", stmt, scope, stmt.type.dtype or "f32", frame)
        case ast.Part() | ast.Bank():
            frame.declare(stmt.name, Held(stmt.name, stmt, scope, stmt.span))
        case ast.Equation():
            for target in stmt.targets:
                _declare_target(target, stmt, scope, frame)
        case ast.Return():
            if not frame.is_new("return", stmt.span):
                frame.statements.pop()
        case _:
            pass


def _check_condition(when: ast.When, frame: Frame) -> None:
    """Report a condition that is known only while the program runs, and the choice by value that it means (E0213)."""
    if frame.runs(when.cond):
        frame.draft.fail("E0213", when.cond.span, f"`{quote(when.cond)}` is not known before the program runs, so "
                         "it cannot decide a `when`", choice_by_value(when))  # fmt: skip


def _declare_stored(kind: Kind, stmt: Declaration, scope: Scope, dtype: str, frame: Frame) -> None:
    stored = Stored(kind, stmt.name, stmt, scope, dtype, stmt.span)  # type: ignore[arg-type]
    local = frame.symbols.get(stmt.name)
    if kind in ("state", "carry") and isinstance(local, Local):
        frame.symbols[stmt.name], frame.spans[stmt.name] = stored, stmt.span
        frame.unprimed.append(local)
    else:
        frame.declare(stmt.name, stored)


def _declare_target(target: ast.Target, stmt: ast.Equation, scope: Scope, frame: Frame) -> None:
    if target.name == "_" and not target.primed:
        return
    local = Local(target.name, stmt, target, scope, target.span)
    if any(isinstance(item, ast.Num) for item in target.items or ()):
        frame.broken.add(target.name)
        place = quote(next(i for i in target.items or () if isinstance(i, ast.Num)))
        help = f"write one equation for all places: `{target.name}[i] = … if i == {place} else …`"
        wrong = f"`{place}` stands on the left, where only indices stand"
        frame.draft.error("E0320", target.span, wrong, help)
        return
    known = frame.symbols.get(target.name)
    if not target.primed and isinstance(known, Stored) and known.kind == "buffer":
        help = f"write `after step {without_prime(target)}`"
        wrong = f"buffer `{target.name}` is written by `after step`, not by an equation"
        frame.draft.error("E0602", target.span, wrong, help)
    elif not target.primed and isinstance(known, Stored) and known.kind in ("state", "carry"):
        frame.unprimed.append(local)
    elif not target.primed:
        frame.declare(target.name, local)
    elif frame.is_new(target.name + "'", target.span):
        frame.following[target.name] = local


def _read_as_primed(frame: Frame) -> None:
    """Equations of a state or carry without the prime (E0401): what they mean is read on with it."""
    for local in frame.unprimed:
        name, shown = local.name, without_prime(local.target)
        if not frame.is_new(name + "'", local.span):
            continue
        kind = frame.symbols[name].kind  # type: ignore[union-attr]
        if any(isinstance(i, ast.Name) and i.id == "t" for i in local.target.items or ()):
            frame.broken.update((name, name + "'"))
            frame.draft.error("E0401", local.span, f"{kind} `{name}` is written without its prime, and time has no "
                              "index", f"`{name}` is the value before this token: write `{name}' = …`")  # fmt: skip
            continue
        frame.draft.error("E0401", local.span, f"{kind} `{name}` is written without its prime: `{name}` is the value "
                          "before this token", f"write `{shown}`")  # fmt: skip
        stmt = replace(local.stmt, targets=tuple(replace(t, primed=t is local.target) for t in local.stmt.targets))
        target = next(t for t in stmt.targets if t.name == name)
        frame.following[name] = Local(name, stmt, target, local.scope, local.span)
        frame.statements = [(stmt if s is local.stmt else s, at) for s, at in frame.statements]


# --- declared axes -------------------------------------------------------------------------------------------------
def _settle(symbol: object, frame: Frame) -> None:
    match symbol:
        case Held():
            _settle_held(symbol, frame)
        case Stored(stmt=ast.Formal()):
            pass
        case Stored(stmt=ast.History() as stmt):
            env = frame.names(symbol.scope)
            symbol.window = _window(stmt, env)
            symbol.indices = _indices(stmt.type, env)
        case Stored(stmt=stmt):
            assert not isinstance(stmt, ast.Formal)
            symbol.indices = _indices(stmt.type, frame.names(symbol.scope))
        case _:
            pass


def _indices(type_: ast.TypeExpr, env: Names) -> tuple[IndexVar, ...]:
    """The axes of a declaration, with the names it gives their indices."""
    found: dict[str, IndexVar] = {}
    axes: list[IndexVar] = []
    for dim in type_.dims:
        name, size = range_of(dim)
        var = IndexVar(name.id if name is not None else "", dim.span, axis_of(size, env), quote(dim))
        if name is not None:
            if env.frame.visible(name.id, env.scope):
                at = env.frame.spans.get(name.id)
                where = f" defined at {at.line}:{at.col}" if at else ""
                env.frame.draft.fail("E0207", name.span, f"index `{name.id}` hides the name `{name.id}`{where}",
                                     "use another letter for the index")  # fmt: skip
            if name.id in found:
                env.frame.draft.fail("E0208", name.span, f"index `{name.id}` is bound twice here", "use another letter")
            found[name.id] = var
        axes.append(var)
    return tuple(axes)


def _window(stmt: ast.History, env: Names) -> AxisVar:
    """The axis of a history's tokens; histories of one window share it."""
    frame = env.frame
    dynamic = {name for name in mentioned(stmt.window) if isinstance(frame.symbols.get(name), Stored | Local)}
    if dynamic or "pos" in mentioned(stmt.window) and not frame.own("pos"):
        frame.draft.fail("E0407", stmt.window.span, f"the window must be known before the program runs; "
                         f"`last {quote(stmt.window)}` depends on the token", "give it a size")  # fmt: skip
    size_of(stmt.window, env, "a window")
    plain = axis_of(stmt.window, env)
    return frame.draft.windows.setdefault(plain.root, AxisVar(plain.name, plain.size, window=plain))


def _settle_held(held: Held, frame: Frame) -> None:
    env, stmt = frame.names(held.scope), held.stmt
    if isinstance(stmt, ast.Bank):
        name, size = range_of(stmt.count)
        held.index = IndexVar(name.id if name is not None else "", stmt.count.span)
        if name is not None and frame.visible(name.id, held.scope):
            frame.draft.error("E0207", name.span, f"index `{name.id}` hides the name `{name.id}`",
                              "use another letter for the index")  # fmt: skip
        held.index.axis = axis_of(size, env)
        for attr in stmt.attrs:
            with frame.draft.attempt():
                if attr.name != "capacity":
                    message = f"a bank has no attribute `!{attr.name}`"
                    frame.draft.fail("E0209", attr.span, message, "it takes !capacity")
                held.capacity = attribute(attr, env)
    found = evaluate(stmt.op, env, frame.report)
    if not isinstance(found, OpValue):
        frame.draft.fail("E0216", stmt.op.span, f"a part is of an op, {show(found)} is {a_kind(kind_of(found))}",
                         f"as `part {stmt.name}: layer_norm`")  # fmt: skip
    check_complete(found, stmt.op.span, frame.report)
    held.op = found


def attribute(attr: ast.Attr, env: Names) -> float:
    """The number of an attribute: `!lr(2)`."""
    if len(attr.args) != 1 or attr.args[0].name is not None:
        env.frame.draft.fail("E0209", attr.span, f"`!{attr.name}` takes one number", f"as `!{attr.name}(2)`")
    arg = attr.args[0].value
    value = accept(evaluate(arg, env, env.frame.report), "float", f"`!{attr.name}`", arg.span, env.frame.report)
    if float(value) < 0:  # type: ignore[arg-type]
        env.frame.draft.fail("E0216", arg.span, f"`!{attr.name}` is below zero", "give a number from zero up")
    return float(value)  # type: ignore[arg-type]


# --- checks of the whole body --------------------------------------------------------------------------------------
def _require(stmt: ast.Require, scope: Scope, frame: Frame) -> None:
    if not truth(evaluate(stmt.cond, frame.names(scope), frame.report), stmt.cond, frame.report):
        what = stmt.message if stmt.message is not None else quote(stmt.cond)
        values = []
        for name in sorted(mentioned(stmt.cond)):
            value = frame.statics.get(name)
            if value is not None:
                values.append(f"{name} is {show(value)}")
        shown = f" ({', '.join(values)})" if values else ""
        frame.draft.fail("E0706", stmt.span, f"require failed in op `{frame.decl.name}`: {what}{shown}",
                         "change the argument")  # fmt: skip


def _check_states(frame: Frame) -> None:
    """Every state is written, and only what is declared is written with a prime (E0401, E0402, E0602).  An op has not
    more states than can be told apart (E0412)."""
    kept = [s for s in frame.symbols.values() if isinstance(s, Stored) and s.kind in ("state", "history")]
    if len(kept) > MAX_STATES:
        frame.draft.fail("E0412", kept[MAX_STATES].span, f"op `{frame.decl.name}` has {len(kept)} states and "
                         f"histories, and {MAX_STATES} is the most",
                         "make one state of those that are alike: `state S: [n, D]`")  # fmt: skip
    for name, symbol in frame.symbols.items():
        written = name in frame.following or name + "'" in frame.broken
        if isinstance(symbol, Stored) and symbol.kind == "state" and not written:
            if (when := frame.left_out(name + "'")) is not None:
                frame.draft.error("E0401", symbol.span, f"state `{name}` is not written in the branch taken of the "
                                  f"`when` of line {when.span.line}", f"write it in every branch: `{name}' = {name}` "
                                  "keeps it as it is")  # fmt: skip
                continue
            frame.draft.error("E0401", symbol.span, f"state `{name}` is never written", f"add `{name}' = …`")
    for name, local in tuple(frame.following.items()):
        found = frame.symbols.get(name)
        if isinstance(found, Stored) and found.kind in ("state", "carry"):
            continue
        del frame.following[name]
        if name in frame.broken:
            continue
        frame.broken.add(name)
        if isinstance(found, Stored) and found.kind == "buffer":
            frame.draft.error("E0602", local.span, f"`{name}'` of a buffer is written by `after step`, not by an "
                              "equation", f"write `after step {name}' = …`")  # fmt: skip
        else:
            frame.draft.error("E0402", local.span, f"`{name}'` is written but `{name}` is not declared a state",
                              f"declare `state {name}: […]`")  # fmt: skip
