"""What no machine holds: an axis, a window, a tensor or a whole model that is too large to be counted in its indices.

Input: an expanded model.  Output: mistakes (E0321) at the line of the stack, before anything is allocated.

A place on an axis is a 32-bit number on every target; the elements of a tensor, and of all of them, are counted up to
2^40, four terabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from cdrmix.diagnose import Report, Span
from cdrmix.ir import layout
from cdrmix.ir.nodes import Apply, Axis, Buffer, Cell, Def, Model, Param, State, Top

MOST_PLACES = 2**31 - 1
"""Places that an axis may have."""

MOST_ELEMENTS = 2**40
"""Elements that a tensor, all weights of a model, or all of its state may have."""

HELP = "mend the settings that it is made of"


def check_sizes(model: Model, report: Report) -> None:
    """Report what is too large (E0321)."""
    lines = {instance.path: line.span for line in model.lines for instance in line.chain}
    told: set[str] = set()
    for place in layout.places(model):
        if place.cell.name not in told:
            told.add(place.cell.name)
            _check_cell(place.cell, lines[place.instance.path], report)
    if report.diagnostics:
        return
    sizes = [prod(w.shape) for w in layout.weights(model) if w.owner == w.path], \
        [prod(s.shape) for s in layout.slots(model)]  # fmt: skip
    for what, all_ in zip(("weights", "state"), sizes, strict=True):
        if sum(all_) > MOST_ELEMENTS:
            report.error("E0321", model.span, f"the {what} of this model have {sum(all_):,} numbers, and 2^40 is the "
                         "most", HELP)  # fmt: skip


def _check_cell(cell: Cell, span: Span, report: Report) -> None:
    large = dict.fromkeys(a for axes in _tensors(cell).values() for a in axes if a.size > MOST_PLACES)
    for axis in large:
        report.error("E0321", span, f"the axis `{axis.name}` of op `{cell.op}` has {axis.size:,} places, and an axis "
                     "has fewer than 2^31", HELP)  # fmt: skip
    for name, axes in _tensors(cell).items() if not large else ():
        count = prod(a.size for a in axes)
        if count > MOST_ELEMENTS:
            shape = ", ".join(str(a.size) for a in axes)
            report.error("E0321", span, f"`{name}` of op `{cell.op}` is [{shape}], {count:,} numbers, and a tensor has "
                         "at most 2^40", HELP)  # fmt: skip


def _tensors(cell: Cell) -> dict[str, tuple[Axis, ...]]:
    """What a cell declares and defines, by name."""
    found = dict(_declared(cell))
    for stmt in cell.body:
        match stmt:
            case Def():
                found.setdefault(stmt.ref.name, tuple(i.axis for i in stmt.indices))
            case Top():
                found.setdefault(stmt.values or stmt.picks or "top", tuple(i.axis for i in (*stmt.lead, stmt.k)))
            case Apply():
                found.setdefault(stmt.name, tuple(i.axis for i in (*stmt.lead, *stmt.outs)))
    return found


def _declared(cell: Cell) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    for x in cell.inputs:
        yield x.name, (*x.axes, *((x.extent,) if x.extent else ()))
    named: tuple[Param | State | Buffer, ...] = (*cell.params, *cell.states, *cell.buffers)
    for p in named:
        yield p.name, tuple(i.axis for i in p.indices)
    for h in cell.histories:
        yield h.name, (h.window, *h.axes)
    for c in cell.carries:
        yield c.name, c.axes
    for part in cell.parts:
        yield part.name, (part.bank.axis,) if part.bank else ()
