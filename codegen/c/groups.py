"""A part, or the instances of a bank, applied to several rows of each token of a block.

Output: lines that give each instance all its rows at once, so that its weights are read once for them.  What a row
gives depends on nothing but itself, so that their order changes no bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

from cdrmix.codegen.c.access import flat
from cdrmix.codegen.c.nest import braced
from cdrmix.codegen.c.structs import Shape

from cdrmix.ir import walk
from cdrmix.ir.nodes import Apply, Ref

if TYPE_CHECKING:
    from cdrmix.codegen.c.cell import CellWriter


def grouped(cell: CellWriter, stmt: Apply, part: str, inner: Shape) -> Iterator[str]:
    """`name[lead, outs] = part[select](inputs)[outs]` for all tokens; the rows are the values of `lead` of each."""
    count, size, nest = walk.size(stmt.lead), walk.size(stmt.outs), cell.nest()
    i, n, place, rows, instance = (nest.scope.name(name) for name in ("i", "n", "place", "rows", "instance"))
    chosen, row = (cell.array(f"{part}_{name}", count, "int32_t", block=True) for name in ("chosen", "row"))
    pos, made = cell.array(f"{part}_pos", 1, "int64_t", block=True), cell.array(f"{part}_made", size, block=True)
    yield from cell.each_token(lambda: _choose(cell, stmt, chosen, count))
    gather, given = [f"{pos}[{i}] = block->pos[{row}[{i}] / {count}];"], list[str]()
    for g, formal in zip(stmt.inputs, inner.cell.inputs, strict=True):
        each, at = prod(a.size for a in formal.axes), f"{row}[{i}]" if g.lead else f"{row}[{i}] / {count}"
        given.append(cell.array(f"{part}_{formal.name}", each, block=True))
        copied = f"{given[-1]} + {i} * {each}, {cell.all_of(g.ref)} + {at} * {each}, {each} * sizeof(float)"
        gather.append(f"memcpy({copied});")
    of_part = f"wt->{cell.shape.weight_members[part]}"
    weights = of_part if stmt.select is None else f"{inner.weights}_at({of_part}, {place})"
    called = inner.arguments(f"&{rows}", f"&{instance}", "0", given, made, f"&tmp->part.{inner.scratch}")
    out = cell.all_of(Ref("def", stmt.name))
    copied = f"{out} + {row}[{i}] * {size}, {made} + {i} * {size}, {size} * sizeof(float)"
    each_row = f"for (ptrdiff_t {i} = 0; {i} < {n}; {i}++)"
    body = [
        *braced(each_row, gather),
        f"const {inner.weights} {instance} = {weights};",
        f"const cdr_block {rows} = {{{n}, NULL, {pos}, NULL, block->workers}};",
        f"{inner.function}({', '.join(called)});",
        *braced(each_row, [f"memcpy({copied});"]),
    ]
    some = f"cdr_rows_of_one({chosen}, block->n * {count}, &{place}, {row}, CDR_BLOCK)"
    yield from braced(f"for (ptrdiff_t {place}, {n}; ({n} = {some}) > 0;)", body)


def _choose(cell: CellWriter, stmt: Apply, chosen: str, count: int) -> list[str]:
    """Which instance each row of a token is given to."""
    nest = cell.nest(stmt.select)
    nest.open(*stmt.lead)
    place = nest.expression(stmt.select, "i").c if stmt.select is not None else "0"
    at = flat([nest.named[i] for i in stmt.lead], walk.sizes(stmt.lead)).c
    nest.line(f"{chosen}[t * {count} + {at}] = (int32_t){place};")
    return nest.lines()
