"""The plan of a model: scheduled for one core, dealt out, placed in L1.

Input: a `Program` in step form, a device's name and how many of its cores to use at most (None: all of them).
Output: a `ModelPlan`.  Raises `CompileError` for what the target has no steps for, and for what does not fit (E0909).
"""

from __future__ import annotations

from dataclasses import replace

from cdrmix.diagnose import CompileError
from cdrmix.ir import forms

from .cost.devices import DEVICES, Device
from .cost.memory import misfits, own_bytes, state_bytes
from .deal.distribute import distribute
from .deal.placement import place
from .lower.lines import schedule
from .plan import ModelPlan


def plan_model(program: forms.Program, device: str = "n150", cores: int | None = None) -> ModelPlan:
    """The plan of a model that fits its device."""
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
