"""Matrices in tiles: elementwise steps over them, and rows, columns and tiles put together for products.

Input: a `Map` whose result lies in tiles; a load and the indices that are a tile's rows and columns.
Output: C++ lines of the writer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Index
from cdrmix.ir.steps import Load, Map

from ..plan import TILE
from .amounts import ZERO, Amount, portion, tiles_of, total
from .block import Block, condition
from .places import groups_of, load_rule, rule_of, step_of
from .registers import Filling


@dataclass(frozen=True, slots=True)
class Side:
    """The rows or the columns of a tile: indices counted as one, and where the tile begins."""

    indices: tuple[Index, ...]
    start: Amount

    @property
    def size(self) -> int:
        return walk.size(self.indices)

    @property
    def tiles(self) -> int:
        return tiles_of(self.size)

    @property
    def inside(self) -> Amount:
        """How many of them lie in the tile."""
        return Amount(self.size) if self.start == ZERO else Amount(None, f"in_tile({self.size}, {self.start})")


def side_of(indices: Sequence[Index], name: str) -> Side:
    """Rows or columns that are gone through tile by tile; a single tile needs no name."""
    return Side(tuple(indices), Amount(None, name) if walk.size(indices) > TILE else ZERO)


def open_side(block: Block, side: Side, plain: bool = False) -> int:
    """A loop over the tiles of a side, unless there is one (then nothing, or `plain` braces); how many it opened."""
    if side.start != ZERO:
        block.open(f"for (uint32_t {side.start} = 0; {side.start} < {side.size}; {side.start} += TILE_SIDE)")
    elif plain:
        block.open("")
    return int(plain or side.start != ZERO)


def open_lead(block: Block, lead: Sequence[Index], part: tuple[Amount, Amount]) -> int:
    """A loop over a core's matrices, unless there is one and every core has it; gives how many braces that opened."""
    first, count = part
    if count.known == 1:
        return 0
    if first == ZERO:
        block.open(f"for (uint32_t unit = 0; unit < {count}; ++unit)")
    else:
        block.open(f"for (uint32_t unit = {first}, end_unit = unit + {count}; unit < end_unit; ++unit)")
    return 1


def page(block: Block, number: int, front: str = "operands") -> str:
    """The address of a page among several."""
    return front if number == 0 else f"{block.use('page_of')}({front}, {number})"


def lead_of(lead: Sequence[Index], size: int, counter: str = "unit") -> Amount:
    """The elements before matrix number `counter`, if there are several."""
    return ZERO if walk.size(lead) == 1 else Amount(None, counter).times(size)


def row_start(rows: Side, columns: Side) -> Amount:
    """The elements before row `r` of the tile in its matrix."""
    row = total(rows.start, Amount(None, "r"))
    return row if columns.size == 1 else (row if row.single else Amount(None, f"({row})")).times(columns.size)


def tile_place(lead: Sequence[Index], rows: Side, columns: Side) -> Amount:
    """The word at which a tile of a matrix in tiles begins."""
    down = Amount(None, f"{rows.start} / TILE_SIDE", False).times(columns.tiles) if rows.tiles > 1 else ZERO
    across = Amount(None, f"{columns.start} / TILE_SIDE", False) if columns.tiles > 1 else ZERO
    tiles = total(lead_of(lead, rows.tiles * columns.tiles), down, across)
    if tiles == ZERO:
        return tiles
    return Amount(None, f"{tiles} * TILE_ELEMENTS" if tiles.single else f"({tiles}) * TILE_ELEMENTS", False)


def copy_tile(block: Block, tile: str, load: Load, lead: Sequence[Index], rows: Side, columns: Side) -> bool:
    """A load of a matrix in tiles, tile for tile; false where it does not lie so."""
    array = block.setting.program.arrays[load.array]
    if array.layout != "tiles" or load.when is not None or len(rows.indices) != 1 or len(columns.indices) != 1:
        return False
    own = (*lead, *rows.indices, *columns.indices)
    if walk.sizes(own) != array.shape or load_rule(array, load) != rule_of(
        array, array.shape, [*map(build.index, own)]
    ):
        return False
    place = tile_place(lead, rows, columns)
    block.put(f"copy_words({tile}, {block.array(load.array)}.at({place}), TILE_ELEMENTS);")
    return True


def take_row(
    block: Block,
    tile: str,
    row: str,
    load: Load,
    axes: tuple[Sequence[Index], Side, Side | None],
    first: Amount,
    count: Amount,
) -> None:
    """32 consecutive numbers of a load into a row of a tile, zeros behind `count`.

    The load is counted through `axes`: the matrices' indices, those of the rows (or none) and of the columns.
    """
    lead, rows, columns = axes
    indices = (*lead, *rows.indices, *(columns.indices if columns else ()))
    rule = load_rule(block.setting.program.arrays[load.array], load)
    groups, name = groups_of(indices, [rule], condition(load)), block.array(load.array)
    if load.when is not None:
        value = block.value(load, rule, groups)
        block.call("take_row_values", tile, row, first, count, functions=[value], over=groups)
    elif len(groups) == 1 and step_of(rule, groups[0]) == 1:
        block.call("put_row", tile, row, f"{name}.at({block.element(rule, groups, first)})", count)
    else:
        across = {i for i in (columns or rows).indices if i.axis.size > 1}
        way = "take_run" if across <= {*groups[-1]} and step_of(rule, groups[-1]) == 1 else "take_row"
        block.call(way, tile, row, name, first, count, functions=[block.place(rule, groups)], over=groups)


def take_column(
    block: Block, tile: str, load: Load, indices: Sequence[Index], first: Amount, count: Amount, vector: bool = False
) -> None:
    """32 consecutive numbers of a load down column 0 of a tile; a `vector` is for the SFPU to broadcast."""
    rule = load_rule(block.setting.program.arrays[load.array], load)
    groups = groups_of(indices, [rule], condition(load))
    if not vector and load.when is None and len(groups) == 1 and step_of(rule, groups[0]) == 1:
        place = block.element(rule, groups, first)
        block.call("put_column", tile, f"{block.array(load.array)}.at({place})", count)
    else:
        value = block.value(load, rule, groups)
        block.call("take_column_values", tile, first, count, functions=[value], over=groups)


def take_rows(
    block: Block, tile: str, load: Load, lead: Sequence[Index], rows: Side, columns: Side, height: Amount, width: Amount
) -> None:
    """A tile of a load that lies flat, row by row."""
    single = rows.size == 1
    if not single:
        block.open(f"for (uint32_t r = 0; r < {height}; ++r)")
    down = ZERO if single else row_start(rows, columns)
    first = total(lead_of(lead, rows.size * columns.size), down, columns.start)
    take_row(block, tile, "0" if single else "r", load, (lead, rows, columns), first, width)
    block.close(int(not single))


def tiled_map(step: Map, block: Block, fillings: tuple[Filling, ...]) -> None:
    """An elementwise step, tile by tile."""
    if step.place is not None:
        raise ValueError(f"{step.out} lies in tiles and cannot be written at a place")
    out = block.setting.program.arrays[step.out]
    lead = step.indices[:-2]
    rows, columns = side_of(step.indices[-2:-1], "row"), side_of(step.indices[-1:], "column")
    opened = open_lead(block, lead, portion(walk.size(lead), out.split))
    opened += open_side(block, rows)
    opened += open_side(block, columns, plain=not opened)
    if step.loads:
        block.put("const uint32_t operands = reserve_pages(cb_in, operand_slots);")
        for number, load in enumerate(step.loads):
            _operand(block, load, page(block, number), fillings[number], lead, rows, columns)
        block.put("push_pages(cb_in, operand_slots);")
    place = f"{block.array(step.out)}.at({tile_place(lead, rows, columns)})"
    block.call("give_tile", place, "wait_page(cb_out)", rows.inside, columns.inside)
    block.put("pop_page(cb_out);")
    block.close(opened)


def _operand(
    block: Block, load: Load, at: str, filling: Filling, lead: Sequence[Index], rows: Side, columns: Side
) -> None:
    if copy_tile(block, at, load, lead, rows, columns):
        return
    if filling == "row":
        first = total(lead_of(lead, columns.size), columns.start)
        take_row(block, at, "0", load, (lead, columns, None), first, columns.inside)
    elif filling == "column":
        first = total(lead_of(lead, rows.size), rows.start)
        take_column(block, at, load, (*lead, *rows.indices), first, rows.inside, vector=True)
    else:
        take_rows(block, at, load, lead, rows, columns, rows.inside, columns.inside)
