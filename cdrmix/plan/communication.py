"""What the ranks of a step tell each other.

Input: the elements of each layer and of the rest, a `Mesh`, a `Card`.
Output: a `Traffic`: bytes of a rank, and seconds at the links' full speed.

As torch's FSDP2 does it, layers resharded after the forward pass and the rest not: each part of a step gathers each
layer twice and the rest once, and adds the gradients of everything over the shards in f32; the copies add theirs then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cdrmix.plan.cards import Card
from cdrmix.plan.mesh import GATHERED, REDUCED, in_machine
from cdrmix.train.shard import Mesh


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of the tensors that a rank gathers whole, gives to be added and shared out, and gives to be added over the
    copies, in a step; what of them crosses its links; and how long that takes by itself."""

    gathered: int
    scattered: int
    reduced: int
    crossing: int
    seconds: float


def traffic(layers: Sequence[int], root: int, mesh: Mesh, card: Card, parts: int) -> Traffic:
    """Of a step in `parts`."""
    everything = root + sum(layers)
    shard, copies = mesh.shard, mesh.replicate
    gathered = parts * GATHERED * (root + 2 * sum(layers)) if shard > 1 else 0
    scattered = parts * REDUCED * everything if shard > 1 else 0
    reduced = parts * REDUCED * everything // shard if copies > 1 else 0
    within, across = (gathered + scattered) * (shard - 1) / shard, 2 * reduced * (copies - 1) / copies
    here, there = in_machine(mesh, card.node)
    fast = card.link if shard <= card.node else card.between(here)
    wide = card.link if mesh.ranks <= card.node else card.between(there)
    return Traffic(gathered, scattered, reduced, round(within + across), within / fast + across / wide)
