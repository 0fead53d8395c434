"""Tiles of matrices: elementwise steps over them, and tiles put together for products.

Input: a `Map` whose result lies in tiles; a load and the indices that are a tile's rows and columns.
Output: C++ lines of the writer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from cdrmix.ir import build
from cdrmix.ir.nodes import Index

from .moves import Block, box, portion
from .plan import TILE, Load, Map
from .registers import Filling
from .rules import groups_of, load_rule, rule_of, step_of


@dataclass(frozen=True, slots=True)
class Axis:
    """The rows or the columns of a tile: indices counted as one, and the C++ name of where the tile begins."""

    indices: tuple[Index, ...]
    start: str

    @property
    def size(self) -> int:
        return prod(i.axis.size for i in self.indices)

    @property
    def tiles(self) -> int:
        return -(-self.size // TILE)

    @property
    def inside(self) -> str:
        """How many of them lie in the tile."""
        return str(self.size) if self.start == "0" else f"in_tile({self.size}, {self.start})"


def axis_of(indices: Sequence[Index], name: str) -> Axis:
    """Rows or columns that are gone through tile by tile; a single tile needs no name."""
    return Axis(tuple(indices), name if prod(i.axis.size for i in indices) > TILE else "0")


def total(parts: Sequence[str]) -> str:
    """A sum of C++ terms."""
    return " + ".join(p for p in parts if p != "0") or "0"


def open_axis(block: Block, axis: Axis) -> int:
    """A loop over the tiles of an axis, unless there is one; gives how many braces that opened."""
    if axis.start == "0":
        return 0
    block.open(f"for (uint32_t {axis.start} = 0; {axis.start} < {axis.size}; {axis.start} += TILE_SIDE)")
    return 1


def open_lead(block: Block, lead: Sequence[Index], part: tuple[str, str]) -> int:
    """A loop over a core's matrices, unless there is one and every core has it."""
    first, count = part
    if count == "1":
        return 0
    if first == "0":
        block.open(f"for (uint32_t unit = 0; unit < {count}; ++unit)")
    else:
        block.open(f"for (uint32_t unit = {first}, end_unit = unit + {count}; unit < end_unit; ++unit)")
    return 1


def page(number: int, front: str = "operands") -> str:
    """The address of a page among several."""
    return front if number == 0 else f"page_of({front}, {number})"


def lead_of(lead: Sequence[Index], counter: str, size: int) -> list[str]:
    """The elements before matrix number `counter`, if there are several."""
    if prod(i.axis.size for i in lead) == 1:
        return []
    return [f"{counter} * {size}" if size > 1 else counter]


def tile_map_place(lead: Sequence[Index], counter: str, rows: Axis, columns: Axis) -> str:
    """The word at which a tile of a matrix in tiles begins."""
    tiles = lead_of(lead, counter, rows.tiles * columns.tiles)
    if rows.tiles > 1:
        tiles.append(f"{rows.start} / TILE_SIDE" + (f" * {columns.tiles}" if columns.tiles > 1 else ""))
    if columns.tiles > 1:
        tiles.append(f"{columns.start} / TILE_SIDE")
    if not tiles:
        return "0"
    return (
        f"({' + '.join(tiles)}) * TILE_ELEMENTS" if len(tiles) > 1 or " " in tiles[0] else f"{tiles[0]} * TILE_ELEMENTS"
    )


def as_it_lies(block: Block, load: Load, lead: Sequence[Index], rows: Axis, columns: Axis) -> bool:
    """Whether a load reads a matrix in tiles, tile for tile."""
    array = block.setting.program.arrays[load.array]
    if array.layout != "tiles" or load.when is not None or len(rows.indices) != 1 or len(columns.indices) != 1:
        return False
    plain = rule_of(array, array.shape, [build.index(i) for i in (*lead, *rows.indices, *columns.indices)])
    sizes = tuple(i.axis.size for i in (*lead, *rows.indices, *columns.indices))
    return sizes == array.shape and load_rule(array, load) == plain


def take_row(
    block: Block,
    tile: str,
    row: str,
    load: Load,
    axes: tuple[Sequence[Index], Axis, Axis | None],
    starts: list[str],
    count: str,
) -> None:
    """32 consecutive numbers of a load into a row of a tile, zeros behind `count`.

    The load is counted through `axes`: the matrices' indices, those of the rows (or none) and of the columns.
    """
    lead, rows, columns = axes
    indices = (*lead, *rows.indices, *(columns.indices if columns else ()))
    first = total(starts)
    rule = load_rule(block.setting.program.arrays[load.array], load)
    kept = load.when.free if load.when is not None else ()
    groups = groups_of(indices, [rule], kept)
    name = block.array(load.array)
    if load.when is not None:
        value = block.function(groups, block.word(load, rule, groups))
        block.put(f"take_row_values<{box(groups)}>({tile}, {row}, {first}, {count}, {value});")
    elif len(groups) == 1 and step_of(rule, groups[0]) == 1:
        block.put(f"put_row({tile}, {row}, {name}.at({block.element(rule, groups, first)}), {count});")
    else:
        across = {i for i in (columns or rows).indices if i.axis.size > 1}
        way = "take_run" if across <= {*groups[-1]} and step_of(rule, groups[-1]) == 1 else "take_row"
        given = block.function(groups, block.element(rule, groups))
        block.put(f"{way}<{box(groups)}>({tile}, {row}, {name}, {first}, {count}, {given});")


def take_column(
    block: Block, tile: str, load: Load, indices: Sequence[Index], starts: list[str], count: str, vector: bool = False
) -> None:
    """32 consecutive numbers of a load down column 0 of a tile; a `vector` is for the SFPU to broadcast."""
    rule = load_rule(block.setting.program.arrays[load.array], load)
    groups = groups_of(indices, [rule], load.when.free if load.when is not None else ())
    first = total(starts)
    if not vector and load.when is None and len(groups) == 1 and step_of(rule, groups[0]) == 1:
        place = block.element(rule, groups, first)
        block.put(f"put_column({tile}, {block.array(load.array)}.at({place}), {count});")
        return
    value = block.function(groups, block.word(load, rule, groups))
    block.put(f"take_column_values<{box(groups)}>({tile}, {first}, {count}, {value});")


def tiled_map(step: Map, block: Block, fillings: tuple[Filling, ...]) -> None:
    """An elementwise step, tile by tile."""
    if step.place is not None:
        raise ValueError(f"{step.out} lies in tiles and cannot be written at a place")
    out = block.setting.program.arrays[step.out]
    lead = step.indices[:-2]
    rows, columns = axis_of(step.indices[-2:-1], "row"), axis_of(step.indices[-1:], "column")
    opened = open_lead(block, lead, portion(prod(i.axis.size for i in lead), out.split))
    opened += open_axis(block, rows) + open_axis(block, columns)
    if not opened:
        block.open("")
    if step.loads:
        block.put("const uint32_t operands = reserve_pages(cb_in, operand_slots);")
        for number, load in enumerate(step.loads):
            _operand(block, load, number, fillings[number], lead, rows, columns)
        block.put("push_pages(cb_in, operand_slots);")
    place = tile_map_place(lead, "unit", rows, columns)
    block.put(f"give_tile({block.array(step.out)}.at({place}), wait_page(cb_out), {rows.inside}, {columns.inside});")
    block.put("pop_page(cb_out);")
    block.close(max(opened, 1))


def _operand(
    block: Block, load: Load, number: int, filling: Filling, lead: Sequence[Index], rows: Axis, columns: Axis
) -> None:
    at = page(number)
    if as_it_lies(block, load, lead, rows, columns):
        place = tile_map_place(lead, "unit", rows, columns)
        block.put(f"copy_words({at}, {block.array(load.array)}.at({place}), TILE_ELEMENTS);")
    elif filling == "row":
        starts = [*lead_of(lead, "unit", columns.size), columns.start]
        take_row(block, at, "0", load, (lead, columns, None), starts, columns.inside)
    elif filling == "column":
        starts = [*lead_of(lead, "unit", rows.size), rows.start]
        take_column(block, at, load, (*lead, *rows.indices), starts, rows.inside, vector=True)
    else:
        block.open(f"for (uint32_t r = 0; r < {rows.inside}; ++r)")
        starts = [*lead_of(lead, "unit", rows.size * columns.size), row_start(rows, columns), columns.start]
        take_row(block, at, "r", load, (lead, rows, columns), starts, columns.inside)
        block.close()


def row_start(rows: Axis, columns: Axis, row: str = "r") -> str:
    """The elements before row `row` of the tile in its matrix."""
    number = row if rows.start == "0" else f"({rows.start} + {row})" if columns.size > 1 else f"{rows.start} + {row}"
    return number if columns.size == 1 else f"{number} * {columns.size}"
