"""What the host allocates and launches, as plain data for the manifest.

Input: a `ModelPlan`.
Output, as JSON can hold it:

    device, grid [x, y]        core number c of a program is at logical (c % x, c // x)
    tensors {global name: …}   what lies in DRAM, and L1 state apart
        kind, dtype, pages, page_bytes
        shape                  of a streamed parameter: its axes as `tiled` numbers them
        tiled                  the fields of `plan.Tiled`, of a streamed parameter (its pages counted with their planes)
        weight                 the owner path of a parameter, or None
        parts                  of `vectors`: [owner path or "=" + constant's name, first element, count]
        constants              of `vectors`: {name: numbers}
    programs {name: …}
        title, cores, kernels {role: file}, semaphores
        cbs                    [{name, index, format, page_bytes, pages, unpack_to_dest}]
        dst_full_sync          true: all eight f32 tiles of DST belong to one user at a time
        tensors                local names, those of the reader first
        reader_tensors, writer_tensors
                               what each takes accessors for: compile-time arguments are their `TensorAccessorArgs` in
                               this order, runtime arguments [core number, state's address, their addresses …], for
                               the writer of several cores then NoC x, y of every core
    calls [{…}]                one a line of the stack, in order
        path, program, tensors {local name: global name}
        state                  {bytes, arrays [{slot, offset, shape, layout, split, dtype, ring}]}; `ring` is a
                               history's window or 0
"""

from __future__ import annotations

from dataclasses import asdict
from math import prod
from typing import Any

from ..cost.devices import DEVICES
from ..plan import CallOf, ModelPlan, Program, Tensor
from .buffers import FLAT_PAGE, Setting, setting_of
from .kernels import ROLES, kernel_file, page_bytes


def launch_description(plan: ModelPlan) -> dict[str, Any]:
    """See the module."""
    settings = {name: setting_of(p) for name, p in plan.programs.items()}
    tensors: dict[str, Any] = {}
    for call in plan.calls:
        for local, name in call.tensors.items():
            program = plan.programs[call.program]
            found = _tensor(program, program.tensors[local], call)
            held = tensors.setdefault(name, found)
            held["page_bytes"] = max(held["page_bytes"], found["page_bytes"])  # lines may differ in width
    return {
        "device": plan.device,
        "grid": list(DEVICES[plan.device].grid),
        "tensors": tensors,
        "programs": {name: _program(s) for name, s in settings.items()},
        "calls": [_call(plan.programs[call.program], call) for call in plan.calls],
    }


def _tensor(program: Program, tensor: Tensor, call: CallOf) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": tensor.kind,
        "dtype": tensor.dtype,
        "page_bytes": page_bytes(tensor),
        "tiled": None,
        "weight": call.weights.get(tensor.name),
        "parts": [],
        "constants": {},
    }
    match tensor.kind:
        case "rows":
            found["pages"] = prod(tensor.shape[:-1])
        case "vectors":
            found["pages"] = -(-program.vectors_bytes // FLAT_PAGE)
            found["parts"] = [[call.vectors.get(n, f"={n}"), first, count] for n, first, count in tensor.parts]
            found["constants"] = {n: list(program.constants[n]) for n, _, _ in tensor.parts if n in program.constants}
        case "tiles":
            assert tensor.tiled is not None
            found["dtype"] = "bf16"
            found["shape"] = list(tensor.shape)
            found["pages"] = tensor.tiled.sizes(tensor.shape).pages * tensor.tiled.planes
            found["tiled"] = asdict(tensor.tiled)
    return found


def _program(setting: Setting) -> dict[str, Any]:
    program = setting.program
    reader, writer = [t.name for t in setting.reader], [t.name for t in setting.writer]
    return {
        "title": program.title,
        "cores": program.cores,
        "kernels": {role: kernel_file(program.name, role) for role in ROLES},
        "cbs": [asdict(b) for b in setting.buffers],
        "dst_full_sync": True,
        "semaphores": setting.semaphores,
        "tensors": list(dict.fromkeys([*reader, *writer])),
        "reader_tensors": reader,
        "writer_tensors": writer,
    }


def _call(program: Program, call: CallOf) -> dict[str, Any]:
    arrays = []
    for resident in call.state:
        array = program.arrays[resident.array]
        arrays.append(
            {
                "slot": resident.slot,
                "offset": array.offset,
                "shape": list(array.shape),
                "layout": array.layout,
                "split": None if array.split is None else [array.split.lead, array.split.each],
                "dtype": array.dtype,
                "ring": array.shape[0] if resident.ring else 0,
            }
        )
    state = {"bytes": program.state_bytes, "arrays": arrays}
    return {"path": call.path, "program": call.program, "tensors": dict(call.tensors), "state": state}
