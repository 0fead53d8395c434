"""The reader kernel's steps.

Input: the setting of a program.
Output: C++ lines of each streamed product: which pages of its matrix the core reads.
"""

from __future__ import annotations

from .moves import portion
from .plan import TILE, Product, Step, Streamed
from .products_text import across, size, tiled_of
from .setting import Setting, identifier, share_name
from .streams import pages_each


def reader_step(setting: Setting, step: Step) -> list[str]:
    """The lines of a step; none unless it streams."""
    if not isinstance(step, Product) or not isinstance(step.right, Streamed):
        return []
    tiled = tiled_of(setting, step)
    tensor = setting.program.tensors[step.right.tensor]
    each = pages_each(tiled, tensor.shape) * tiled.planes
    unit = across(step, tiled) * -(-size(step.k) // TILE) * tiled.planes
    share = share_name(tiled.split)
    own = portion(size(step.lead), tiled.split)[1]
    count = f"{own} * {unit}" if tiled.lead else f"{share}.count > 0 ? {each} : 0"
    if tiled.lead and tiled.split.each == tiled.split.lead:
        count = str(each)
    first = "core" if step.right.instance is None else f"(next_pick(cb_picks) * {tiled.cores} + core)"
    return [f"weights.read({identifier(tensor.name)}_in_dram, {first} * {each}, {count});"]
