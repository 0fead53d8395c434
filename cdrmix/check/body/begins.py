"""Init rules that give what is no number: `~ 1/i` is infinite at its first place.

Input: an expanded model.  Output: mistakes (E0215) for params and buffers, once a declaration.

Every place of a small tensor is looked at, the first and the last ones of a large one; what compiles is looked at in
full where its weights are drawn (`ir.initial`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cdrmix.diagnose import Report
from cdrmix.ir import build, layout, walk
from cdrmix.ir.interp_expr import Frame, expression
from cdrmix.ir.nodes import Axis, Buffer, Index, Model, Node, Param

MOST_PLACES = 1 << 16
"""Places of one tensor that are looked at."""

MOST_LAYERS = 16
"""Layers for which one rule is looked at."""

LARGEST = float(np.finfo(np.float32).max)

Layer = tuple[int, int]


def check_begins(model: Model, report: Report) -> None:
    """Report init rules with a value that is not finite in f32."""
    layers: dict[str, dict[Layer, None]] = {}
    for place in layout.places(model):
        layers.setdefault(place.cell.name, {})[place.instance.layer, place.instance.layers] = None
    for name, seen in layers.items():
        some = [*list(seen)[: MOST_LAYERS - 1], list(seen)[-1]]
        cell = model.cells[name]
        decls: tuple[Param | Buffer, ...] = (*cell.params, *cell.buffers)
        for decl in decls:
            found = next((said for n in _rules(decl) if (said := _not_finite(n, some))), None)
            if found is not None:
                report.error("E0215", decl.span, f"`{decl.name}` of op `{cell.op}` begins with {found}",
                             "mend its init rule, or the sizes that it is made of")  # fmt: skip


def _rules(decl: Param | Buffer) -> tuple[Node, ...]:
    return decl.init.args if isinstance(decl, Param) else (decl.init,)


def _not_finite(n: Node, layers: Sequence[Layer]) -> str | None:
    """A value of a rule that is not finite, and where; None when there is none."""
    inner = 1
    for i in (i for m in walk.nodes(n) for i in walk.bound(m)):
        inner *= i.axis.size
    if n.op == "const" or inner > MOST_PLACES:
        return None
    most = max(2, int((MOST_PLACES / inner) ** (1 / max(1, len(n.free)))))
    places = {i: Index(i.name, Axis(i.axis.name, min(most, i.axis.size))) for i in n.free}
    moved = {i: _ends(p, i.axis.size) for i, p in places.items()}
    compute = expression(walk.substitute(n, moved), order=tuple(places.values()))
    placed = any(m.op == "context" for m in walk.nodes(n))
    for layer, count in layers if placed else layers[:1]:
        with np.errstate(all="ignore"):
            found = np.asarray(compute(Frame({}, {"layer": layer, "layers": count})), np.float64)
        wrong = ~(np.abs(found) <= LARGEST)
        if wrong.any():
            at = np.unravel_index(int(np.argmax(wrong)), found.shape)
            where = [f"{i.name} = {_place(int(p), most, i.axis.size)}" for i, p in zip(n.free, at, strict=True)]
            where += [f"layer = {layer}"] if placed else []
            return f"{found[at]:g}" + (f" at {', '.join(where)}" if where else "")
    return None


def _ends(i: Index, size: int) -> Node:
    """The place that an index over the first and last places of an axis of `size` means."""
    if i.axis.size == size:
        return build.index(i)
    first = build.node("lt", build.index(i), build.const(i.axis.size // 2))
    return build.add(build.index(i), build.select(first, build.const(0), build.const(size - i.axis.size)))


def _place(at: int, most: int, size: int) -> int:
    return at if size <= most or at < most // 2 else at + size - most
