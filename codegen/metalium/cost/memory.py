"""Whether a plan fits its device.

Input: a plan with offsets, and the model for the places of its lines.
Output: what does not fit, as diagnostics with the line of the stack, the bytes and the remedy.

A core's L1 holds the states of all lines at once, and of one line at a time the scratch memory and the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from cdrmix.diagnose import Diagnostic
from cdrmix.ir.nodes import Model

from ..deal.streams import tile_bytes
from ..plan import CallOf, ModelPlan, Program, Tensor
from .devices import DEVICES, Device

ELEMENT_BYTES = {"f32": 4, "i32": 4, "bf16": 2}

SMALLER = "make the states smaller (a shorter window, smaller heads, fewer layers)"


def state_bytes(plan: ModelPlan) -> int:
    """L1 that the states of all lines take on a core."""
    return sum(plan.programs[call.program].state_bytes for call in plan.calls)


def own_bytes(program: Program) -> int:
    """L1 that a program takes on a core while it runs, beside the states and the circular buffers."""
    return program.scratch_bytes + program.vectors_bytes


def weight_bytes(plan: ModelPlan) -> int:
    """DRAM that the weights take, each tensor once however many lines read it."""
    return sum({call.tensors[t.name]: tensor_bytes(t) for call, t in _tensors(plan)}.values())


def tensor_bytes(tensor: Tensor) -> int:
    """DRAM that a tensor takes."""
    if tensor.tiled is not None:
        return tensor.tiled.sizes(tensor.shape).pages * tile_bytes(tensor)
    return prod(tensor.shape) * ELEMENT_BYTES[tensor.dtype]


def misfits(plan: ModelPlan, device: Device, model: Model) -> list[Diagnostic]:
    """What of the plan does not fit the device: L1 first, then DRAM."""
    spans = {line.path: line.span for line in model.lines}
    states, weights, found = state_bytes(plan), weight_bytes(plan), list[Diagnostic]()
    by = plan.programs
    largest = max(plan.calls, key=lambda c: own_bytes(by[c.program]))
    kept = max(plan.calls, key=lambda c: by[c.program].state_bytes)
    own = own_bytes(by[largest.program])
    # where most weights are in two planes; a router's are in any case
    wide = {call.tensors[t.name]: tensor_bytes(t) for call, t in _tensors(plan) if t.tiled and t.tiled.planes > 1}
    cheaper = ["store the weights as bf16 (`--quant bf16`)"] * (2 * sum(wide.values()) > weights)
    if states + own > device.array_bytes:
        most = largest if own >= by[kept.program].state_bytes else kept
        more = ["give it more cores"] * (max(program.cores for program in by.values()) < device.cores)
        found.append(
            Diagnostic(
                "E0909",
                spans[most.path],
                f"{size(states + own)} of a core's memory are needed, and {device.title} has "
                f"{size(device.array_bytes)}: {size(states)} for the states of all lines, of which `{most.path}` has "
                f"{size(by[most.program].state_bytes)}, and {size(own)} for the values of `{largest.path}`",
                ", or ".join([*cheaper, SMALLER, *more]),
            )
        )
    if weights > device.dram_bytes:
        larger = [other.name for other in DEVICES.values() if other.dram_bytes > device.dram_bytes]
        cards = [f"take a card with more memory (`--device {name}`)" for name in larger]
        found.append(
            Diagnostic(
                "E0909",
                model.span,
                f"the weights take {size(weights)} of DRAM, and {device.title} has {size(device.dram_bytes)}",
                ", or ".join([*cheaper, *cards]) or "give the model fewer or smaller layers",
            )
        )
    return found


def size(count: int) -> str:
    """Bytes as people write them, in powers of ten."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} B"


def _tensors(plan: ModelPlan) -> Iterator[tuple[CallOf, Tensor]]:
    """The tensors that hold weights, by the calls that read them."""
    for call in plan.calls:
        for tensor in plan.programs[call.program].tensors.values():
            if tensor.name in call.weights or tensor.kind == "vectors":
                yield call, tensor
