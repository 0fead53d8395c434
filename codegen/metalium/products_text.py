"""Products in the writer: planes of the left factor as rows of a tile, factors as tiles, results back into arrays.

Input: a `Product`.
Output: C++ lines.  The order of the tiles is the compute kernel's: see `compute_text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from cdrmix.ir.nodes import Index

from .moves import Block, portion
from .plan import TILE, Load, Product, Split, Streamed, Tiled
from .setting import Setting, share_name
from .streams import column_tiles
from .tiled_text import (
    Axis,
    as_it_lies,
    axis_of,
    lead_of,
    open_axis,
    open_lead,
    page,
    row_start,
    take_column,
    take_row,
    tile_map_place,
    total,
)


def tiled_of(setting: Setting, step: Product) -> Tiled:
    """The order of a streamed product's matrix."""
    assert isinstance(step.right, Streamed)
    found = setting.program.tensors[step.right.tensor].tiled
    assert found is not None
    return found


def across(step: Product, tiled: Tiled) -> int:
    """Column tiles of a core's part of a streamed matrix."""
    columns = size(step.columns)
    return -(-columns // TILE) if tiled.lead else column_tiles(columns, tiled.split)


def size(indices: Sequence[Index]) -> int:
    """How many values indices take together."""
    return prod(i.axis.size for i in indices)


def streamed_product(step: Product, block: Block) -> None:
    """[k] x a streamed matrix, block by block of its columns."""
    tiled = tiled_of(block.setting, step)
    tiles, k = across(step, tiled), axis_of(step.k, "k")
    columns = size(step.columns)
    share = share_name(tiled.split)
    if tiled.lead:
        opened = open_lead(block, step.lead, portion(size(step.lead), tiled.split))
        first, own = lead_of(step.lead, "unit", columns), str(columns)
    else:
        start, own = portion(columns, tiled.split)
        block.open(f"if ({share}.count > 0)")
        opened, first = 1, [start]
    blocks = tiles > tiled.block
    if blocks:
        block.open(f"for (uint32_t block = 0; block < {tiles}; block += {tiled.block})")
    inner = open_axis(block, k)
    if not inner:
        block.open("")
    block.put("const uint32_t rows = reserve_pages(cb_rows, 1);")
    starts = [*lead_of(step.lead, "unit", k.size), k.start]
    take_row(block, "rows", "PLAIN_ROW", step.left[0], (step.lead, k, None), starts, k.inside)
    block.put("push_pages(cb_rows, 1);")
    block.close()
    end = f"smaller(block + {tiled.block}, {tiles})" if tiles % tiled.block else f"block + {tiled.block}"
    if tiles > 1:
        block.open(f"for (uint32_t tile = {'block' if blocks else 0}; tile < {end if blocks else tiles}; ++tile)")
    else:
        block.open("")
    block.put("const uint32_t result = wait_page(cb_out);")
    column = "tile * TILE_SIDE" if tiles > 1 else "0"
    count = f"in_tile({own}, {column})" if tiles > 1 else own
    block.put(f"give_row({block.array(step.outs[0])}.at({total([*first, column])}), result, PLAIN_ROW, {count});")
    block.put("pop_page(cb_out);")
    block.close(1 + blocks + opened)


class Parts:
    """Which matrices, rows and columns of a product of arrays a core has."""

    def __init__(self, step: Product, split: Split | None):
        lead, rows, columns = size(step.lead), size(step.rows), size(step.columns)
        self.lead, self.rows, self.columns = ("0", str(lead)), ("0", str(rows)), ("0", str(columns))
        self.even = True  # the parts begin where tiles do
        if split is None:
            return
        unit = lead * rows * columns // split.lead
        if unit % (rows * columns) == 0:
            self.lead = portion(lead, split)
        elif lead == 1 and unit % columns == 0:
            self.rows = portion(rows, split)
            self.even = unit // columns * split.each % TILE == 0
        elif lead == rows == 1:
            self.columns = portion(columns, split)
            self.even = unit * split.each % TILE == 0
        else:
            raise ValueError(f"{step.outs[0]} is dealt out in the middle of its rows")


def right_tiles(step: Product, block: Block, columns: tuple[Axis, str], k: Axis, even: bool) -> None:
    """A k tile of the right factor's planes."""
    assert not isinstance(step.right, Streamed)
    for plane, load in enumerate(step.right):
        at = page(plane, "right")
        if step.transposed:
            tile_of(block, at, load, step.lead, columns, (k, k.inside), even)
        else:
            tile_of(block, at, load, step.lead, (k, k.inside), columns, even, k.size % TILE != 0)


def product_of_arrays(step: Product, block: Block) -> None:
    """Tile by tile of the result, the planes of both factors k tile by k tile."""
    assert not isinstance(step.right, Streamed)
    out = block.setting.program.arrays[step.outs[0]]
    parts = Parts(step, out.split)
    k = axis_of(step.k, "k")
    opened = open_lead(block, step.lead, parts.lead)
    rows, height, more = part_of(block, step.rows, "row", parts.rows)
    columns, width, last = part_of(block, step.columns, "column", parts.columns)
    opened += more + last
    if not opened:
        block.open("")
    inner = open_axis(block, k)
    if not inner:
        block.open("")
    block.put("const uint32_t left = reserve_pages(cb_left, plane_slots);")
    block.put("const uint32_t right = reserve_pages(cb_right, plane_slots);")
    for plane, load in enumerate(step.left):
        tile_of(block, page(plane, "left"), load, step.lead, (rows, height), (k, k.inside), parts.even)
    right_tiles(step, block, (columns, width), k, parts.even)
    block.put("push_pages(cb_left, plane_slots);", "push_pages(cb_right, plane_slots);")
    block.close()
    block.put("const uint32_t result = wait_page(cb_out);")
    if out.layout == "tiles":
        place = tile_map_place(step.lead, "unit", rows, columns)
        block.put(f"give_tile({block.array(out.name)}.at({place}), result, {height}, {width});")
    else:
        starts = lead_of(step.lead, "unit", rows.size * columns.size)
        if rows.size > 1:
            block.open(f"for (uint32_t r = 0; r < {height}; ++r)")
            starts.append(row_start(rows, columns))
        place = total([*starts, columns.start])
        block.put(f"give_row({block.array(out.name)}.at({place}), result, {'r' if rows.size > 1 else 0}, {width});")
        block.close(int(rows.size > 1))
    block.put("pop_page(cb_out);")
    block.close(max(opened, 1))


def part_of(block: Block, indices: Sequence[Index], name: str, part: tuple[str, str]) -> tuple[Axis, str, int]:
    """The rows or columns of a core, gone through tile by tile; how many lie in a tile; the braces opened."""
    first, count = part
    if first == "0":
        axis = axis_of(indices, name)
        return axis, axis.inside, open_axis(block, axis)
    block.open(
        f"for (uint32_t {name} = {first}, end_{name} = {name} + {count}; {name} < end_{name}; {name} += TILE_SIDE)"
    )
    return Axis(tuple(indices), name), f"smaller(TILE_SIDE, end_{name} - {name})", 1


def tile_of(
    block: Block, tile: str, load: Load, lead: Sequence[Index], down: tuple[Axis, str], across: tuple[Axis, str],
    even: bool, zeros: bool | None = None,
) -> None:  # fmt: skip
    """A tile of a factor, [rows, columns], both with how many of them there are in this tile.

    `zeros` is for a right factor: whether rows are left over, to be zero.
    """
    (rows, height), (columns, width) = down, across
    if even and as_it_lies(block, load, lead, rows, columns):
        place = tile_map_place(lead, "unit", rows, columns)
        block.put(f"copy_words({tile}, {block.array(load.array)}.at({place}), TILE_ELEMENTS);")
        return
    if columns.size == 1 and zeros is not None:
        starts = [*lead_of(lead, "unit", rows.size), rows.start]
        take_column(block, tile, load, (*lead, *rows.indices), starts, height)
        return
    starts = lead_of(lead, "unit", rows.size * columns.size)
    if rows.size > 1:
        block.open(f"for (uint32_t r = 0; r < {height}; ++r)")
        starts.append(row_start(rows, columns))
    row = "r" if rows.size > 1 else "0"
    take_row(block, tile, row, load, (lead, rows, columns), [*starts, columns.start], width)
    block.close(int(rows.size > 1))
    if zeros:
        block.open(f"for (uint32_t r = {height}; r < TILE_SIDE; ++r)")
        block.put(f"zero_row({tile}, r);")
        block.close()
