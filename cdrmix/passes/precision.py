"""Decide the types: of every name (`passes/types.py`).

Input: a checked model.  Output: the same model with every type decided.  With `work` f32, every value and sum is f32: a
declared f16 or bf16 becomes f32 then, so a target that computes in f32 never narrows a value it need not.  Raises
`CompileError` for a number that f32 would make infinite, or zero.
"""

from __future__ import annotations

from cdrmix.diagnose import Report
from cdrmix.ir import walk
from cdrmix.ir.nodes import Cell, DType, Model
from cdrmix.passes.types import decide_types

_LEAST, _MOST = 2.0**-149, 3.4028234e38
"""The least positive number and the largest of f32, in which equations are computed."""


def decide_precision(model: Model, work: DType = "f32") -> Model:
    """The model with `work` (a float type) as the type of activations."""
    report = Report()
    for cell in model.cells.values():
        _check(cell, report)
    report.raise_if_any()
    return decide_types(model, work)


def _check(cell: Cell, report: Report) -> None:
    """Report every number that f32 does not hold."""
    for n in walk.nodes((cell.body, cell.states, cell.buffers, cell.training)):
        if n.op == "const" and isinstance(n.arg, float) and n.arg and not _LEAST <= abs(n.arg) <= _MOST:
            becomes = "infinite" if abs(n.arg) > _MOST else "zero"
            report.error("E0906", n.span, f"{n.arg:g} is {becomes} in f32, in which the model is computed",
                         f"a number other than 0 is from {_LEAST:.1e} to {_MOST:.1e} there")  # fmt: skip
