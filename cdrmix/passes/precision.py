"""Decide the types: of every name (`passes/types.py`), and the form in which each parameter is stored.

Input: a checked model.  Output: the same model with every type decided.  Weights stored narrower than f32 are matrices
whose type the spec left open; vectors, what the spec declares f32 (a router), and what a state begins with stay f32.
With `work` f32, so do all values and sums: a declared f16 or bf16 becomes f32 then, so a target that computes in f32
never narrows a value it need not.  Raises `CompileError` for a number that f32 would make infinite, or zero.
"""

from __future__ import annotations

from dataclasses import replace

from cdrmix.diagnose import Report
from cdrmix.ir import layout, walk
from cdrmix.ir.nodes import Cell, DType, Model, Param, Stored
from cdrmix.passes.types import decide_types

_LEAST, _MOST = 2.0**-149, 3.4028234e38
"""The least positive number and the largest of f32, in which equations are computed."""


def decide_precision(model: Model, work: DType = "f32", weights: Stored = "f32") -> Model:
    """The model with `work` (a float type) as the type of activations, its matrices stored as `weights`."""
    report = Report()
    for cell in model.cells.values():
        _check(cell, report)
    report.raise_if_any()
    cells = {name: _stored(cell, weights) for name, cell in model.cells.items()}
    return decide_types(_tied(replace(model, cells=cells)), work)


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


def _check(cell: Cell, report: Report) -> None:
    """Report every number that f32 does not hold."""
    roots = [root for stmt in cell.body for root in walk.roots(stmt)]
    roots += [s.init for s in cell.states] + [b.init for b in cell.buffers] + [t.value for t in cell.training]
    for n in (n for root in roots for n in walk.nodes(root)):
        if n.op == "const" and isinstance(n.arg, float) and n.arg and not _LEAST <= abs(n.arg) <= _MOST:
            becomes = "infinite" if abs(n.arg) > _MOST else "zero"
            report.error("E0906", n.span, f"{n.arg:g} is {becomes} in f32, in which the model is computed",
                         f"a number other than 0 is from {_LEAST:.1e} to {_MOST:.1e} there")  # fmt: skip
