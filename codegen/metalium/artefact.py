"""The program part of a `tenstorrent` artefact.

Input: a `Program`, and what the user asked of it (device, cores).  Output: the kernels and the headers they include,
the host program with its modules, and under "metalium" in the manifest what the host allocates and launches.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from importlib.resources import files as resources

from cdrmix.diagnose import CompileError, Need, UserError, command, need_compiler
from cdrmix.ir.backend import Files, Options
from cdrmix.ir.forms import Program

from .cost.devices import DEVICES, Device
from .cost.memory import misfits, own_bytes, state_bytes
from .deal.distribute import distribute
from .deal.placement import place
from .emit.kernels import emit_kernels
from .emit.launch import launch_description
from .emit.registers import ELEMENTWISE
from .lower.definitions import REDUCTIONS
from .lower.lines import schedule
from .plan import ModelPlan

OPS: frozenset[str] = ELEMENTWISE | REDUCTIONS | {"read", "index", "context"}
"""The primitives that it has rules for."""

HOST = ("host.py", "states.py", "weights.py")
"""What the artefact runs by itself with."""


def needs(target: str) -> list[Need]:
    """What is missing to run an artefact's kernels over the emulation; compiling a spec needs nothing."""
    return need_compiler("CXX", ("g++", "c++"), "a C++ compiler", "it builds the kernels for the emulation", "g++")


def tools(target: str) -> list[str]:
    """What builds the kernels for the emulation here, in words."""
    return [f"the emulation by {' '.join(command('CXX', 'g++', 'c++'))}"]


def device(target: str) -> str | None:
    """The card that ttnn finds here."""
    try:
        count = importlib.import_module("ttnn").get_num_devices()
    except (ImportError, RuntimeError):
        return None
    return f"{count} Tenstorrent cards" if count else None


def require(target: str, options: Options) -> None:
    """Refuse at once what no plan can be made for."""
    known = DEVICES.get(options["device"])
    if known is None:
        raise UserError(f"no Tenstorrent device `{options['device']}`", f"there are {', '.join(DEVICES)}")
    most = known.grid[0] * known.grid[1]
    if options["cores"] is not None and not 1 <= options["cores"] <= most:
        raise UserError(f"--cores {options['cores']}: {options['device']} has {most}", f"give 1 to {most}")


def runtime_files() -> dict[str, bytes]:
    """The host program, and the headers that the kernels include."""
    folder = resources("cdrmix.runtime.metalium")
    found = {name: _alone(folder.joinpath(name).read_text(encoding="utf-8")).encode() for name in HOST}
    for header in folder.joinpath("kernels").iterdir():
        if header.name.endswith(".h"):
            found[f"kernels/{header.name}"] = header.read_bytes()
    return found


def _alone(text: str) -> str:
    """A module of the package as one that lies beside its siblings."""
    return text.replace("\nfrom .", "\nfrom ")


def plan_model(program: Program, device: str = "n150", cores: int | None = None) -> ModelPlan:
    """The plan of a model for a device and at most so many of its cores (None: all of them).

    Raises `CompileError` for what the target has no steps for, and for what does not fit (E0909).
    """
    found = DEVICES[device]
    plan = deal_out(schedule(program), found, cores)
    wrong = misfits(plan, found, program.model)
    if wrong:
        raise CompileError(wrong)
    return plan


def deal_out(plan: ModelPlan, device: Device, cores: int | None = None) -> ModelPlan:
    """A plan for one core as one for several; states are spread thin only where they would not fit otherwise."""
    most = min(cores or device.cores, device.cores)
    for spread in (False, True):
        programs = {name: place(distribute(p, device, most, spread)) for name, p in plan.programs.items()}
        dealt = replace(plan, device=device.name, programs=programs)
        if state_bytes(dealt) + max(own_bytes(p) for p in programs.values()) <= device.array_bytes:
            break
    return dealt


def emit(program: Program, target: str, options: Options) -> Files:
    """The files by name; `manifest.json` among them holds the launch description."""
    plan = plan_model(program, options["device"], options["cores"])
    own = json.dumps({"metalium": launch_description(plan)})
    return {**runtime_files(), **emit_kernels(plan), "manifest.json": own}
