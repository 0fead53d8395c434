"""The gathers of a program: before the first step that reads a split array beyond its own units.

Input: a program and the splits of its arrays.
Output: its arrays with the gathered ones, its steps with the gathers.  One gather serves all readers, until the
array is written again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from cdrmix.ir import build, walk
from cdrmix.ir.steps import Copy, Load, Map, Step
from cdrmix.ir.walk import fresh

from ..plan import Array, Gather, Program, Split, Write, is_entry
from .locality import is_aligned, loaded, stays


def with_gathers(program: Program, splits: Mapping[str, Split]) -> tuple[dict[str, Array], tuple[Step, ...]]:
    """The arrays and steps of the program whose arrays are split so."""
    arrays, steps = dict(program.arrays), list[Step]()
    whole: dict[str, str] = {}
    for step in program.steps:
        mine = next((splits.get(name) for name in step.parts.outs), None)
        wanted = beyond(step, mine, program, splits)
        for name in wanted:
            if name not in whole:
                whole[name] = fresh(f"{name}_all", arrays)
                arrays[whole[name]] = replace(arrays[name], name=whole[name], split=None, memory="scratch", offset=-1)
                steps.append(Gather(whole[name], name, texts=(f"{name} of all cores",)))
        steps.append(step.reading({name: whole[name] for name in wanted}))
        for name in step.parts.outs:
            whole.pop(name, None)
    return arrays, tuple(steps)


def beyond(step: Step, mine: Split | None, program: Program, splits: Mapping[str, Split]) -> list[str]:
    """The split arrays that a step of the split `mine` reads beyond its own units, in the order of its loads."""
    if isinstance(step, Write):
        split = splits.get(step.source)
        shares = split is None or is_aligned(prod(program.arrays[step.source].shape), split)
        return [] if shares else [step.source]
    among = [name for name in loaded(step) if name in splits]
    return [n for n in among if splits[n] != mine or not stays(step, n, splits[n], program.arrays)]


def with_entries(program: Program) -> Program:
    """The program for one core with the entry of each ring in an array of its own, so that only a copy depends on whose
    place it is: the compute kernel does not know the token's place."""
    arrays, steps = dict(program.arrays), list[Step]()
    for step in program.steps:
        if isinstance(step, Map) and is_entry(step, arrays[step.out]):
            shape = walk.sizes(step.indices) or (1,)
            entry = fresh(f"{step.out}_entry", arrays)
            arrays[entry] = Array(entry, shape)
            load = Load(entry, shape, tuple(map(build.index, step.indices)) or (build.const(0),))
            steps.append(replace(step, out=entry, place=None))
            steps.append(Copy(step.out, step.indices, load, step.place, span=step.span, texts=step.texts))
        else:
            steps.append(step)
    return replace(program, arrays=arrays, steps=tuple(steps))
