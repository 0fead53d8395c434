"""Training values: `aux`, `metric` and `after step`.

Input: such a statement of a cell.  Output: a `Training` record.

They see the values of every token, so each must reduce over `[tokens]` whatever changes with the token.
"""

from __future__ import annotations

from dataclasses import replace

from cdrmix.check.axes.axes import IndexVar, names
from cdrmix.check.axes.meeting import check_number, meet
from cdrmix.check.body.draft import Writing
from cdrmix.check.body.equations import check_left, left_side, reading
from cdrmix.check.body.frame import Frame
from cdrmix.check.body.reading import Reading, finish, value
from cdrmix.check.body.stores import own_axes
from cdrmix.check.body.symbols import Stored
from cdrmix.check.body.tensors import Value
from cdrmix.check.help.quote import quote
from cdrmix.check.names.scope import Scope
from cdrmix.diagnose import Span
from cdrmix.ir import build, walk
from cdrmix.ir.nodes import TOKENS, Node, Training
from cdrmix.ir.ops import OPS
from cdrmix.syntax import ast


def aux(stmt: ast.Aux, scope: Scope, frame: Frame) -> Training:
    """`aux loss = …`: one number, added to the loss."""
    if frame.formal(stmt.name) is not None:
        frame.draft.fail("E0604", stmt.span, f"aux `{stmt.name}` has the name of an argument",
                         f"call it `{stmt.name}_loss`")  # fmt: skip
    r = reading(frame, scope, stmt.name, "training")
    found = _value(stmt.value, r)
    if found.shape:
        frame.draft.fail("E0603", stmt.span, f"aux `{stmt.name}` is not a number but a {names(found.shape)}",
                         "sum over it")  # fmt: skip
    return _written("aux", stmt.name, {}, found, stmt.value, stmt.span, r)


def metric(stmt: ast.Metric, scope: Scope, frame: Frame) -> Training:
    """`metric load[e] = …`: shown, and in the log."""
    target = stmt.target
    if target.primed:
        frame.draft.fail("E0402", target.span, f"`{target.name}'` is no metric's name", "leave the prime out")
    r = reading(frame, scope, target.name, "training")
    indices = left_side(target, r)
    inner = replace(r, indices=indices)
    found = _value(stmt.value, inner)
    check_left(found, target, stmt.value, r)
    return _written("metric", target.name, indices, found, stmt.value, stmt.span, inner)


def after(stmt: ast.AfterStep, scope: Scope, frame: Frame) -> Training:
    """`after step bias'[e] = …`: a buffer's next value."""
    equation = stmt.equation
    target = equation.targets[0]
    buffer = frame.symbols.get(target.name)
    if not isinstance(buffer, Stored) or buffer.kind != "buffer" or not target.primed or len(equation.targets) > 1:
        shown = target.name + "'" * target.primed
        frame.draft.fail("E0602", target.span, f"`after step` writes a buffer's next value, `{shown}` is none",
                         "as `after step bias' = …`, with `buffer bias: […] = 0`")  # fmt: skip
    axes = own_axes(buffer)
    r = reading(frame, scope, target.name + "'", "training")
    indices = left_side(target, r)
    if target.items is not None:
        if len(indices) != len(axes):
            frame.draft.fail("E0313", target.span, f"`{target.name}'` is {names(axes)}, indexed by {len(indices)} here",
                             "index all of its axes")  # fmt: skip
        for var, axis in zip(indices.values(), axes, strict=True):
            r.stand(var, axis, f"{target.name}'", var.span)
    inner = replace(r, indices=indices)
    found = _value(equation.value, inner)
    check_left(found, target, equation.value, r)
    if target.items is None:
        name = ast.Name(target.span, target.name + "'")
        meet(axes, name, found.shape, equation.value, "=", equation.span, r, found.leaves)
    return _written("after", target.name, indices, found, equation.value, stmt.span, inner)


def _value(text: ast.Expr, r: Reading) -> Value:
    found = value(text, r)
    check_number(found, "=", text, r)
    return found


def _written(
    kind: str, name: str, indices: dict[str, IndexVar], found: Value, text: ast.Expr, span: Span, r: Reading
) -> Training:
    finish(r)
    if found.varies:
        r.draft.fail("E0606", text.span, f"`{quote(text)}` changes with the token, and `{name}` is one value a step",
                     "reduce over the tokens: `mean[tokens](…)`")  # fmt: skip
    _check_windows(found, text, r)
    w = Writing(r.draft)
    named = [w.open(v) for v in indices.values()]
    slots = [w.fresh(a) for a in found.shape]
    node = w.emit(found, tuple(build.index(i) for i in slots), text.span)
    _check_sums(node, r)
    return Training(kind, name, (*named, *slots), node, span)  # type: ignore[arg-type]


def _check_sums(value: Node, r: Reading) -> None:
    """What is made of the tokens is sums over them, which add over the parts of a step before anything else."""
    for n in (n for n in walk.nodes(value) if _over_tokens(n)):
        if n.op not in ("sum", "mean"):
            r.draft.fail("E0607", n.span, f"`{OPS[n.op].surface}` over the tokens does not add up over parts of a step",
                         "`sum` and `mean` do: of a power, or of a comparison")  # fmt: skip
        if inner := next((m for m in walk.nodes(n.args[0]) if _over_tokens(m)), None):
            r.draft.fail("E0607", inner.span, "a reduction over the tokens inside another, which needs its end first",
                         "side by side, as `mean[tokens](x^2) - mean[tokens](x)^2` for a variance")  # fmt: skip


def _over_tokens(n: Node) -> bool:
    return any(i.axis == TOKENS for i in walk.bound(n))


def _check_windows(found: Value, text: ast.Expr, r: Reading) -> None:
    """A training value cannot look into a history's window."""
    over = [v for v in r.waiting.indices if v.axis is not None and v.axis.root.window is not None]
    if over or any(a.root.window for a in found.shape):
        r.draft.fail("E0406", text.span, f"`{quote(text)}` runs over the tokens of a history",
                     "reduce over them in an equation of the op, and use its value here")  # fmt: skip
