"""Decide the types: `work` becomes a concrete float everywhere, and each parameter gets the form it is stored in.

Input: a checked model.  Output: the same model with no `work` left but in literals.  Weights narrower than f32 are
matrices whose type the spec left open; vectors, what the spec declares f32 (a router), and what a state begins with
stay f32, and so do all values and sums.  A declared f16 or bf16 becomes the
working type where that is wider, so a target that computes in f32 never narrows a value it need not.  Raises
`CompileError` for a number that the working type would make infinite, or zero.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cdrmix.diagnose import Report
from cdrmix.ir import layout, walk
from cdrmix.ir.nodes import Cell, DType, Model, Node, Param, Stored

_WIDTH: dict[str, int] = {"f16": 1, "bf16": 1, "f32": 2}
_RANGE: dict[str, tuple[float, float]] = {
    "f32": (2.0**-149, 3.4028234e38),
    "bf16": (2.0**-133, 3.3895e38),
    "f16": (2.0**-24, 65504.0),
}
"""The least positive number and the largest of each type."""


def decide_precision(model: Model, work: DType = "f32", weights: Stored = "f32") -> Model:
    """The model with `work` (a float type) written in, and `weights` as the type its matrices are stored in."""
    report = Report()
    cells = {name: _cell(_stored(cell, weights), work, report) for name, cell in model.cells.items()}
    decided = _tied(replace(model, cells=cells))
    report.raise_if_any()
    return decided


def _stored(cell: Cell, weights: Stored) -> Cell:
    starts = {m.arg.ref.name for state in cell.states for m in walk.reads(state.init)}

    def narrow(p: Param) -> bool:
        return p.dtype == "work" and len(p.indices) > 1 and p.name not in starts

    return replace(cell, params=tuple(replace(p, stored=weights) if narrow(p) else p for p in cell.params))


def _tied(model: Model) -> Model:
    """Tensors of one storage are stored in one type: f32 where any of them has to be."""
    while True:
        params = [w for w in layout.weights(model) if isinstance(w.decl, Param)]
        wide = {w.owner for w in params if isinstance(w.decl, Param) and w.decl.stored == "f32"}
        f32 = {(w.place.cell.name, w.decl.name) for w in params if w.owner in wide}
        cells = {
            name: replace(c, params=tuple(replace(p, stored="f32") if (name, p.name) in f32 else p for p in c.params))
            for name, c in model.cells.items()
        }
        if cells == dict(model.cells):
            return model
        model = replace(model, cells=cells)  # a cell stands at several places, each with ties of its own


def _dtype(dtype: DType, work: DType) -> DType:
    if dtype == "work":
        return work
    if dtype in _WIDTH and _WIDTH[work] > _WIDTH[dtype]:
        return work
    return dtype


def _check(n: Node, work: DType, report: Report) -> None:
    """Report a number that the working type does not hold."""
    least, most = _RANGE[work]
    if n.arg and not least <= abs(n.arg) <= most:
        becomes = "infinite" if abs(n.arg) > most else "zero"
        report.error("E0906", n.span, f"{n.arg:g} is {becomes} in {work}, in which the model is computed",
                     f"a number other than 0 is from {least:.1e} to {most:.1e} there")  # fmt: skip


def _cell(cell: Cell, work: DType, report: Report) -> Cell:
    def node(n: Node) -> Node:
        if n.op == "const" and isinstance(n.arg, float):
            _check(n, work, report)
        # only what is read has a type of its own; the rest follow, and numbers adapt to what they meet
        return replace(n, dtype=_dtype(n.dtype, work)) if n.op == "read" else n

    def decide(x: Any) -> Any:
        """Any record of the IR: its own dtype, and those of the expressions it holds."""
        changes: dict[str, Any] = {}
        for name in x.__dataclass_fields__:
            value = getattr(x, name)
            if isinstance(value, Node):
                changes[name] = walk.transform(value, node)
            elif name == "dtype":
                changes[name] = _dtype(value, work)
        return replace(x, **changes)

    groups = ("inputs", "body", "params", "states", "histories", "carries", "buffers", "training")
    decided: dict[str, Any] = {group: tuple(decide(x) for x in getattr(cell, group)) for group in groups}
    return replace(cell, **decided)
