"""Emission of training values: `aux`, `metric`, `after step`.

Input: a cell and the scope at the end of its `forward`.
Output: lines that log losses and sums over tokens; the bodies of `metrics` and `after_step`, which read total sums.

A `mean[tokens]` is a sum over tokens divided by their number, so that sums of several forwards can be added first.
"""

from __future__ import annotations

from dataclasses import replace

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import TOKENS, Cell, Node, Ref, Training
from cdrmix.ir.walk import Windows

from . import names as escape
from .casts import full, to_float
from .expressions import emit
from .scope import Scope, Symbol, method_names
from .statements import valued
from .value import ATOM, MUL, Value, atom, fit, within


def log_values(cell: Cell, scope: Scope) -> None:
    """What a forward in training mode leaves."""
    logged = [t for t in cell.training if t.kind == "aux" or _over_all(t)]
    if not logged:
        return
    scope.line("if stream.log is not None:")
    scope.indent += 1
    for t in logged:
        scope.say(t.span)
        if t.kind == "aux":
            scope.tokens = _over_tokens
            code = full(valued(scope, t.value, t.indices), t.indices, scope, lead=False)
            scope.line(f"stream.log.aux[self.at + {escape.text(t.name)}] = {code}")
        else:
            scope.tokens = _Leaves(t).log
            valued(scope, t.value, t.indices)
    scope.indent -= 1


def _over_all(t: Training) -> bool:
    """Whether a value needs anything of the tokens; one of buffers and params alone does not."""
    return any(i.axis == TOKENS for n in walk.nodes(t.value) for i in walk.bound(n))


def _over_tokens(n: Node, scope: Scope) -> Value:
    """A reduction over the tokens of this forward."""
    v = emit(_leaf(n), scope)
    if v.type != "float":
        v = to_float(v, scope)
    if v.lead:
        return Value(f"{within(v, ATOM)}.{n.op}((0, 1))", "float", v.dims)
    if n.op == "mean":
        return v
    count = f"{scope.first}.shape[0] * {scope.first}.shape[1]"
    return replace(v, code=f"{within(v, MUL)} * ({count})", level=MUL, const=None)


def _leaf(n: Node) -> Node:
    """What is reduced over tokens: the body, reduced over the other indices."""
    others = [i for i in n.arg if i.axis != TOKENS]
    return build.reduce(n.op, others, n.args[0], n.span)


class _Leaves:
    """The reductions over tokens of one training value, numbered in the order they are met."""

    def __init__(self, t: Training):
        self.t = t
        self.count = 0

    def _key(self) -> str:
        self.count += 1
        return f"self.at + {escape.text(f'{self.t.name}.{self.count - 1}')}"

    def log(self, n: Node, scope: Scope) -> Value:
        """Log the sum over this forward's tokens."""
        v = emit(_leaf(n), scope)
        dims = tuple(i for i in scope.order if i in n.free)
        code = full(v, dims, scope)
        scope.line(f"stream.log.sums[{self._key()}] = {atom(code)}.detach().sum((0, 1))")
        return Value("0.0", "float", dims)

    def read(self, n: Node, scope: Scope) -> Value:
        """Read the total."""
        dims = tuple(i for i in scope.order if i in n.free)
        code = f"sums[{self._key()}]"
        if n.op == "mean":
            return Value(f'{code} / sums["tokens"]', "float", dims, level=MUL)
        return Value(code, "float", dims)


def _total_scope(cell: Cell, windows: Windows) -> Scope:
    scope = Scope(cell, "init", method_names({"sums"}), 'sums["tokens"]', 'sums["tokens"]', "()", "sums", windows)
    scope.mode = "step"
    declared = {("param", p.name): p for p in cell.params} | {("buffer", b.name): b for b in cell.buffers}

    def stored(ref: Ref) -> Symbol | None:
        decl = declared.get((ref.kind, ref.name))
        if decl is None:
            return None
        sizes = tuple(i.axis.size for i in decl.indices)
        return Symbol(f"self.{escape.attribute(ref.name)}", "float", sizes, (True,) * len(sizes), lead=False)

    scope.missing = stored
    return scope


def metrics_body(cell: Cell) -> list[str]:
    """The lines of `metrics`; none when the cell has none."""
    scope, found = _total_scope(cell, {}), []
    for t in (t for t in cell.training if t.kind == "metric"):
        scope.tokens = _Leaves(t).read
        v = valued(scope, t.value, t.indices)
        found.append(f"self.at + {escape.text(t.name)}: {full(v, t.indices, scope, lead=False)},")
    return [*scope.text(), "return {", *(f"    {line}" for line in found), "}"] if found else []


def after_body(cell: Cell) -> list[str]:
    """The lines of `after_step`; every buffer's next value is found before any is moved."""
    scope, moves = _total_scope(cell, {}), []
    for t in (t for t in cell.training if t.kind == "after"):
        scope.tokens = _Leaves(t).read
        v = valued(scope, t.value, t.indices)
        name = scope.let(t.name, fit(v, t.indices).code)
        moves.append(f"self.{escape.attribute(t.name)}.{'fill_' if v.type == 'number' else 'copy_'}({name})")
    return [*scope.text(), *moves]
