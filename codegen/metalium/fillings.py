"""How the operands of an elementwise step fill their tiles.

Input: a `Map`.
Output: for each load, `whole`, or `row` or `column` where a matrix in tiles meets a vector.
"""

from __future__ import annotations

from .plan import Load, Map, Program
from .registers import Filling


def fillings(program: Program, step: Map) -> tuple[Filling, ...]:
    """See the module.  A flat result takes its operands element for element."""
    if program.arrays[step.out].layout == "flat":
        return tuple("whole" for _ in step.loads)
    row, column = step.indices[-2:]
    return tuple(filling(load, row, column) for load in step.loads)


def filling(load: Load, row: object, column: object) -> Filling:
    """A load without the row's index is a row that all rows share; without the column's, a column."""
    free = {i for n in (*load.at, *([load.when] if load.when is not None else [])) for i in n.free}
    if row not in free:
        return "row"
    return "whole" if column in free else "column"
