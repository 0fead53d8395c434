"""The budget of a plan: what every program holds in L1, moves and costs, as a table.

Input: a program in step form and the target's options; or a plan.
Output: text.  Programs that several lines of the stack share are listed once, with their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdrmix.ir import forms

from ..artefact import deal_out
from ..emit.buffers import setting_of
from ..lower.lines import schedule
from ..plan import ModelPlan, Program
from .devices import DEVICES, Device
from .memory import misfits, own_bytes, size, state_bytes, weight_bytes
from .rates import WORDS, Cost, cost

COLUMNS = (
    "line", "times", "cores", "scratch", "state", "vectors", "buffers", "DRAM", "NoC",
    "stream", "matrix", "compute", "writer", "gathers", "us", "in all",
)  # fmt: skip


def inspect(program: forms.Program, options: Mapping[str, Any]) -> str:
    """The budget of a model for a device, whether or not it fits."""
    device = DEVICES[options["device"]]
    plan = deal_out(schedule(program), device, options.get("cores"))
    wrong = [f"does not fit: {d.message}" for d in misfits(plan, device, program.model)]
    return "\n".join([*heading(plan, device), "", *table(plan, device), "", *total(plan, device), *wrong])


def heading(plan: ModelPlan, device: Device) -> list[str]:
    """What the table is of, and what it assumes."""
    x, y = device.grid
    speed, memory = f"{device.clock / 1e9:g} GHz", f"{device.dram_bandwidth / 1e9:g} GB/s"
    return [
        f"{device.title}: {device.cores} cores ({x}x{y}) at {speed}, "
        f"{size(device.l1_bytes)} of L1 and {device.link_bytes} bytes a cycle each,",
        f"{size(device.dram_bytes)} of DRAM at {memory}.  Counted, not measured:",
        *(f"  {words}" for words in WORDS),
        "A line's time is the larger of stream (weights from DRAM) and matrix (products with them), and behind it",
        "compute (all other work on tiles), writer, gathers and a launch.  Bytes are kB, in L1 those of one core;",
        "times are those of the busiest core, in us a token.",
    ]


@dataclass(frozen=True, slots=True)
class Row:
    """A program, how many lines run it, and what a call of it costs."""

    program: Program
    lines: int
    cost: Cost


def rows(plan: ModelPlan, device: Device) -> list[Row]:
    """The programs in the order of the stack."""
    counts: dict[str, int] = {}
    for call in plan.calls:
        counts[call.program] = counts.get(call.program, 0) + 1
    return [Row(plan.programs[n], count, cost(plan.programs[n], device)) for n, count in counts.items()]


def table(plan: ModelPlan, device: Device) -> list[str]:
    """The table's lines."""
    cells = [COLUMNS, *(_cells(row) for row in rows(plan, device))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in cells)
    return ["  ".join(line).rstrip() for line in lines]


def total(plan: ModelPlan, device: Device) -> list[str]:
    """The whole model's figures."""
    found = sum((row.cost * row.lines for row in rows(plan, device)), Cost())
    seconds = sum(row.cost.seconds * row.lines for row in rows(plan, device))
    least = found.dram_bytes / device.dram_bandwidth
    held = max(own_bytes(p) + buffer_bytes(p) for p in plan.programs.values())
    memory = device.l1_bytes - device.reserved_bytes
    return [
        f"a token: {seconds * 1e6:.0f} us, {1 / seconds:.0f} tokens a second; "
        f"{size(found.dram_bytes)} from DRAM alone take {least * 1e6:.0f} us",
        f"L1 of a core: {size(state_bytes(plan))} for the states of all lines, "
        f"at most {size(held)} for a line at work, of {size(memory)}",
        f"DRAM: {size(weight_bytes(plan))} of weights, of {size(device.dram_bytes)}",
    ]


def buffer_bytes(program: Program) -> int:
    """L1 of a program's circular buffers, its scratch memory and vectors left out."""
    buffers = setting_of(program).buffers
    return sum(b.page_bytes * b.pages for b in buffers if b.name not in ("cb_scratch", "cb_vectors"))


def _cells(row: Row) -> Sequence[str]:
    p, c = row.program, row.cost
    memories = (p.scratch_bytes, p.state_bytes, p.vectors_bytes, buffer_bytes(p), c.dram_bytes, c.noc_bytes)
    times = (c.stream, c.matrix, c.compute, c.writer, c.gathers, c.seconds, c.seconds * row.lines)
    kilo = (f"{n / 1000:.1f}" if n < 100_000 else f"{n / 1000:.0f}" for n in memories)
    return (p.title, str(row.lines), str(p.cores), *kilo, *(f"{t * 1e6:.0f}" for t in times))
