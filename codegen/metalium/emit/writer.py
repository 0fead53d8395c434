"""The writer kernel's steps.

Input: the setting of a program.
Output: C++ lines of each step: operands into pages, results out of them, what only moves, and the meetings of cores.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import singledispatch

from cdrmix.ir import walk
from cdrmix.ir.nodes import Index
from cdrmix.ir.steps import Copy, Extreme, Map, Product, Step, TopK, Whole

from ..plan import TILE, Fetch, Gather, Write, by_owner
from .amounts import ZERO, Amount, own_elements, portion
from .block import Block
from .buffers import Setting, is_spread
from .matrices import page, tiled_map
from .names import accessor, index_name
from .places import place_rule, singly
from .products import product_of_arrays, rows_by_array, streamed_product
from .registers import fillings


def writer_step(setting: Setting, number: int, headers: set[str]) -> list[str]:
    """The lines of a step, behind the picks that can be told before it; `headers` grows by what they call."""
    block = Block(setting, headers)
    for instance in setting.picks.get(number, ()):
        block.call("send_pick", "cb_picks", block.whole(instance))
    step_lines(setting.program.steps[number], block)
    return block.text()


@singledispatch
def step_lines(step: Step, block: Block) -> None:
    """One step."""
    raise TypeError(type(step).__name__)


def span(block: Block, name: str, indices: tuple[Index, ...]) -> tuple[Amount, Amount]:
    """Which of a step's elements are this core's: it runs over the units of what it writes."""
    return portion(walk.size(indices), block.setting.program.arrays[name].split)


@step_lines.register
def _(step: Map, block: Block) -> None:
    program = block.setting.program
    out = program.arrays[step.out]
    if out.layout == "tiles":
        tiled_map(step, block, fillings(program, step))
        return
    first, count = span(block, step.out, step.indices)
    total = walk.size(step.indices)
    most = total if out.split is None else total // out.split.lead * out.split.each
    loop, own = "", count  # where one tile holds all, a plain block
    if most > TILE * TILE:
        loop = f"for (uint32_t e = {first}, end = e + {count}; e < end; e += TILE_ELEMENTS)"
    elif count.known is None:
        loop = f"if (const uint32_t e = {first}, count = {count}; count > 0)"
    if loop:
        first, own = Amount(None, "e"), Amount(None, "count")
    with block.nested(loop):
        if most > TILE * TILE:
            block.put("const uint32_t count = smaller(TILE_ELEMENTS, end - e);")
        if step.loads:
            block.put("const uint32_t operands = reserve_pages(cb_in, operand_slots);")
            for number, load in enumerate(step.loads):
                block.take(page(block, number), load, step.indices, first, own)
            block.put("push_pages(cb_in, operand_slots);")
        block.give(place_rule(out, step.indices, step.place), "wait_page(cb_out)", step.indices, first, own)
        block.put("pop_page(cb_out);")


@step_lines.register
def _(step: Copy, block: Block) -> None:
    arrays = block.setting.program.arrays
    out, source = arrays[step.out], arrays[step.load.array]
    target = place_rule(out, step.indices, step.place)
    if out.layout == source.layout == "tiles" and replace(block.rule(step.load), array=out.name) == target:
        first, count = own_elements(out)
        block.put(f"copy_words({block.array(step.out)}.at({first}), {block.array(source.name)}.at({first}), {count});")
    elif out.split is not None and step.place is not None and by_owner(step, out):
        first, count = portion(out.shape[0], out.split)
        at = block.whole(step.place[0])
        with block.nested(f"if (const uint32_t at = {at}; at >= {first} && at < {first} + {count})"):
            block.copy(target, step.load, step.indices, ZERO, Amount(walk.size(step.indices)))
    else:
        block.copy(target, step.load, step.indices, *span(block, step.out, step.indices))


@step_lines.register
def _(step: Whole, block: Block) -> None:
    out = block.setting.program.arrays[step.out]
    rule = place_rule(out, step.indices, None)
    word = "float_bits" if out.dtype == "f32" else "int32_t"
    block.set(rule, step.indices, *span(block, step.out, step.indices), step.value, word)


@step_lines.register
def _(step: Extreme, block: Block) -> None:
    target = place_rule(block.setting.program.arrays[step.out], step.indices, None)
    inner, outer = singly(step.bound), singly(step.indices) or [()]
    offered = block.word(block.rule(step.load), [*outer, *inner])
    with block.each(outer, *span(block, step.out, step.indices)):
        block.put(f"{block.use('Extreme')}<{'true' if step.kind == 'max' else 'false'}> best;")
        with ExitStack() as loops:
            for (i,) in inner:
                loops.enter_context(block.nested(values_of(i)))
            block.put(f"best.offer({offered});")
        block.put(f"words_at({block.array(step.out)}.at({block.element(target, outer)}))[0] = best.bits;")


@step_lines.register
def _(step: TopK, block: Block) -> None:
    arrays = block.setting.program.arrays
    outer: list[tuple[Index, ...]] = singly(step.lead) or [()]
    over, k = index_name(step.over), index_name(step.k)
    out = arrays[step.picks or step.values or ""]
    with block.each(outer, *portion(walk.size(step.lead), out.split)):
        block.put(f"{block.use('TopK')}<{step.k.axis.size}> best;")
        with block.nested(values_of(step.over)):
            block.put(f"best.offer({block.word(block.rule(step.load), [*outer, *singly([step.over])])}, {over});")
        with block.nested(values_of(step.k)):
            for name, what in ((step.values, "bits"), (step.picks, "place")):
                if name is not None:
                    place = block.element(
                        place_rule(arrays[name], (*step.lead, step.k), None), [*outer, *singly([step.k])]
                    )
                    block.put(f"words_at({block.array(name)}.at({place}))[0] = best.{what}[{k}];")


def values_of(i: Index) -> str:
    """The head of a loop over an index."""
    return f"for (int32_t {index_name(i)} = 0; {index_name(i)} < {i.axis.size}; ++{index_name(i)})"


@step_lines.register
def _(step: Product, block: Block) -> None:
    if step.streamed:
        streamed_product(step, block)
    else:
        (rows_by_array if is_spread(block.setting.program, step) else product_of_arrays)(step, block)


@step_lines.register
def _(step: Gather, block: Block) -> None:
    program = block.setting.program
    source, out = block.array(step.source), block.array(step.out)
    first, count = own_elements(program.arrays[step.source])
    if program.cores == 1:
        block.put(f"copy_words({out}.at({first}), {source}.at({first}), {count});")
        return
    at = next(n for n, s in enumerate(program.steps) if s is step)
    turn = sum(isinstance(s, Gather) for s in program.steps[: at + 1])
    block.call("meet", "cores", "semaphore_free", turn)
    block.call("gather", "cores", out, source, first, count, "bounce")
    block.call("meet", "cores", "semaphore_landed", turn)


@step_lines.register
def _(step: Fetch, block: Block) -> None:
    program = block.setting.program
    tensor = program.tensors[step.tensor]
    row = "0" if step.row is None else block.whole(step.row)
    way = "fetch_halves" if tensor.dtype == "bf16" else "fetch_words"
    own = own_elements(program.arrays[step.out])
    block.call(way, accessor(tensor.name), tensor.shape[-1], row, block.array(step.out), *own, "bounce")


@step_lines.register
def _(step: Write, block: Block) -> None:
    program = block.setting.program
    array, tensor = program.arrays[step.source], program.tensors[step.tensor]
    own = own_elements(array)
    with block.nested("if (core == 0)" if array.split is None and program.cores > 1 else None):
        block.call("write_words", accessor(tensor.name), tensor.shape[-1], block.array(array.name), *own, "bounce")
