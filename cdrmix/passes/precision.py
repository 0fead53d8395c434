"""Decide the working type: `work` becomes a concrete float everywhere.

Input: a checked model.  Output: the same model with no `work` left but in literals.  A declared f16 or bf16 becomes the
working type where that is wider, so a target that computes in f32 never narrows a value it need not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cdrmix.ir import walk
from cdrmix.ir.nodes import Cell, DType, Model, Node

_WIDTH: dict[str, int] = {"f16": 1, "bf16": 1, "f32": 2}


def decide_precision(model: Model, work: DType = "f32") -> Model:
    """The model with `work` (a float type) written in."""
    return replace(model, cells={name: _cell(cell, work) for name, cell in model.cells.items()})


def _dtype(dtype: DType, work: DType) -> DType:
    if dtype == "work":
        return work
    if dtype in _WIDTH and _WIDTH[work] > _WIDTH[dtype]:
        return work
    return dtype


def _cell(cell: Cell, work: DType) -> Cell:
    def node(n: Node) -> Node:
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
