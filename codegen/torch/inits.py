"""Emission of where parameters, buffers and states begin.

Input: a cell.
Output: the bodies of `init_weights` and `start`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cdrmix.ir import walk
from cdrmix.ir.nodes import Cell, Index, Param, Ref, State

from . import names as escape
from .scope import Scope, Symbol, method_names
from .statements import valued
from .value import ATOM, Value, fit, within


def init_body(cell: Cell, sources: Mapping[str, str], imports: set[str]) -> list[str]:
    """The lines of `init_weights`."""
    scope = Scope(cell, "init", method_names({"generator", "layer", "layers"}), "self", "self", "()", "self")
    scope.sources = dict(sources)
    for p in cell.params:
        scope.say(p.span)
        _init(p, scope, imports)
    for b in cell.buffers:
        scope.say(b.span)
        _fill(f"self.{escape.attribute(b.name)}", valued(scope, b.init, b.indices), b.indices, scope)
    inits = [*(a for p in cell.params for a in p.init.args), *(b.init for b in cell.buffers)]
    used = {m.arg for a in inits for m in walk.nodes(a) if m.op == "context"}
    first = ["layer, layers = self.depth"] if used & {"layer", "layers"} else []
    return [*first, *scope.text()]


def _init(p: Param, scope: Scope, imports: set[str]) -> None:
    target = f"self.{escape.attribute(p.name)}"
    if p.init.rule == "value":
        _fill(target, valued(scope, p.init.args[0], p.indices), p.indices, scope)
        return
    imports.add(p.init.rule)
    args = [valued(scope, a, ()).code for a in p.init.args]
    if p.init.rule == "orthogonal":
        args.append(str(len(p.indices)))
    scope.line(f"{p.init.rule}({', '.join([target, *args, 'generator'])})")


def _fill(target: str, v: Value, indices: Sequence[Index], scope: Scope) -> None:
    if v.type == "number":
        scope.line(f"{target}.fill_({v.code})")
    else:
        scope.line(f"{target}.copy_({fit(v, indices).code})")


def start_body(cell: Cell) -> list[str]:
    """The lines of `start`; none when the cell has no state."""
    scope = Scope(cell, "step", method_names({"batch", "like"}), "like", "like", "batch, *self.banks", "like")
    params = {p.name: p for p in cell.params}

    def param(ref: Ref) -> Symbol | None:
        p = params.get(ref.name) if ref.kind == "param" else None
        if p is None:
            return None
        sizes = tuple(i.axis.size for i in p.indices)
        return Symbol(f"self.{escape.attribute(p.name)}", "float", sizes, (True,) * len(sizes), lead=True)

    scope.missing = param
    lines = [f"self.at + {escape.text(s.name)}: {_begin(s, scope)}," for s in cell.states]
    for h in cell.histories:
        shape = ", ".join(["batch", "*self.banks", str(h.window.size - 1), *(str(a.size) for a in h.axes)])
        lines.append(f"self.at + {escape.text(h.name)}: like.new_zeros({shape}),")
        count = "like.new_zeros((batch, *self.banks), dtype=torch.int64)"
        lines.append(f"self.at + {escape.text(h.name + '.count')}: {count},")
    return [*scope.text(), "return {", *(f"    {line}" for line in lines), "}"] if lines else []


def _begin(s: State, scope: Scope) -> str:
    shape = ", ".join(["batch", "*self.banks", *(str(i.axis.size) for i in s.indices)])
    v = valued(scope, s.init, s.indices)
    if v.type == "number":
        return f"like.new_zeros({shape})" if v.const == 0 else f"like.new_full(({shape}), {v.code})"
    code = within(fit(v, s.indices), ATOM)
    cast = "" if v.type == "float" else ".to(like.dtype)"
    return f"{code}{cast}.expand({shape})"
