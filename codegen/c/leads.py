"""A loop over the first index of a matrix state, in a function of its own: threads share the values of that index.

Input: a segment of a cell whose statements all stand at one value of it.  Output: the function, for all tokens of a
block, and the lines that call it.  What the statements make at one value, none of them touches at another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdrmix.codegen.c import structs
from cdrmix.codegen.c.blocks import Segment
from cdrmix.codegen.c.names import comment
from cdrmix.codegen.c.nest import EACH_TOKEN, indented

from cdrmix.ir import walk
from cdrmix.ir.nodes import Def

if TYPE_CHECKING:
    from cdrmix.codegen.c.cell import CellWriter


def shared(cell: CellWriter, segment: Segment) -> list[str]:
    """Write the function; the lines that call it."""
    lead, index, body = cell.at_lead(segment.each)
    cell.shape.scratch = cell.shape.scratch_name  # its definitions lie there; the parameters below name it
    function = cell.names.name(f"{cell.shape.function}_{lead.name}")
    job, names, parameters = cell.names.name(f"{function}_job"), cell.arguments(), cell.parameters()
    token = indented(EACH_TOKEN, [*cell.of_one(segment.each), *cell.loop, *body])
    used = cell.used(segment.each)
    inside = [
        f"const {job} *const given = job;",
        *(f"{one} = given->{name};" for one, name in zip(parameters, names, strict=True) if name in used),
        *cell.weights(segment.each),
        *indented(f"for (ptrdiff_t {index} = begin; {index} < end; {index}++)", token),
    ]
    cell.shared += [
        *structs.struct(job, [f"{one};" for one in parameters]),
        f"/* {comment(cell.shape.cell.op)}: all tokens, at the values of {comment(lead.name)} from `begin` to `end` */",
        f"static void {function}(const void *job, ptrdiff_t begin, ptrdiff_t end)",
        "{",
        *(f"  {line}" if line else "" for line in inside),
        "}",
        "",
    ]
    given, states = cell.scope.name("shared"), [s for s in segment.each if isinstance(s, Def) and s.ref.kind == "next"]
    each = sum(walk.size(s.indices) for s in states)
    return [
        "",
        f"const {job} {given} = {{{', '.join(names)}}};",
        f"cdr_share(cdr_workers_for(block, {each}), {function}, &{given}, {lead.axis.size});",
    ]
