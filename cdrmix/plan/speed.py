"""How long a step takes, and what bounds it: a roofline of products, memory and network.

Input: FLOPs of a token, what a `Footprint` moves, the `Traffic`, and the card.
Output: a `Speed`.

Products run at the assumed share of the card's peak, or as fast as memory gives them what they multiply; between
products, memory alone counts; communication goes on beside both and counts where it takes longer.  Where the graph is
compiled, what stands between two products is taken to be one pass over what they read and wrote; where it is not, each
op is a pass.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cdrmix.ir.cost import Cost
from cdrmix.plan.cards import EFFICIENCY, Card
from cdrmix.plan.communication import Traffic
from cdrmix.plan.footprint import Footprint
from cdrmix.plan.ledger import Segment
from cdrmix.train.shard import Mesh

REACHED = 0.8
"""The share of their bandwidth that memory and links reach, assumed."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of a step, and of each thing that bounds it by itself: products, memory between them (the optimiser's
    too), the network.  `flops` are of all ranks, without what is computed again; `mfu` is their share of the peak."""

    seconds: float
    products: float
    memory: float
    network: float
    flops: float
    mfu: float

    @property
    def bound(self) -> Literal["FLOPs", "memory bandwidth", "network"]:
        """What a faster step needs more of."""
        if self.network > self.products + self.memory:
            return "network"
        return "FLOPs" if self.products >= self.memory else "memory bandwidth"


def speed(
    cost: Cost, f: Footprint, traffic: Traffic, card: Card, mesh: Mesh, parts: int, tokens: int,
    *, narrow: bool, compiled: bool, recomputed: bool, efficiency: float = EFFICIENCY,
) -> Speed:  # fmt: skip
    """A step of `tokens` tokens of all ranks, in `parts`."""
    flops = 3.0 * cost.total.flops * tokens
    again = sum(x.flops for path, x in cost.lines.items() if re.match(r"[^.]+\.\d+\.", path)) if recomputed else 0
    peak, reached = card.bf16 if narrow else card.f32, card.bandwidth * REACHED
    whole, moved = parts * _sum(f.segments, "moved_whole"), parts * _sum(f.segments, "moved")
    products = max((flops + again * tokens) / mesh.ranks / (peak * efficiency), whole / reached)
    between = whole if compiled else moved - whole
    memory = (between + f.step.moved / mesh.shard) / reached
    network = traffic.seconds / REACHED
    seconds = max(products + memory, network)
    return Speed(seconds, products, memory, network, flops, flops / (seconds * peak * mesh.ranks))


def _sum(segments: Sequence[Segment], what: str) -> int:
    found: int = sum(getattr(s, what) for s in segments)
    return found
