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
from .amounts import ONE, ZERO, Amount, portion, tiles_of, total
from .block import Block
from .places import groups_of, rule_of, singly, step_of
from .registers import Filling


@dataclass(frozen=True, slots=True)
class Side:
    """The rows or the columns of a tile: indices counted as one, where the tile begins, how many of them lie in it, and
    the loop over the tiles, unless there is one."""

    indices: tuple[Index, ...]
    start: Amount
    inside: Amount
    loop: str | None = None

    @property
    def size(self) -> int:
        return walk.size(self.indices)

    @property
    def tiles(self) -> int:
        return tiles_of(self.size)


NO_ROWS = Side((), ZERO, ONE)


def side_of(indices: Sequence[Index], name: str, part: tuple[Amount, Amount] | None = None) -> Side:
    """Rows or columns, or a core's part of them, that are gone through tile by tile."""
    size = walk.size(indices)
    first, count = part or (ZERO, Amount(size))
    start = Amount(None, name)
    if first != ZERO:
        inside = Amount(None, f"smaller(TILE_SIDE, end_{name} - {name})")
    elif size > TILE:
        inside = Amount(None, f"in_tile({size}, {name})")
    else:
        return Side(tuple(indices), ZERO, count)
    return Side(tuple(indices), start, inside, each(name, first, count, f"{name} += TILE_SIDE"))


def each(name: str, first: Amount, count: Amount, on: str | None = None) -> str | None:
    """The head of a loop over a core's part, unless that is one thing and every core has it; `on` is its step."""
    on = on or f"++{name}"
    if count.known == 1:
        return None
    if first == ZERO:
        return f"for (uint32_t {name} = 0; {name} < {count}; {on})"
    return f"for (uint32_t {name} = {first}, end_{name} = {name} + {count}; {name} < end_{name}; {on})"


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
    array, own = block.setting.program.arrays[load.array], (*lead, *rows.indices, *columns.indices)
    one_each = len(rows.indices) == len(columns.indices) == 1
    if array.layout != "tiles" or not one_each or walk.sizes(own) != array.shape:
        return False
    if block.rule(load) != rule_of(array, array.shape, [*map(build.index, own)]):
        return False
    place = tile_place(lead, rows, columns)
    block.put(f"copy_words({tile}, {block.array(load.array)}.at({place}), TILE_ELEMENTS);")
    return True


def take_row(
    block: Block, tile: str, row: str, load: Load, lead: Sequence[Index], across: Side, rows: Side = NO_ROWS
) -> None:
    """32 consecutive numbers of a load into a row of a tile, zeros behind those there are.

    The load is counted through the matrices' indices, those of the rows (row `r` if there are several) and `across`.
    """
    down = ZERO if rows.size == 1 else row_start(rows, across)
    first = total(lead_of(lead, rows.size * across.size), down, across.start)
    rule = block.rule(load)
    groups = groups_of((*lead, *rows.indices, *across.indices), [rule])
    neighbours, count = step_of(rule, groups[-1]) == 1, across.inside
    if rule.when is not None:
        value = block.value(rule, groups)
        block.call("take_row_values", tile, row, first, count, functions=[value], over=groups)
    elif len(groups) == 1 and neighbours:
        block.call("put_row", tile, row, block.address(rule, groups, first), count)
    else:
        run = neighbours and {i for (i,) in singly(across.indices)} <= {*groups[-1]}
        given = (tile, row, block.array(load.array), first, count)
        place = block.place(rule, groups)
        block.call("take_run" if run else "take_row", *given, functions=[place], over=groups)


def take_column(block: Block, tile: str, load: Load, lead: Sequence[Index], down: Side, vector: bool = False) -> None:
    """32 consecutive numbers of a load down column 0 of a tile; a `vector` is for the SFPU to broadcast."""
    first, rule = total(lead_of(lead, down.size), down.start), block.rule(load)
    groups = groups_of((*lead, *down.indices), [rule])
    if not vector and rule.when is None and len(groups) == 1 and step_of(rule, groups[0]) == 1:
        block.call("put_column", tile, block.address(rule, groups, first), down.inside)
    else:
        value = block.value(rule, groups)
        block.call("take_column_values", tile, first, down.inside, functions=[value], over=groups)


def take_rows(block: Block, tile: str, load: Load, lead: Sequence[Index], rows: Side, columns: Side) -> None:
    """A tile of a load that lies flat, row by row."""
    with block.nested(each("r", ZERO, rows.inside) if rows.size > 1 else None):
        take_row(block, tile, "r" if rows.size > 1 else "0", load, lead, columns, rows)


def tiled_map(step: Map, block: Block, fillings: Sequence[Filling]) -> None:
    """An elementwise step, tile by tile."""
    if step.place is not None:
        raise ValueError(f"{step.out} lies in tiles and cannot be written at a place")
    out = block.setting.program.arrays[step.out]
    lead = step.indices[:-2]
    rows, columns = side_of(step.indices[-2:-1], "row"), side_of(step.indices[-1:], "column")
    units = each("unit", *portion(walk.size(lead), out.split))
    with block.nested(units), block.nested(rows.loop), block.scope(columns.loop):
        if step.loads:
            block.put("const uint32_t operands = reserve_pages(cb_in, operand_slots);")
            for number, load in enumerate(step.loads):
                at = page(block, number)
                if copy_tile(block, at, load, lead, rows, columns):
                    continue
                match fillings[number]:
                    case "row":
                        take_row(block, at, "0", load, lead, columns)
                    case "column":
                        take_column(block, at, load, lead, rows, vector=True)
                    case _:
                        take_rows(block, at, load, lead, rows, columns)
            block.put("push_pages(cb_in, operand_slots);")
        place = f"{block.array(step.out)}.at({tile_place(lead, rows, columns)})"
        block.call("give_tile", place, "wait_page(cb_out)", rows.inside, columns.inside)
        block.put("pop_page(cb_out);")
