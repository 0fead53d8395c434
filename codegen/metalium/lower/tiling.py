"""Which states are kept in tiles: matrices that are only updated where they stand and multiplied by vectors.

Input: a draft whose steps are all the plan's.  Output: the same, such states and their planes with layout `tiles`.
"""

from __future__ import annotations

from dataclasses import replace

from cdrmix.ir.nodes import Index
from cdrmix.ir.steps import Copy, Load, Map, Product, Step

from .draft import Draft

LEAST = 16
"""The shortest side of a matrix that is worth tiles: half a tile's."""


def tile_states(draft: Draft) -> None:
    """See the module."""
    for array in list(draft.arrays.values()):
        if array.memory != "state" or len(array.shape) < 2 or min(array.shape[-2:]) < LEAST or array.layout == "tiles":
            continue
        cluster = _cluster(draft, array.name)
        if cluster is not None:
            for name in cluster:
                draft.arrays[name] = replace(draft.arrays[name], layout="tiles")


def _cluster(draft: Draft, first: str) -> set[str] | None:
    """The state and the arrays that have its elements at the same places; None when something else touches one."""
    cluster, shape = {first}, draft.arrays[first].shape
    while True:
        grown = set(cluster)
        for step in draft.steps:
            if not (cluster & {*step.parts.reads, *step.parts.outs}):
                continue
            found = _of(draft, step, cluster, shape)
            if found is None:
                return None
            grown |= found
        if grown == cluster:
            return cluster
        cluster = grown


def _of(draft: Draft, step: Step, cluster: set[str], shape: tuple[int, ...]) -> set[str] | None:
    match step:
        case Map() | Copy():
            if step.place is not None or draft.arrays[step.out].shape != shape or len(step.indices) != len(shape):
                return None
            *_, i, j = step.indices
            for load in step.parts.loads:
                free = {k for n in load.at for k in n.free}
                if load.array in cluster:
                    if load.view != shape or load.when is not None or not _is(load, step.indices):
                        return None
                elif {i, j} <= free or isinstance(step, Copy):
                    return None
            return {step.out}
        case Product():
            if cluster & {load.array for load in step.left} or step.streamed:
                return None
            for load in step.factors:
                if load.array not in cluster or load.view != shape or load.when is not None:
                    return None
                if any(n.op != "index" for n in load.at):
                    return None
                at = [n.arg for n in load.at]
                sides = ((step.columns, step.k), (step.k, step.columns))
                if (tuple(at[-2:-1]), tuple(at[-1:])) not in sides or tuple(at[:-2]) != step.lead:
                    return None
            return {load.array for load in step.factors}
        case _:
            return None


def _is(load: Load, indices: tuple[Index, ...]) -> bool:
    return all(n.op == "index" and n.arg == i for n, i in zip(load.at, indices, strict=True))


def transposed(draft: Draft) -> None:
    """Mark the products whose right side lies in tiles with `k` last."""
    for at, step in enumerate(draft.steps):
        if isinstance(step, Product) and not step.streamed:
            right = step.factors[0]
            if draft.arrays[right.array].layout == "tiles":
                draft.steps[at] = replace(step, transposed=right.at[-1].arg == step.k[-1])
