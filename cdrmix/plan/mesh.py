"""How the processes of a run share its weights and its tokens.

Input: how many GPUs, and how many copies or shards were asked for.  Output: a `Mesh`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdrmix.diagnose import UserError

GATHERED = REDUCED = 4
"""Bytes of an element of weights and of gradients on their way: both travel in f32, as they are kept, and the module
rounds weights where it uses them."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """`replicate` copies of the weights, gradients and optimiser, each cut into `shard` parts, one a GPU; each GPU has
    its own share of the tokens (fully sharded data parallel, Zhao et al. 2023; hybrid where both are above 1)."""

    replicate: int = 1
    shard: int = 1

    @property
    def ranks(self) -> int:
        """How many GPUs."""
        return self.replicate * self.shard

    def rows(self, batch: int, accumulate: int) -> int:
        """Sequences that a rank has in a part of a step.  Raises `UserError` where they are not equally many."""
        if batch % (self.ranks * accumulate):
            raise UserError(
                f"batch {batch} does not divide into {self.ranks} GPUs times {accumulate} parts",
                f"make `batch` a multiple of {self.ranks * accumulate}, or `accumulate` or --gpus smaller",
            )
        return batch // (self.ranks * accumulate)

    def here(self, node: int) -> tuple[int, int]:
        """How many GPUs of a group that shares a copy, and of one that shares a part, are in one machine of `node`."""
        shards = min(self.shard, node)
        return shards, min(self.replicate, max(1, node // shards))


def mesh_of(gpus: int, replicate: int | None = None, shard: int | None = None) -> Mesh:
    """The mesh of so many GPUs: what is not given is what is left, one copy unless copies are asked for."""
    if replicate is None:
        replicate = 1 if shard is None else gpus // shard
    if shard is None:
        shard = gpus // replicate
    if replicate * shard != gpus:
        raise UserError(f"{gpus} GPUs are not {max(replicate, 1)} copies of {max(shard, 1)} shards",
                        "--replicate times --shard is --gpus; give one of the two, a divisor of --gpus")  # fmt: skip
    return Mesh(replicate, shard)
