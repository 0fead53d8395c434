"""The writer kernel's steps.

Input: the setting of a program.
Output: C++ lines of each step: operands into pages, results out of them, what only moves, and the meetings of cores.
"""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch
from math import prod

from cdrmix.ir.nodes import Index

from .fillings import fillings
from .integers import whole
from .moves import Block, box, own_elements, portion
from .plan import TILE, Array, Copy, Extreme, Fetch, Gather, Map, Product, Step, Streamed, TopK, Whole, Write
from .products_text import product_of_arrays, streamed_product
from .rings import by_owner
from .rows_text import array_rows, streamed_rows
from .rules import groups_of, load_rule, place_rule
from .setting import Setting, identifier, index_name, is_spread
from .tiled_text import page, tiled_map


def writer_step(setting: Setting, number: int) -> list[str]:
    """The lines of a step, behind the picks that can be told before it."""
    block = Block(setting)
    for instance in setting.picks.get(number, ()):
        block.put(f"send_pick(cb_picks, {whole(instance, block.name)});")
    step_lines(setting.program.steps[number], block)
    return block.text()


@singledispatch
def step_lines(step: Step, block: Block) -> None:
    """One step."""
    raise TypeError(type(step).__name__)


def span(block: Block, name: str, indices: tuple[Index, ...]) -> tuple[str, str]:
    """Which of a step's elements are this core's: it runs over the units of what it writes."""
    return portion(prod(i.axis.size for i in indices), block.setting.program.arrays[name].split)


@step_lines.register
def _(step: Map, block: Block) -> None:
    program = block.setting.program
    out = program.arrays[step.out]
    if out.layout == "tiles":
        tiled_map(step, block, fillings(program, step))
        return
    first, count = open_tiles(block, *span(block, step.out, step.indices), most_elements(out, step.indices))
    if step.loads:
        block.put("const uint32_t operands = reserve_pages(cb_in, operand_slots);")
        for number, load in enumerate(step.loads):
            block.take(page(number), load, step.indices, first, count)
        block.put("push_pages(cb_in, operand_slots);")
    block.give(place_rule(out, step.indices, step.place), "wait_page(cb_out)", step.indices, first, count)
    block.put("pop_page(cb_out);")
    block.close()


def most_elements(out: Array, indices: tuple[Index, ...]) -> int:
    """The most elements that a core works on in a step."""
    total = prod(i.axis.size for i in indices)
    return total if out.split is None else total // out.split.lead * out.split.each


def open_tiles(block: Block, first: str, count: str, most: int) -> tuple[str, str]:
    """A loop over tiles of consecutive elements; where one tile holds all, a plain block.  Gives what to call the first
    element of a tile and how many it has."""
    if most > TILE * TILE:
        block.open(f"for (uint32_t e = {first}, end = e + {count}; e < end; e += TILE_ELEMENTS)")
        block.put("const uint32_t count = smaller(TILE_ELEMENTS, end - e);")
        return "e", "count"
    if count.isdigit():
        block.open("")
        return first, count
    block.open(f"if (const uint32_t e = {first}, count = {count}; count > 0)")
    return "e", "count"


@step_lines.register
def _(step: Copy, block: Block) -> None:
    arrays = block.setting.program.arrays
    out, source = arrays[step.out], arrays[step.load.array]
    target = place_rule(out, step.indices, step.place)
    plain = load_rule(source, step.load)
    if out.layout == source.layout == "tiles" and replace(plain, array=out.name) == target:
        first, count = own_elements(out)
        block.put(f"copy_words({block.array(step.out)}.at({first}), {block.array(source.name)}.at({first}), {count});")
        return
    if out.split is not None and by_owner(step, out):
        assert step.place is not None
        first, count = portion(out.shape[0], out.split)
        block.open(
            f"if (const uint32_t at = {whole(step.place[0], block.name)}; at >= {first} && at < {first} + {count})"
        )
        block.copy(target, step.load, step.indices, "0", str(prod(i.axis.size for i in step.indices)))
        block.close()
        return
    block.copy(target, step.load, step.indices, *span(block, step.out, step.indices))


@step_lines.register
def _(step: Whole, block: Block) -> None:
    out = block.setting.program.arrays[step.out]
    value = whole(step.value, block.name)
    value = f"float_bits({value})" if out.dtype == "f32" else f"int32_t({value})"
    rule = place_rule(out, step.indices, None)
    block.set(rule, step.indices, *span(block, step.out, step.indices), value)


@step_lines.register
def _(step: Extreme, block: Block) -> None:
    arrays = block.setting.program.arrays
    rule = load_rule(arrays[step.load.array], step.load)
    inner = [(i,) for i in step.bound if i.axis.size > 1]
    outer = groups_of(step.indices, [rule, place_rule(arrays[step.out], step.indices, None)], step.indices)
    first, count = span(block, step.out, step.indices)
    best = "best.offer(" + block.word(step.load, rule, [*outer, *inner]) + ");"
    target = place_rule(arrays[step.out], step.indices, None)
    names = ", ".join(f"int32_t {index_name(g[0])}" if g else "int32_t" for g in outer)
    block.open(f"each_element<{box(outer)}>({first}, {count}, [&]({names})")
    block.put(f"Extreme<{'true' if step.kind == 'max' else 'false'}> best;")
    for (i,) in inner:
        name = index_name(i)
        block.open(f"for (int32_t {name} = 0; {name} < {i.axis.size}; ++{name})")
    block.put(best)
    block.close(len(inner))
    block.put(f"words_at({block.array(step.out)}.at({block.element(target, outer)}))[0] = best.bits;")
    block.close()
    block.lines[-1] += ");"


@step_lines.register
def _(step: TopK, block: Block) -> None:
    arrays = block.setting.program.arrays
    rule = load_rule(arrays[step.load.array], step.load)
    lead = tuple(i for i in step.lead if i.axis.size > 1)
    outer: list[tuple[Index, ...]] = [(i,) for i in lead] or [()]
    names = ", ".join(f"int32_t {index_name(g[0])}" if g else "int32_t" for g in outer)
    total = prod(i.axis.size for i in step.lead)
    out = arrays[step.picks or step.values or ""]
    first, count = portion(total, out.split)
    block.open(f"each_element<{box(outer)}>({first}, {count}, [&]({names})")
    over, k = index_name(step.over), index_name(step.k)
    inner = [*outer, *([(step.over,)] if step.over.axis.size > 1 else [])]
    block.put(f"TopK<{step.k.axis.size}> best;")
    block.open(f"for (int32_t {over} = 0; {over} < {step.over.axis.size}; ++{over})")
    block.put(f"best.offer({block.word(step.load, rule, inner)}, {over});")
    block.close()
    block.open(f"for (int32_t {k} = 0; {k} < {step.k.axis.size}; ++{k})")
    for name, what in ((step.values, "bits"), (step.picks, "place")):
        if name is not None:
            target = place_rule(arrays[name], (*step.lead, step.k), None)
            groups = [*outer, *([(step.k,)] if step.k.axis.size > 1 else [])]
            block.put(f"words_at({block.array(name)}.at({block.element(target, groups)}))[0] = best.{what}[{k}];")
    block.close(2)
    block.lines[-1] += ");"


@step_lines.register
def _(step: Product, block: Block) -> None:
    streamed = isinstance(step.right, Streamed)
    if is_spread(block.setting.program, step):
        (streamed_rows if streamed else array_rows)(step, block)
    else:
        (streamed_product if streamed else product_of_arrays)(step, block)


@step_lines.register
def _(step: Gather, block: Block) -> None:
    arrays = block.setting.program.arrays
    source, out = block.array(step.source), block.array(step.out)
    first, count = own_elements(arrays[step.source])
    if block.setting.program.cores == 1:
        block.put(f"copy_words({out}.at({first}), {source}.at({first}), {count});")
        return
    steps = block.setting.program.steps
    at = next(n for n, s in enumerate(steps) if s is step)
    round_ = sum(isinstance(s, Gather) for s in steps[: at + 1])
    block.put(
        f"meet(cores, semaphore_free, {round_});",
        f"gather(cores, {out}, {source}, {first}, {count}, bounce);",
        f"meet(cores, semaphore_landed, {round_});",
    )


@step_lines.register
def _(step: Fetch, block: Block) -> None:
    program = block.setting.program
    tensor = program.tensors[step.tensor]
    first, count = own_elements(program.arrays[step.out])
    row = "0" if step.row is None else whole(step.row, block.name)
    way = "fetch_halves" if tensor.dtype == "bf16" else "fetch_words"
    source = accessor(tensor.name)
    block.put(f"{way}({source}, {tensor.shape[-1]}, {row}, {block.array(step.out)}, {first}, {count}, bounce);")


@step_lines.register
def _(step: Write, block: Block) -> None:
    program = block.setting.program
    array, tensor = program.arrays[step.source], program.tensors[step.tensor]
    first, count = own_elements(array)
    to, source = f"{accessor(tensor.name)}, {tensor.shape[-1]}", block.array(array.name)
    line = f"write_words({to}, {source}, {first}, {count}, bounce);"
    if array.split is None and program.cores > 1:
        block.open("if (core == 0)")
        block.put(line)
        block.close()
    else:
        block.put(line)


def accessor(name: str) -> str:
    """The C++ name of a tensor in DRAM."""
    return f"{identifier(name)}_in_dram"
