"""The steps of the compute kernel and of the reader.

Input: the setting of a program, and a step.
Output: C++ lines: for the compute kernel those of what computes anything, with the mode of the unpacker that it wants;
for the reader which pages of a streamed product's matrix the core reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

from cdrmix.ir import walk
from cdrmix.ir.steps import Map, Product, Step

from .amounts import ZERO, Amount, portion, tiles_of
from .block import Block
from .buffers import Setting, by_rows, is_spread
from .matrices import each
from .names import accessor, share_name
from .products import ELEMENTS, parts_of, streaming
from .registers import evaluate, fillings


def compute_steps(setting: Setting) -> Iterator[tuple[Step, list[str]]]:
    """The lines of each step that computes something, behind the call that sets the unpacker up if it stands otherwise.
    A product that is spread sets it up itself."""
    stands: str | None = None
    for step in setting.program.steps:
        block, spread = Block(setting, set()), isinstance(step, Product) and is_spread(setting.program, step)
        match step:
            case Map():
                write: Callable[[Block, Any], None] = _map
                wanted = "to_elementwise(cb_in);" if step.loads else stands
            case Product() if step.streamed:
                write, wanted = _streamed, None if spread else to_product(step, "cb_rows")
            case Product():
                write, wanted = (_spread, None) if spread else (_product, to_product(step, "cb_left"))
            case _:
                continue
        if wanted is not None and wanted != stands:
            block.put(wanted)
        stands = wanted
        write(block, step)
        yield step, block.lines


def reader_step(setting: Setting, step: Step) -> list[str]:
    """The lines of a step; none unless it streams."""
    if not isinstance(step, Product) or step.streamed is None:
        return []
    by, tensor = streaming(setting, step), setting.program.tensors[step.streamed]
    tiled = by.tiled
    each = tiled.sizes(tensor.shape).own_pages * tiled.planes
    if not tiled.lead:
        count = f"{share_name(tiled.split)}.count > 0 ? {each} : 0"
    elif tiled.split.each == tiled.split.lead:
        count = str(each)
    else:
        unit = by.tiles * tiles_of(walk.size(step.k)) * tiled.planes
        count = f"{portion(walk.size(step.lead), tiled.split)[1]} * {unit}"
    first = "core" if step.instance is None else f"(next_pick(cb_picks) * {tiled.cores} + core)"
    return [f"weights.read({accessor(tensor.name)}, {first} * {each}, {count});"]


def _map(block: Block, step: Map) -> None:
    program = block.setting.program
    out = program.arrays[step.out]
    if out.layout == "tiles":
        lead, (rows, columns) = step.indices[:-2], walk.sizes(step.indices[-2:])
        count = portion(walk.size(lead), out.split)[1].times(tiles_of(rows) * tiles_of(columns))
    else:
        elements = portion(walk.size(step.indices), out.split)[1]
        known = elements.known
        count = Amount(None, f"tiles_of({elements})") if known is None else Amount(-(-known // ELEMENTS))
    calls, result = evaluate(step.value, fillings(program, step))
    begin, end = "tile_regs_acquire();", f"pack_result({result}, cb_out);"
    if step.loads:
        begin, end = "begin_tile(cb_in, operand_slots);", f"end_tile(cb_in, operand_slots, {result}, cb_out);"
    with block.nested(each("tile", ZERO, count)):
        block.put(begin, *calls, end)


def _streamed(block: Block, step: Product) -> None:
    by, spread = streaming(block.setting, step), is_spread(block.setting.program, step)
    tiled, tiles = by.tiled, by.tiles
    width = str(min(tiled.block, tiles))
    if by.block is not None and tiles % tiled.block:
        width = f"smaller({tiled.block}, {tiles} - block)"
    count = portion(walk.size(step.lead), tiled.split)[1]
    units = each("unit", ZERO, count) if tiled.lead else f"if ({share_name(tiled.split)}.count > 0)"
    with block.nested(units), block.nested(by.group):
        if spread:
            block.put(to_product(step, "cb_rows"))
        k = tiles_of(walk.size(step.k))
        with block.nested(by.block):
            block.put(f"multiply_streamed(cb_rows, cb_weights, cb_out, {k}, {width}, {tiled.planes});")
        if spread:
            _add_rows(block, "LANES")


def _product(block: Block, step: Product) -> None:
    ((_, lead), (_, rows), (_, columns)), _ = parts_of(step, block.setting.program.arrays[step.outs[0]].split)
    k, planes = tiles_of(walk.size(step.k)), f"{len(step.left)}, {len(step.factors)}"
    with block.nested(each("tile", ZERO, _product_of(lead, rows.tiles(), columns.tiles()))):
        block.put(f"multiply_planes(cb_left, cb_right, cb_out, {k}, {planes}, plane_slots);")


def _spread(block: Block, step: Product) -> None:
    step = by_rows(step)
    ((_, count), _, (_, end)), _ = parts_of(step, block.setting.program.arrays[step.outs[0]].split)
    many = ELEMENTS // walk.size(step.columns)
    groups = count.known is None or count.known > many
    group = None if end.known is not None else f"if ({end} > 0)"
    if groups:
        group = f"for (uint32_t group = 0; group < {count}; group += {many})"
    units = [Amount(None, f"smaller({many}, {count} - group)") if groups else count, end.tiles()]
    found = " * ".join(str(n) for n in units if n.known != 1)
    k = tiles_of(walk.size(step.k))
    with block.nested(group):
        block.put(to_product(step, "cb_rows"))
        with block.nested(each("tile", ZERO, Amount(None, found)) if found else None):
            block.put(f"multiply_rows(cb_rows, cb_right, cb_out, {k}, {len(step.factors)}, plane_slots);")
        _add_rows(block, "LOST_ROW + 1")


def _add_rows(block: Block, rows: str) -> None:
    block.put("to_elementwise(cb_in);", f"add_rows(cb_in, operand_slots, cb_out, {rows});")


def to_product(step: Product, left: str) -> str:
    """The call that sets the unpacker up for a product."""
    return f"to_product({left}, {'cb_weights' if step.streamed else 'cb_right'}, {int(step.transposed)});"


def _product_of(*counts: Amount) -> Amount:
    """What is known of a product behind what is not."""
    fixed, loose = prod(c.known for c in counts if c.known is not None), [c for c in counts if c.known is None]
    if not loose:
        return Amount(fixed)
    return Amount(None, " * ".join(map(str, (*loose, *([fixed] if fixed > 1 else [])))))
