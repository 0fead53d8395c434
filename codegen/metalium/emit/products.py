"""Products in the writer: planes of the left factor as rows of a tile, factors as tiles, results back into arrays.

Input: a `Product`.
Output: C++ lines.  The order of the tiles is the compute kernel's: see `compute`.

A left factor of one row in two planes is *spread* over the rows of a tile (runtime `rows.h` says why).  Its results
come back row by row into pages of cb_in, whose sum the compute kernel makes: a *group* is as many results as one such
tile holds.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from math import prod

from cdrmix.ir import walk
from cdrmix.ir.steps import Product

from ..deal.streams import column_tiles
from ..plan import TILE, Split, Tiled
from .amounts import ZERO, Amount, portion, tiles_of, total
from .block import Block
from .buffers import Setting, by_rows, is_spread
from .matrices import (
    Side,
    copy_tile,
    each,
    lead_of,
    page,
    row_start,
    side_of,
    take_column,
    take_row,
    take_rows,
    tile_place,
)
from .names import share_name

ELEMENTS = TILE * TILE


@dataclass(frozen=True, slots=True)
class Streaming:
    """How a streamed matrix is gone through: a core's column tiles, in groups of `many` and in blocks where there are
    several.  `first` and `end` are of a group's tiles, or of all."""

    tiled: Tiled
    tiles: int
    many: int
    first: str
    end: str
    group: str | None
    block: str | None


def streaming(setting: Setting, step: Product) -> Streaming:
    """How a streamed product's matrix is gone through.  A group is of whole blocks."""
    assert step.streamed is not None
    tiled, columns = setting.program.tensors[step.streamed].tiled, walk.size(step.columns)
    assert tiled is not None
    tiles = tiles_of(columns) if tiled.lead else column_tiles(columns, tiled.split)
    many = TILE // tiled.block * tiled.block
    groups = is_spread(setting.program, step) and tiles > many
    first, end = ("group", f"smaller(group + {many}, {tiles})") if groups else ("0", str(tiles))
    group = f"for (uint32_t group = 0; group < {tiles}; group += {many})"
    block = f"for (uint32_t block = {first}; block < {end}; block += {tiled.block})"
    return Streaming(tiled, tiles, many, first, end, group if groups else None, block if tiles > tiled.block else None)


# --- a streamed matrix -----------------------------------------------------------------------------------------------
def streamed_product(step: Product, block: Block) -> None:
    """[k] x a streamed matrix, block by block of its columns."""
    by, spread = streaming(block.setting, step), is_spread(block.setting.program, step)
    tiled, tiles, k, columns = by.tiled, by.tiles, side_of(step.k, "k"), walk.size(step.columns)
    begin, end, groups = by.first, by.end, by.group is not None
    if by.block is not None:
        even = not spread and tiles % tiled.block == 0
        begin, end = "block", f"block + {tiled.block}" if even else f"smaller(block + {tiled.block}, {tiles})"
    if tiled.lead:
        units = each("unit", *portion(walk.size(step.lead), tiled.split))
        first, own = lead_of(step.lead, columns), Amount(columns)
    else:
        units = f"if ({share_name(tiled.split)}.count > 0)"
        first, own = portion(columns, tiled.split)
    column = Amount(None, "tile * TILE_SIDE") if tiles > 1 else ZERO
    count = f"in_tile({own}, {column})" if tiles > 1 else own
    row = f"{block.array(step.outs[-1])}.at({total(first, column)})"
    with block.nested(units), block.scope(by.group) if spread else nullcontext():
        if spread:
            block.put("const uint32_t parts = reserve_pages(cb_in, operand_slots);")
        with block.nested(by.block):
            with block.nested(k.loop or ""):
                _left_rows(step, block, k, spread)
            with block.nested(f"for (uint32_t tile = {begin}; tile < {end}; ++tile)" if tiles > 1 else ""):
                block.put("const uint32_t result = wait_page(cb_out);")
                if spread:
                    place = "(tile - group) * TILE_SIDE" if groups else column
                    block.call("collect_rows", "parts", place, "result", "LANES", count)
                block.call("give_row", row, "result", "LOST_ROW" if spread else "PLAIN_ROW", count)
                block.put("pop_page(cb_out);")
        if spread:
            many = f"from_on({own}, group * TILE_SIDE, {by.many * TILE})" if groups else own
            place = total(first, Amount(None, "group * TILE_SIDE") if groups else ZERO)
            _sum(block, f"{block.array(step.outs[0])}.at({place})", many)


def _left_rows(step: Product, block: Block, k: Side, spread: bool) -> None:
    """A k tile of the left factor: its plane, or both."""
    block.put("const uint32_t rows = reserve_pages(cb_rows, 1);")
    for load, row in zip(step.left, ("PLAIN_ROW", "LOST_ROW")[: 1 + spread], strict=spread):
        take_row(block, "rows", block.use(row), load, step.lead, k)
    if spread:
        block.call("spread_row", "rows")
    block.put("push_pages(cb_rows, 1);")


def _sum(block: Block, out: str, count: Amount | str) -> None:
    """The group's pages to the compute kernel, their sum into the result."""
    block.put("push_pages(cb_in, operand_slots);")
    block.put(f"copy_words({out}, wait_page(cb_out), {count});", "pop_page(cb_out);")


# --- arrays ----------------------------------------------------------------------------------------------------------
def parts_of(step: Product, split: Split | None) -> tuple[list[tuple[Amount, Amount]], bool]:
    """A core's part of the matrices, rows and columns of a product of arrays, one of which is dealt out; and whether
    the parts begin where tiles do."""
    sizes = [walk.size(step.lead), walk.size(step.rows), walk.size(step.columns)]
    parts = [(ZERO, Amount(size)) for size in sizes]
    if split is None:
        return parts, True
    unit = prod(sizes) // split.lead
    for dealt in range(3):
        inner = prod(sizes[dealt + 1 :])
        if prod(sizes[:dealt]) == 1 and unit % inner == 0:
            parts[dealt] = portion(sizes[dealt], split)
            return parts, dealt == 0 or unit // inner * split.each % TILE == 0
    raise ValueError(f"{step.outs[0]} is dealt out in the middle of its rows")


def product_of_arrays(step: Product, block: Block) -> None:
    """Tile by tile of the result, the planes of both factors k tile by k tile."""
    out = block.setting.program.arrays[step.outs[0]]
    (lead, down, over), even = parts_of(step, out.split)
    rows, columns, k = side_of(step.rows, "row", down), side_of(step.columns, "column", over), side_of(step.k, "k")
    with block.nested(each("unit", *lead)), block.nested(rows.loop), block.scope(columns.loop):
        with block.nested(k.loop or ""):
            block.put("const uint32_t left = reserve_pages(cb_left, plane_slots);")
            block.put("const uint32_t right = reserve_pages(cb_right, plane_slots);")
            for plane, load in enumerate(step.left):
                tile = page(block, plane, "left")
                if not (even and copy_tile(block, tile, load, step.lead, rows, k)):
                    take_rows(block, tile, load, step.lead, rows, k)
            right_tiles(step, block, columns, k, even)
            block.put("push_pages(cb_left, plane_slots);", "push_pages(cb_right, plane_slots);")
        block.put("const uint32_t result = wait_page(cb_out);")
        name = block.array(out.name)
        if out.layout == "tiles":
            place = tile_place(step.lead, rows, columns)
            block.call("give_tile", f"{name}.at({place})", "result", rows.inside, columns.inside)
        else:
            row, start = ("r", row_start(rows, columns)) if rows.size > 1 else ("0", ZERO)
            place = total(lead_of(step.lead, rows.size * columns.size), start, columns.start)
            with block.nested(each("r", ZERO, rows.inside) if rows.size > 1 else None):
                block.call("give_row", f"{name}.at({place})", "result", row, columns.inside)
        block.put("pop_page(cb_out);")


def rows_by_array(step: Product, block: Block) -> None:
    """Rows that are spread, matrix by matrix and tile by tile of columns."""
    step = by_rows(step)
    out = block.setting.program.arrays[step.outs[0]]
    ((first, count), _, column), even = parts_of(step, out.split)
    columns, k, name = side_of(step.columns, "column", column), side_of(step.k, "k"), block.array(out.name)
    width, (start, end) = walk.size(step.columns), column
    many = ELEMENTS // width
    groups, dealt = count.known is None or count.known > many, start != ZERO
    group, units = f"if ({end} > 0)" if dealt else "", each("unit", first, count)
    if groups:
        group = f"for (uint32_t group = {first}, last = group + {count}; group < last; group += {many})"
        units = f"for (uint32_t unit = group; unit < smaller(group + {many}, last); ++unit)"
        units = units if walk.size(step.lead) > 1 else None
    with block.nested(group):
        block.put("const uint32_t parts = reserve_pages(cb_in, operand_slots);")
        with block.nested(units), block.nested(columns.loop):
            with block.nested(k.loop or ""):
                _left_rows(step, block, k, True)
                block.put("const uint32_t right = reserve_pages(cb_right, plane_slots);")
                right_tiles(step, block, columns, k, even)
                block.put("push_pages(cb_right, plane_slots);")
            unit = lead_of(step.lead, width, "(unit - group)" if groups else "unit")
            place = total(unit, Amount(None, f"column - {start}") if dealt else columns.start)
            with block.nested("" if units is None and columns.loop is None else None):
                block.put("const uint32_t result = wait_page(cb_out);")
                block.call("collect_rows", "parts", place, "result", "LOST_ROW + 1", columns.inside)
                block.put("pop_page(cb_out);")
        if groups:
            own = Amount(None, f"(smaller(group + {many}, last) - group)").times(width)
            _sum(block, f"{name}.at({Amount(None, 'group').times(width)})", own)
        else:
            _sum(block, f"{name}.at({start})", end if dealt else count.times(width))


def right_tiles(step: Product, block: Block, columns: Side, k: Side, even: bool) -> None:
    """A k tile of the right factor's planes."""
    down, over = (columns, k) if step.transposed else (k, columns)
    for plane, load in enumerate(step.factors):
        tile = page(block, plane, "right")
        if even and copy_tile(block, tile, load, step.lead, down, over):
            continue
        if over.size == 1 and not step.transposed:
            take_column(block, tile, load, step.lead, down)
            continue
        take_rows(block, tile, load, step.lead, down, over)
        if k.size % TILE and not step.transposed:  # what is left over is zero
            with block.nested(f"for (uint32_t r = {down.inside}; r < TILE_SIDE; ++r)"):
                block.call("zero_row", tile, "r")
