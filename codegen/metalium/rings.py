"""Rings whose places are dealt out to the cores: the core that has a token's place writes its entry.

Input: a program for one core.
Output: the same with the entry of each ring in an array of its own, so that only a copy depends on whose place it is:
the compute kernel does not know the token's place.
"""

from __future__ import annotations

from dataclasses import replace

from cdrmix.ir import build
from cdrmix.ir.walk import fresh

from .plan import Array, Copy, Load, Map, Program, Step


def with_entries(program: Program) -> Program:
    """The program whose rings are written by copies."""
    arrays, steps = dict(program.arrays), list[Step]()
    for step in program.steps:
        if isinstance(step, Map) and _is_entry(step, arrays[step.out]):
            shape = tuple(i.axis.size for i in step.indices) or (1,)
            entry = fresh(f"{step.out}_entry", arrays)
            arrays[entry] = Array(entry, shape)
            steps.append(replace(step, out=entry, place=None))
            at = tuple(build.index(i) for i in step.indices) or (build.const(0),)
            steps.append(Copy(step.out, step.indices, Load(entry, shape, at), step.place, step.span, step.text))
        else:
            steps.append(step)
    return replace(program, arrays=arrays, steps=tuple(steps))


def by_owner(step: Step, out: Array) -> bool:
    """Whether a step, its result split, is done by the one core that has the place: all of it lies in one row."""
    return isinstance(step, Copy) and _is_entry(step, out)


def _is_entry(step: Map | Copy, out: Array) -> bool:
    return out.memory == "state" and out.layout == "flat" and step.place is not None and not step.place[0].free
