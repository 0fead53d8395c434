"""How the processes of a run share its weights and its tokens.

Input: how many GPUs, how many copies or shards were asked for, and the config's `mesh`.  Output: a `Mesh`.
"""

from __future__ import annotations

from cdrmix.diagnose import UserError
from cdrmix.train.config import MeshConfig
from cdrmix.train.shard import Mesh

GATHERED = REDUCED = 4
"""Bytes of an element of weights and of gradients on their way: both travel in f32, as they are kept, and the module
rounds weights where it uses them."""


def rows_of(mesh: Mesh, batch: int, accumulate: int) -> int:
    """Sequences that a rank has in a part of a step.  Raises `UserError` where they are not equally many."""
    if batch % (mesh.ranks * accumulate):
        raise UserError(
            f"batch {batch} does not divide into {mesh.ranks} GPUs times {accumulate} parts",
            f"make `batch` a multiple of {mesh.ranks * accumulate}, or `accumulate` or --gpus smaller",
        )
    return batch // (mesh.ranks * accumulate)


def in_machine(mesh: Mesh, node: int) -> tuple[int, int]:
    """How many GPUs of a group that shares a copy, and of one that shares a part, are in one machine of `node`."""
    shards = min(mesh.shard, node)
    return shards, min(mesh.replicate, max(1, node // shards))


def mesh_of(gpus: int, replicate: int | None, shard: int | None, own: MeshConfig) -> Mesh:
    """The mesh of so many GPUs: as `--replicate` and `--shard` say, where neither does as the config's own `mesh`; what
    is not given is what is left."""
    if replicate is None and shard is None:
        replicate, shard = own.replicate, own.shards
    if replicate is None:
        replicate = gpus // (shard or 1)
    if shard is None:
        shard = gpus // replicate
    if replicate * shard != gpus:
        raise UserError(f"{gpus} GPUs are not {max(replicate, 1)} copies of {max(shard, 1)} shards",
                        "--replicate times --shard, or those of the config's `mesh`, is --gpus")  # fmt: skip
    return Mesh(replicate, shard)
