"""The steps of the compute kernel and of the reader.

Input: the setting of a program, and a step.
Output: C++ lines: for the compute kernel those of what computes anything, with the mode of the unpacker that it wants;
for the reader which pages of a streamed product's matrix the core reads.
"""

from __future__ import annotations

from math import prod

from cdrmix.ir import walk
from cdrmix.ir.steps import Map, Product, Step

from ..plan import Program
from .amounts import Amount, portion, tiles_of
from .buffers import Setting, by_rows, is_spread
from .names import accessor, share_name
from .products import ELEMENTS, Parts, across, group_tiles, tiled_of
from .registers import evaluate, fillings


def mode(program: Program, step: Step) -> str | None:
    """The call that sets the unpacker up for a step; empty if it does so itself, None for what computes nothing."""
    match step:
        case Map():
            return "to_elementwise(cb_in);" if step.loads else ""
        case Product() if is_spread(program, step):
            return ""
        case Product():
            return _to_product(step, "cb_rows" if step.streamed else "cb_left")
        case _:
            return None


def compute_step(setting: Setting, step: Step) -> list[str]:
    """The lines of a step that computes something."""
    match step:
        case Map():
            return _map(setting, step)
        case Product():
            if step.streamed:
                return _streamed(setting, step)
            return (_spread if is_spread(setting.program, step) else _product)(setting, step)
    return []


def reader_step(setting: Setting, step: Step) -> list[str]:
    """The lines of a step; none unless it streams."""
    if not isinstance(step, Product) or step.streamed is None:
        return []
    tiled, tensor = tiled_of(setting, step), setting.program.tensors[step.streamed]
    each = tiled.sizes(tensor.shape).own_pages * tiled.planes
    if not tiled.lead:
        count = f"{share_name(tiled.split)}.count > 0 ? {each} : 0"
    elif tiled.split.each == tiled.split.lead:
        count = str(each)
    else:
        unit = across(step, tiled) * tiles_of(walk.size(step.k)) * tiled.planes
        count = f"{portion(walk.size(step.lead), tiled.split)[1]} * {unit}"
    first = "core" if step.instance is None else f"(next_pick(cb_picks) * {tiled.cores} + core)"
    return [f"weights.read({accessor(tensor.name)}, {first} * {each}, {count});"]


def _map(setting: Setting, step: Map) -> list[str]:
    out = setting.program.arrays[step.out]
    if out.layout == "tiles":
        lead, (rows, columns) = step.indices[:-2], walk.sizes(step.indices[-2:])
        count = portion(walk.size(lead), out.split)[1].times(tiles_of(rows) * tiles_of(columns))
    else:
        elements = portion(walk.size(step.indices), out.split)[1]
        known = elements.known
        count = Amount(None, f"tiles_of({elements})") if known is None else Amount(-(-known // ELEMENTS))
    calls, result = evaluate(step.value, fillings(setting.program, step))
    if step.loads:
        end = f"end_tile(cb_in, operand_slots, {result}, cb_out);"
        return loop("tile", count, ["begin_tile(cb_in, operand_slots);", *calls, end])
    return loop("tile", count, ["tile_regs_acquire();", *calls, f"pack_result({result}, cb_out);"])


def _streamed(setting: Setting, step: Product) -> list[str]:
    tiled, spread = tiled_of(setting, step), is_spread(setting.program, step)
    tiles, group = across(step, tiled), group_tiles(tiled.block)
    groups, blocks = spread and tiles > group, tiles > tiled.block
    begin, end = ("group", f"smaller(group + {group}, {tiles})") if groups else ("0", str(tiles))
    width = str(min(tiled.block, tiles))
    if blocks and tiles % tiled.block:
        width = f"smaller({tiled.block}, {tiles} - block)"
    k = tiles_of(walk.size(step.k))
    body = [f"multiply_streamed(cb_rows, cb_weights, cb_out, {k}, {width}, {tiled.planes});"]
    if blocks:
        body = _nested(f"for (uint32_t block = {begin}; block < {end}; block += {tiled.block})", body)
    if spread:
        body = [_to_product(step, "cb_rows"), *body, *_added("LANES")]
    if groups:
        body = _nested(f"for (uint32_t group = 0; group < {tiles}; group += {group})", body)
    if tiled.lead:
        return loop("unit", portion(walk.size(step.lead), tiled.split)[1], body)
    return _nested(f"if ({share_name(tiled.split)}.count > 0)", body)


def _product(setting: Setting, step: Product) -> list[str]:
    parts = Parts(step, setting.program.arrays[step.outs[0]].split)
    count = _product_of(parts.lead[1], parts.rows[1].tiles(), parts.columns[1].tiles())
    k, planes = tiles_of(walk.size(step.k)), f"{len(step.left)}, {len(step.factors)}"
    return loop("tile", count, [f"multiply_planes(cb_left, cb_right, cb_out, {k}, {planes}, plane_slots);"])


def _spread(setting: Setting, step: Product) -> list[str]:
    step = by_rows(step)
    parts = Parts(step, setting.program.arrays[step.outs[0]].split)
    many, count, end = ELEMENTS // walk.size(step.columns), parts.lead[1], parts.columns[1]
    groups = count.known is None or count.known > many
    units = [Amount(None, f"smaller({many}, {count} - group)") if groups else count, end.tiles()]
    found = " * ".join(str(n) for n in units if n.known != 1)
    k = tiles_of(walk.size(step.k))
    call = f"multiply_rows(cb_rows, cb_right, cb_out, {k}, {len(step.factors)}, plane_slots);"
    body = [
        _to_product(step, "cb_rows"),
        *(_nested(f"for (uint32_t tile = 0; tile < {found}; ++tile)", [call]) if found else [call]),
        *_added("LOST_ROW + 1"),
    ]
    if groups:
        return _nested(f"for (uint32_t group = 0; group < {count}; group += {many})", body)
    return body if end.known is not None else _nested(f"if ({end} > 0)", body)


# --- text ------------------------------------------------------------------------------------------------------------
def _to_product(step: Product, left: str) -> str:
    return f"to_product({left}, {'cb_weights' if step.streamed else 'cb_right'}, {int(step.transposed)});"


def _added(rows: str) -> list[str]:
    return ["to_elementwise(cb_in);", f"add_rows(cb_in, operand_slots, cb_out, {rows});"]


def _product_of(*counts: Amount) -> Amount:
    """What is known of a product behind what is not."""
    fixed, loose = prod(c.known for c in counts if c.known is not None), [c for c in counts if c.known is None]
    if not loose:
        return Amount(fixed)
    return Amount(None, " * ".join(map(str, (*loose, *([fixed] if fixed > 1 else [])))))


def loop(name: str, count: Amount, body: list[str]) -> list[str]:
    """So many times; plainly where it is once."""
    return body if count.known == 1 else _nested(f"for (uint32_t {name} = 0; {name} < {count}; ++{name})", body)


def _nested(head: str, body: list[str]) -> list[str]:
    return [f"{head} {{", *(f"    {line}" for line in body), "}"]
