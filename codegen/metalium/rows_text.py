"""Products whose left factor is one row in two planes, spread over the rows of a tile (runtime `rows.h` says why).

Input: a `Product`.
Output: C++ lines of the writer and of the compute kernel.  Results come back row by row into pages of cb_in, whose sum
the compute kernel makes: a *group* is as many results as one such tile holds.
"""

from __future__ import annotations

from .moves import Block, portion
from .plan import TILE, Product, Streamed
from .products_text import Parts, across, part_of, right_tiles, size, tiled_of
from .setting import Setting, by_rows, share_name
from .tiled_text import axis_of, lead_of, open_axis, open_lead, take_row, total

ELEMENTS = TILE * TILE


def group_tiles(block: int) -> int:
    """Column tiles of a streamed product's group: whole blocks of them."""
    return TILE // block * block


# --- a streamed matrix -----------------------------------------------------------------------------------------------
def streamed_rows(step: Product, block: Block) -> None:
    """The writer's part: rows of x, block by block; rows of the result into a group's pages; their sum."""
    tiled = tiled_of(block.setting, step)
    tiles, k, group = across(step, tiled), axis_of(step.k, "k"), group_tiles(tiled.block)
    columns = size(step.columns)
    if tiled.lead:
        opened = open_lead(block, step.lead, portion(size(step.lead), tiled.split))
        first, own = lead_of(step.lead, "unit", columns), str(columns)
    else:
        start, own = portion(columns, tiled.split)
        block.open(f"if ({share_name(tiled.split)}.count > 0)")
        opened, first = 1, [start]
    groups, blocks = tiles > group, tiles > tiled.block
    if groups:
        block.open(f"for (uint32_t group = 0; group < {tiles}; group += {group})")
    elif not opened:
        block.open("")
        opened = 1
    block.put("const uint32_t parts = reserve_pages(cb_in, operand_slots);")
    begin, end = ("group", f"smaller(group + {group}, {tiles})") if groups else ("0", str(tiles))
    if blocks:
        block.open(f"for (uint32_t block = {begin}; block < {end}; block += {tiled.block})")
        begin, end = "block", f"smaller(block + {tiled.block}, {tiles})"
    if not open_axis(block, k):
        block.open("")
    _rows(step, block)
    block.close()
    if tiles > 1:
        block.open(f"for (uint32_t tile = {begin}; tile < {end}; ++tile)")
    else:
        block.open("")
    column = "tile * TILE_SIDE" if tiles > 1 else "0"
    count = f"in_tile({own}, {column})" if tiles > 1 else own
    place = "(tile - group) * TILE_SIDE" if groups else column
    block.put("const uint32_t result = wait_page(cb_out);", f"collect_rows(parts, {place}, result, LANES, {count});")
    lost = f"{block.array(step.outs[1])}.at({total([*first, column])})"
    block.put(f"give_row({lost}, result, LOST_ROW, {count});", "pop_page(cb_out);")
    block.close(1 + blocks)
    many = f"from_on({own}, group * TILE_SIDE, {group * TILE})" if groups else own
    _sum(block, f"{block.array(step.outs[0])}.at({total([*first, 'group * TILE_SIDE' if groups else '0'])})", many)
    block.close(groups + opened)


def streamed_rows_compute(setting: Setting, step: Product) -> list[str]:
    """The compute kernel's part."""
    tiled = tiled_of(setting, step)
    tiles, k, group = across(step, tiled), -(-size(step.k) // TILE), group_tiles(tiled.block)
    begin, end = ("group", f"smaller(group + {group}, {tiles})") if tiles > group else ("0", str(tiles))
    width = str(min(tiled.block, tiles))
    if tiles > tiled.block and tiles % tiled.block:
        width = f"smaller({tiled.block}, {tiles} - block)"
    call = f"multiply_streamed(cb_rows, cb_weights, cb_out, {k}, {width}, {tiled.planes});"
    if tiles > tiled.block:
        product = [f"for (uint32_t block = {begin}; block < {end}; block += {tiled.block}) {{", f"    {call}", "}"]
    else:
        product = [call]
    body = ["to_product(cb_rows, cb_weights, 0);", *product, *_added("LANES")]
    if tiles > group:
        body = _nested(f"for (uint32_t group = 0; group < {tiles}; group += {group})", body)
    if not tiled.lead:
        return _nested(f"if ({share_name(tiled.split)}.count > 0)", body)
    count = portion(size(step.lead), tiled.split)[1]
    return body if count == "1" else _nested(f"for (uint32_t unit = 0; unit < {count}; ++unit)", body)


# --- an array --------------------------------------------------------------------------------------------------------
def array_rows(step: Product, block: Block) -> None:
    """The writer's part: matrix by matrix and tile by tile of columns."""
    step = by_rows(step)
    assert not isinstance(step.right, Streamed)
    out = block.setting.program.arrays[step.outs[0]]
    parts, k = Parts(step, out.split), axis_of(step.k, "k")
    width = size(step.columns)
    many, (first, count) = ELEMENTS // width, parts.lead
    groups = not (count.isdigit() and int(count) <= many)
    start, end = parts.columns
    dealt = start != "0"
    if groups:
        block.open(f"for (uint32_t group = {first}, last = group + {count}; group < last; group += {many})")
    else:
        block.open(f"if ({end} > 0)" if dealt else "")
    block.put("const uint32_t parts = reserve_pages(cb_in, operand_slots);")
    opened = 0
    if groups and size(step.lead) > 1:
        block.open(f"for (uint32_t unit = group; unit < smaller(group + {many}, last); ++unit)")
        opened = 1
    elif not groups:
        opened = open_lead(block, step.lead, parts.lead)
    columns, inside, more = part_of(block, step.columns, "column", parts.columns)
    if not open_axis(block, k):
        block.open("")
    _rows(step, block)
    block.put("const uint32_t right = reserve_pages(cb_right, plane_slots);")
    right_tiles(step, block, (columns, inside), k, parts.even)
    block.put("push_pages(cb_right, plane_slots);")
    block.close()
    unit = "(unit - group)" if groups else "unit"
    place = total([*lead_of(step.lead, unit, width), f"column - {start}" if dealt else columns.start])
    opened += more
    if not opened:
        block.open("")
        opened = 1
    block.put("const uint32_t result = wait_page(cb_out);")
    block.put(f"collect_rows(parts, {place}, result, LOST_ROW + 1, {inside});", "pop_page(cb_out);")
    block.close(opened)
    times = f" * {width}" if width > 1 else ""
    if groups:
        _sum(block, f"{block.array(out.name)}.at(group{times})", f"(smaller(group + {many}, last) - group){times}")
    elif dealt:
        _sum(block, f"{block.array(out.name)}.at({start})", end)
    else:
        _sum(block, f"{block.array(out.name)}.at(0)", str(int(count) * width))
    block.close()


def array_rows_compute(setting: Setting, step: Product) -> list[str]:
    """The compute kernel's part."""
    step = by_rows(step)
    assert not isinstance(step.right, Streamed)
    parts = Parts(step, setting.program.arrays[step.outs[0]].split)
    many, count, end = ELEMENTS // size(step.columns), parts.lead[1], parts.columns[1]
    k = -(-size(step.k) // TILE)
    tiles = str(-(-int(end) // TILE)) if end.isdigit() else f"(({end} + TILE_SIDE - 1) / TILE_SIDE)"
    groups = not (count.isdigit() and int(count) <= many)
    units = f"smaller({many}, {count} - group)" if groups else count
    found = [n for n in (units, tiles) if n != "1"]
    call = f"multiply_rows(cb_rows, cb_right, cb_out, {k}, {len(step.right)}, plane_slots);"
    product = _nested(f"for (uint32_t tile = 0; tile < {' * '.join(found)}; ++tile)", [call]) if found else [call]
    body = [f"to_product(cb_rows, cb_right, {int(step.transposed)});", *product, *_added("LOST_ROW + 1")]
    if groups:
        return _nested(f"for (uint32_t group = 0; group < {count}; group += {many})", body)
    return body if end.isdigit() else _nested(f"if ({end} > 0)", body)


# --- both ------------------------------------------------------------------------------------------------------------
def _rows(step: Product, block: Block) -> None:
    """A k tile of the left factor."""
    k = axis_of(step.k, "k")
    block.put("const uint32_t rows = reserve_pages(cb_rows, 1);")
    for load, row in zip(step.left, ("PLAIN_ROW", "LOST_ROW"), strict=True):
        starts = [*lead_of(step.lead, "unit", k.size), k.start]
        take_row(block, "rows", row, load, (step.lead, k, None), starts, k.inside)
    block.put("spread_row(rows);", "push_pages(cb_rows, 1);")


def _sum(block: Block, out: str, count: str) -> None:
    """The group's pages to the compute kernel, their sum into the result."""
    block.put("push_pages(cb_in, operand_slots);")
    block.put(f"copy_words({out}, wait_page(cb_out), {count});", "pop_page(cb_out);")


def _added(rows: str) -> list[str]:
    return ["to_elementwise(cb_in);", f"add_rows(cb_in, operand_slots, cb_out, {rows});"]


def _nested(head: str, body: list[str]) -> list[str]:
    return [f"{head} {{", *(f"    {line}" for line in body), "}"]
