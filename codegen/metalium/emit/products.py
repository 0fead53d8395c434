"""Products in the writer: planes of the left factor as rows of a tile, factors as tiles, results back into arrays.

Input: a `Product`.
Output: C++ lines.  The order of the tiles is the compute kernel's: see `compute`.

A left factor of one row in two planes is *spread* over the rows of a tile (runtime `rows.h` says why).  Its results
come back row by row into pages of cb_in, whose sum the compute kernel makes: a *group* is as many results as one such
tile holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from cdrmix.ir import walk
from cdrmix.ir.nodes import Index
from cdrmix.ir.steps import Load, Product

from ..deal.streams import column_tiles
from ..plan import TILE, Split, Tiled
from .amounts import ZERO, Amount, portion, tiles_of, total
from .block import Block
from .buffers import Setting, by_rows, is_spread
from .matrices import (
    Side,
    copy_tile,
    lead_of,
    open_lead,
    open_side,
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


def tiled_of(setting: Setting, step: Product) -> Tiled:
    """The order of a streamed product's matrix."""
    assert step.streamed is not None
    found = setting.program.tensors[step.streamed].tiled
    assert found is not None
    return found


def across(step: Product, tiled: Tiled) -> int:
    """Column tiles of a core's part of a streamed matrix."""
    columns = walk.size(step.columns)
    return tiles_of(columns) if tiled.lead else column_tiles(columns, tiled.split)


def group_tiles(block: int) -> int:
    """Column tiles of a streamed product's group: whole blocks of them."""
    return TILE // block * block


# --- a streamed matrix -----------------------------------------------------------------------------------------------
def streamed_product(step: Product, block: Block) -> None:
    """[k] x a streamed matrix, block by block of its columns."""
    tiled, spread = tiled_of(block.setting, step), is_spread(block.setting.program, step)
    tiles, k, columns = across(step, tiled), side_of(step.k, "k"), walk.size(step.columns)
    if tiled.lead:
        opened = open_lead(block, step.lead, portion(walk.size(step.lead), tiled.split))
        first, own = lead_of(step.lead, columns), Amount(columns)
    else:
        first, own = portion(columns, tiled.split)
        block.open(f"if ({share_name(tiled.split)}.count > 0)")
        opened = 1
    group = group_tiles(tiled.block)
    groups, blocks = spread and tiles > group, tiles > tiled.block
    begin, end = ("group", f"smaller(group + {group}, {tiles})") if groups else ("0", str(tiles))
    if spread:
        if groups or not opened:
            block.open(f"for (uint32_t group = 0; group < {tiles}; group += {group})" if groups else "")
            opened += 1
        block.put("const uint32_t parts = reserve_pages(cb_in, operand_slots);")
    if blocks:
        block.open(f"for (uint32_t block = {begin}; block < {end}; block += {tiled.block})")
        even = not spread and tiles % tiled.block == 0
        begin, end = "block", f"block + {tiled.block}" if even else f"smaller(block + {tiled.block}, {tiles})"
    open_side(block, k, plain=True)
    _left_rows(step, block, spread)
    block.close()
    block.open(f"for (uint32_t tile = {begin}; tile < {end}; ++tile)" if tiles > 1 else "")
    column = Amount(None, "tile * TILE_SIDE") if tiles > 1 else ZERO
    count = f"in_tile({own}, {column})" if tiles > 1 else own
    block.put("const uint32_t result = wait_page(cb_out);")
    if spread:
        block.call(
            "collect_rows", "parts", "(tile - group) * TILE_SIDE" if groups else column, "result", "LANES", count
        )
    row = f"{block.array(step.outs[-1])}.at({total(first, column)})"
    block.call("give_row", row, "result", "LOST_ROW" if spread else "PLAIN_ROW", count)
    block.put("pop_page(cb_out);")
    block.close(1 + blocks)
    if spread:
        many = f"from_on({own}, group * TILE_SIDE, {group * TILE})" if groups else own
        place = total(first, Amount(None, "group * TILE_SIDE") if groups else ZERO)
        _sum(block, f"{block.array(step.outs[0])}.at({place})", many)
    block.close(opened)


def _left_rows(step: Product, block: Block, spread: bool) -> None:
    """A k tile of the left factor: its plane, or both."""
    k = side_of(step.k, "k")
    block.put("const uint32_t rows = reserve_pages(cb_rows, 1);")
    for load, row in zip(step.left, ("PLAIN_ROW", "LOST_ROW")[: 1 + spread], strict=spread):
        first = total(lead_of(step.lead, k.size), k.start)
        take_row(block, "rows", block.use(row), load, (step.lead, k, None), first, k.inside)
    if spread:
        block.call("spread_row", "rows")
    block.put("push_pages(cb_rows, 1);")


def _sum(block: Block, out: str, count: Amount | str) -> None:
    """The group's pages to the compute kernel, their sum into the result."""
    block.put("push_pages(cb_in, operand_slots);")
    block.put(f"copy_words({out}, wait_page(cb_out), {count});", "pop_page(cb_out);")


# --- arrays ----------------------------------------------------------------------------------------------------------
class Parts:
    """Which matrices, rows and columns of a product of arrays a core has."""

    def __init__(self, step: Product, split: Split | None):
        lead, rows, columns = walk.size(step.lead), walk.size(step.rows), walk.size(step.columns)
        self.lead, self.rows, self.columns = (ZERO, Amount(lead)), (ZERO, Amount(rows)), (ZERO, Amount(columns))
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


def product_of_arrays(step: Product, block: Block) -> None:
    """Tile by tile of the result, the planes of both factors k tile by k tile."""
    out = block.setting.program.arrays[step.outs[0]]
    parts, k = Parts(step, out.split), side_of(step.k, "k")
    opened = open_lead(block, step.lead, parts.lead)
    rows, height, more = part_of(block, step.rows, "row", parts.rows)
    columns, width, last = part_of(block, step.columns, "column", parts.columns, plain=not opened + more)
    open_side(block, k, plain=True)
    block.put("const uint32_t left = reserve_pages(cb_left, plane_slots);")
    block.put("const uint32_t right = reserve_pages(cb_right, plane_slots);")
    for plane, load in enumerate(step.left):
        tile_of(block, page(block, plane, "left"), load, step.lead, (rows, height), (k, k.inside), parts.even)
    right_tiles(step, block, (columns, width), k, parts.even)
    block.put("push_pages(cb_left, plane_slots);", "push_pages(cb_right, plane_slots);")
    block.close()
    block.put("const uint32_t result = wait_page(cb_out);")
    name, single = block.array(out.name), rows.size == 1
    if out.layout == "tiles":
        block.call("give_tile", f"{name}.at({tile_place(step.lead, rows, columns)})", "result", height, width)
    else:
        if not single:
            block.open(f"for (uint32_t r = 0; r < {height}; ++r)")
        down = ZERO if single else row_start(rows, columns)
        place = total(lead_of(step.lead, rows.size * columns.size), down, columns.start)
        block.call("give_row", f"{name}.at({place})", "result", "0" if single else "r", width)
        block.close(int(not single))
    block.put("pop_page(cb_out);")
    block.close(opened + more + last)


def rows_by_array(step: Product, block: Block) -> None:
    """Rows that are spread, matrix by matrix and tile by tile of columns."""
    step = by_rows(step)
    out = block.setting.program.arrays[step.outs[0]]
    parts, k, name = Parts(step, out.split), side_of(step.k, "k"), block.array(out.name)
    width = walk.size(step.columns)
    many, (first, count), (start, end) = ELEMENTS // width, parts.lead, parts.columns
    groups, dealt = count.known is None or count.known > many, start != ZERO
    if groups:
        block.open(f"for (uint32_t group = {first}, last = group + {count}; group < last; group += {many})")
    else:
        block.open(f"if ({end} > 0)" if dealt else "")
    block.put("const uint32_t parts = reserve_pages(cb_in, operand_slots);")
    opened = 0
    if groups and walk.size(step.lead) > 1:
        block.open(f"for (uint32_t unit = group; unit < smaller(group + {many}, last); ++unit)")
        opened = 1
    elif not groups:
        opened = open_lead(block, step.lead, parts.lead)
    columns, inside, more = part_of(block, step.columns, "column", parts.columns)
    open_side(block, k, plain=True)
    _left_rows(step, block, True)
    block.put("const uint32_t right = reserve_pages(cb_right, plane_slots);")
    right_tiles(step, block, (columns, inside), k, parts.even)
    block.put("push_pages(cb_right, plane_slots);")
    block.close()
    unit = lead_of(step.lead, width, "(unit - group)" if groups else "unit")
    opened += more
    if not opened:
        block.open("")
        opened = 1
    block.put("const uint32_t result = wait_page(cb_out);")
    place = total(unit, Amount(None, f"column - {start}") if dealt else columns.start)
    block.call("collect_rows", "parts", place, "result", "LOST_ROW + 1", inside)
    block.put("pop_page(cb_out);")
    block.close(opened)
    if groups:
        own = Amount(None, f"(smaller(group + {many}, last) - group)").times(width)
        _sum(block, f"{name}.at({Amount(None, 'group').times(width)})", own)
    else:
        _sum(block, f"{name}.at({start})", end if dealt else count.times(width))
    block.close()


def part_of(
    block: Block, indices: Sequence[Index], name: str, part: tuple[Amount, Amount], plain: bool = False
) -> tuple[Side, Amount, int]:
    """The rows or columns of a core, gone through tile by tile; how many lie in a tile; the braces opened."""
    first, count = part
    if first == ZERO:
        side = side_of(indices, name)
        return side, side.inside, open_side(block, side, plain)
    block.open(
        f"for (uint32_t {name} = {first}, end_{name} = {name} + {count}; {name} < end_{name}; {name} += TILE_SIDE)"
    )
    return Side(tuple(indices), Amount(None, name)), Amount(None, f"smaller(TILE_SIDE, end_{name} - {name})"), 1


def right_tiles(step: Product, block: Block, columns: tuple[Side, Amount], k: Side, even: bool) -> None:
    """A k tile of the right factor's planes."""
    down, over = (columns, (k, k.inside)) if step.transposed else ((k, k.inside), columns)
    for plane, load in enumerate(step.factors):
        zeros = None if step.transposed else k.size % TILE != 0
        tile_of(block, page(block, plane, "right"), load, step.lead, down, over, even, zeros)


def tile_of(
    block: Block, tile: str, load: Load, lead: Sequence[Index], down: tuple[Side, Amount], over: tuple[Side, Amount],
    even: bool, zeros: bool | None = None,
) -> None:  # fmt: skip
    """A tile of a factor, [rows, columns], both with how many of them there are in this tile.

    `zeros` is for a right factor: whether rows are left over, to be zero.
    """
    (rows, height), (columns, width) = down, over
    if even and copy_tile(block, tile, load, lead, rows, columns):
        return
    if columns.size == 1 and zeros is not None:
        first = total(lead_of(lead, rows.size), rows.start)
        take_column(block, tile, load, (*lead, *rows.indices), first, height)
        return
    take_rows(block, tile, load, lead, rows, columns, height, width)
    if zeros:
        block.open(f"for (uint32_t r = {height}; r < TILE_SIDE; ++r)")
        block.call("zero_row", tile, "r")
        block.close()
