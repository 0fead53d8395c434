"""Which states are kept in tiles: matrices that are only updated where they stand and multiplied by vectors.

Input: a draft whose steps are all the plan's.  Output: the same, such states and their planes with layout `tiles`.
"""

from __future__ import annotations

from dataclasses import replace

from cdrmix.ir import build
from cdrmix.ir.nodes import Index
from cdrmix.ir.steps import Copy, Load, Map, Product, Step

from .draft import Draft

LEAST = 16
"""The shortest side of a matrix that is worth tiles: half a tile's."""


def tile_states(draft: Draft) -> None:
    """See the module."""
    for array in list(draft.arrays.values()):
        if array.memory == "state" and len(array.shape) > 1 and min(array.shape[-2:]) >= LEAST:
            for name in _cluster(draft, array.name):
                draft.arrays[name] = replace(draft.arrays[name], layout="tiles")
    for at, step in enumerate(draft.steps):
        if isinstance(step, Product) and any(draft.arrays[x.array].layout == "tiles" for x in step.factors):
            draft.steps[at] = replace(step, transposed=step.factors[0].at[-1].arg == step.k[-1])


def _cluster(draft: Draft, first: str) -> set[str]:
    """The state and the arrays that have its elements at the same places; none when something else touches one."""
    cluster, shape = {first}, draft.arrays[first].shape
    while True:
        grown = set(cluster)
        for step in draft.steps:
            if not (cluster & {*step.parts.reads, *step.parts.outs}):
                continue
            found = _of(draft, step, cluster, shape)
            if not found:
                return set()
            grown |= found
        if grown == cluster:
            return cluster
        cluster = grown


def _of(draft: Draft, step: Step, cluster: set[str], shape: tuple[int, ...]) -> set[str]:
    """The arrays that a step has at the same places as those of the cluster; none where it has one at others."""

    def at(load: Load, indices: tuple[Index, ...]) -> bool:
        return load.array in cluster and load == Load(load.array, shape, tuple(map(build.index, indices)))

    match step:
        case Map() | Copy():
            if step.place is not None or draft.arrays[step.out].shape != shape or len(step.indices) != len(shape):
                return set()
            others = [load for load in step.parts.loads if not at(load, step.indices)]
            if others and isinstance(step, Copy):
                return set()
            side = set(step.indices[-2:])
            return set() if any(load.array in cluster or side <= load.free for load in others) else {step.out}
        case Product(lead=lead, columns=(i,), k=(j,)):
            planes = all(at(load, (*lead, i, j)) or at(load, (*lead, j, i)) for load in step.factors)
            left = cluster & {load.array for load in step.left}
            return {load.array for load in step.factors} if planes and not left else set()
    return set()
