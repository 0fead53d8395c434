"""Emission of training values: `aux`, `metric`, `after step`.

Input: a cell and the scope at the end of its `forward`.
Output: the lines that keep sums over the tokens of a forward whose caller measures; the bodies of `aux`, `metrics` and
`after_step`, which make their values of sums over all tokens of a step.

Each reduction over tokens is one sum, named by its training value and its place in there.  A `mean[tokens]` is that sum
divided by the number of tokens at the end, so that sums of several forwards can be added first.
"""

from __future__ import annotations

from collections.abc import Mapping

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import TOKENS, Cell, Node, Ref, Training

from . import names as escape
from .casts import full
from .expressions import emit
from .scope import Scope, Symbol, method_names
from .statements import begin, valued
from .value import Value, atom, fit


def keep_sums(cell: Cell, scope: Scope) -> None:
    """What a forward whose caller measures keeps; a gradient flows through the sums of an `aux` alone."""
    summed = [t for t in cell.training if _over_tokens(t)]
    if not summed:
        return
    scope.line("if stream.sums is not None:")
    scope.indent += 1
    for t in summed:
        scope.say(t.span)
        begin(scope, t.indices, [t.value])
        for n, reduction in enumerate(_over_tokens(t)):
            v = emit(_summand(reduction), scope)
            code = atom(full(v, tuple(i for i in scope.order if i in reduction.free), scope))
            kept = code if t.kind == "aux" else f"{code}.detach()"
            scope.line(f"stream.sums[{_key(t, n)}] = {kept}.sum((0, 1))")
    scope.indent -= 1


def _over_tokens(t: Training) -> list[Node]:
    """The reductions over tokens in a training value, each once, from the left; values of params alone have none."""
    return list(dict.fromkeys(n for n in walk.nodes(t.value) if any(i.axis == TOKENS for i in walk.bound(n))))


def _summand(n: Node) -> Node:
    """What is summed over tokens: the body, reduced over the other indices."""
    others = [i for i in n.arg if i.axis != TOKENS]
    return build.reduce(n.op, others, n.args[0], n.span)


def _key(t: Training, n: int) -> str:
    return f"self.at + {escape.text(f'{t.name}.{n}')}"


def values_body(cell: Cell, kind: str, sources: Mapping[str, str]) -> list[str]:
    """The lines of `aux` or `metrics`; none when the cell has none."""
    scope, found = _total_scope(cell, sources), []
    for t in (t for t in cell.training if t.kind == kind):
        name = scope.let(t.name, full(_value(t, scope), t.indices, scope, lead=False))
        found.append(f"self.at + {escape.text(t.name)}: {name}")
    return [*scope.text(), f"return {{{', '.join(found)}}}"] if found else []


def after_body(cell: Cell, sources: Mapping[str, str]) -> list[str]:
    """The lines of `after_step`; every buffer's next value is found before any is moved."""
    scope, moves = _total_scope(cell, sources), []
    for t in (t for t in cell.training if t.kind == "after"):
        v = _value(t, scope)
        name = scope.let(t.name, fit(v, t.indices).code)
        moves.append(f"self.{escape.attribute(t.name)}.{'fill_' if v.type == 'number' else 'copy_'}({name})")
    return [*scope.text(), *moves]


def _value(t: Training, scope: Scope) -> Value:
    """The value of total sums, under its equation."""
    scope.say(t.span)
    places = {n: place for place, n in enumerate(_over_tokens(t))}

    def total(n: Node, scope: Scope) -> Value:
        dims = tuple(i for i in scope.order if i in n.free)
        key = _key(t, places[n])
        return Value(f"sums.mean({key})" if n.op == "mean" else f"sums[{key}]", "float", dims)

    scope.tokens = total
    return valued(scope, t.value, t.indices)


def _total_scope(cell: Cell, sources: Mapping[str, str]) -> Scope:
    scope = Scope(cell, "init", method_names({"sums"}), 'sums["tokens"]', 'sums["tokens"]', "()", "sums")
    scope.mode, scope.sources = "step", dict(sources)
    declared = {("param", p.name): p for p in cell.params} | {("buffer", b.name): b for b in cell.buffers}

    def stored(ref: Ref) -> Symbol | None:
        decl = declared.get((ref.kind, ref.name))
        if decl is None:
            return None
        sizes = tuple(i.axis.size for i in decl.indices)
        return Symbol(f"self.{escape.attribute(ref.name)}", "float", sizes, (True,) * len(sizes), lead=False)

    scope.missing = stored
    return scope
