"""The compute kernel's steps.

Input: the setting of a program.
Output: C++ lines of the steps that compute anything, each with the mode of the unpacker that it wants.
"""

from __future__ import annotations

from math import prod

from .fillings import fillings
from .moves import portion
from .plan import TILE, Map, Product, Program, Step, Streamed
from .products_text import Parts, across, size, tiled_of
from .registers import evaluate
from .rows_text import array_rows_compute, streamed_rows_compute
from .setting import Setting, is_spread, share_name


def mode(program: Program, step: Step) -> str | None:
    """The call that sets the unpacker up for a step; empty if it does so itself, None for what computes nothing."""
    match step:
        case Map():
            return "to_elementwise(cb_in);" if step.loads else ""
        case Product() if is_spread(program, step):
            return ""
        case Product(right=Streamed()):
            return "to_product(cb_rows, cb_weights, 0);"
        case Product():
            return f"to_product(cb_left, cb_right, {int(step.transposed)});"
        case _:
            return None


def compute_step(setting: Setting, step: Step) -> list[str]:
    """The lines of a step that computes something."""
    match step:
        case Map():
            return _map(setting, step)
        case Product(right=right) if is_spread(setting.program, step):
            return (streamed_rows_compute if isinstance(right, Streamed) else array_rows_compute)(setting, step)
        case Product(right=Streamed()):
            return _streamed(setting, step)
        case Product():
            return _product(setting, step)
    return []


def _map(setting: Setting, step: Map) -> list[str]:
    out = setting.program.arrays[step.out]
    if out.layout == "tiles":
        lead, rows, columns = step.indices[:-2], step.indices[-2], step.indices[-1]
        tiles = -(-rows.axis.size // TILE) * -(-columns.axis.size // TILE)
        count = times(portion(prod(i.axis.size for i in lead), out.split)[1], tiles)
    else:
        elements = portion(prod(i.axis.size for i in step.indices), out.split)[1]
        count = str(-(-int(elements) // TILE**2)) if elements.isdigit() else f"tiles_of({elements})"
    calls, result = evaluate(step.value, fillings(setting.program, step))
    if step.loads:
        body = [
            "begin_tile(cb_in, operand_slots);",
            *calls,
            f"end_tile(cb_in, operand_slots, {result}, cb_out);",
        ]
    else:
        body = ["tile_regs_acquire();", *calls, f"pack_result({result}, cb_out);"]
    return loop("tile", count, body)


def _streamed(setting: Setting, step: Product) -> list[str]:
    tiled = tiled_of(setting, step)
    tiles, k = across(step, tiled), -(-size(step.k) // TILE)
    blocks = tiles > tiled.block
    width = str(min(tiled.block, tiles))
    if blocks and tiles % tiled.block:
        width = f"smaller({tiled.block}, {tiles} - block)"
    body = [f"multiply_streamed(cb_rows, cb_weights, cb_out, {k}, {width}, {tiled.planes});"]
    if blocks:
        body = [f"for (uint32_t block = 0; block < {tiles}; block += {tiled.block}) {{", f"    {body[0]}", "}"]
    share = share_name(tiled.split)
    if tiled.lead:
        return loop("unit", portion(size(step.lead), tiled.split)[1], body)
    return [f"if ({share}.count > 0) {{", *(f"    {line}" for line in body), "}"]


def _product(setting: Setting, step: Product) -> list[str]:
    assert not isinstance(step.right, Streamed)
    parts = Parts(step, setting.program.arrays[step.outs[0]].split)
    k = -(-size(step.k) // TILE)
    counts = [parts.lead[1], _tiles(parts.rows[1]), _tiles(parts.columns[1])]
    fixed = prod(int(c) for c in counts if c.isdigit())
    loose = [c for c in counts if not c.isdigit()]
    count = " * ".join([*loose, *([str(fixed)] if fixed > 1 or not loose else [])])
    call = f"multiply_planes(cb_left, cb_right, cb_out, {k}, {len(step.left)}, {len(step.right)}, plane_slots);"
    return loop("tile", count, [call])


def _tiles(count: str) -> str:
    """Tiles that hold so many rows or columns."""
    return str(-(-int(count) // TILE)) if count.isdigit() else f"(({count} + TILE_SIDE - 1) / TILE_SIDE)"


def times(count: str, factor: int) -> str:
    """A product as text."""
    if count.isdigit():
        return str(int(count) * factor)
    return count if factor == 1 else f"{count} * {factor}"


def loop(name: str, count: str, body: list[str]) -> list[str]:
    """So many times; plainly where it is once."""
    if count == "1":
        return body
    return [f"for (uint32_t {name} = 0; {name} < {count}; ++{name}) {{", *(f"    {line}" for line in body), "}"]
