"""What one rank's memory holds at the worst moment of a step.

Input: a `Footprint`, a `Mesh`, and how many parts a step has.
Output: a `Memory`, in bytes by what they are for.

A rank that has all weights holds what torch held in the footprint, moment by moment.  One that shares them has its part
of weights, gradients and optimiser, and gathers a layer at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cdrmix.plan.footprint import Footprint
from cdrmix.plan.ledger import Purpose
from cdrmix.plan.mesh import GATHERED, REDUCED
from cdrmix.train.shard import Mesh

CONTEXT = 1e9
"""Bytes that the driver, its kernels and the libraries of communication take on a GPU, assumed."""

SPARE = 0.05
"""The share that the allocator cannot use for what is asked, because of its pieces' sizes, assumed."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a rank at the worst `moment`; `kept` are activations that wait for the backward pass, `passing` is what
    is needed in passing; `gathered` are layers that are whole for a while, and their gradients."""

    moment: str
    parameters: int
    gradients: int
    optimiser: int
    kept: int
    gathered: int
    passing: int

    @property
    def torch(self) -> int:
        """What torch holds."""
        return self.parameters + self.gradients + self.optimiser + self.kept + self.gathered + self.passing

    @property
    def total(self) -> int:
        """What a GPU needs: with the allocator's margin and what is not torch's."""
        return round(self.torch * (1 + SPARE) + CONTEXT)


def memory(f: Footprint, mesh: Mesh, parts: int) -> Memory:
    """The worst moment of a step."""
    gradients = REDUCED * (f.root + sum(f.layers))
    moments = _passes(f, gradients, parts, mesh.shard)
    after = Memory("the optimiser's step", f.weights, gradients, f.optimiser, 0, 0, f.step.most_rest)
    return max((*moments, _shared(after, mesh.shard)), key=lambda m: m.torch)


def _passes(f: Footprint, gradients: int, parts: int, shards: int) -> Iterator[Memory]:
    """The moments of forward, loss and backward, in the last part of a step."""
    live = Counter[Purpose](gradients=gradients if parts > 1 else 0)
    whole, kept = _whole(f) if shards > 1 else 0, 0
    for n, s in enumerate(f.segments):
        moment = "the forward pass" if n < f.forward else "the loss" if n == f.forward else "the backward pass"
        now = live["rest"] + live["copies"]
        kept = now if n <= f.forward else min(kept, now)
        if shards > 1:
            held = Memory(moment, f.weights, gradients, f.optimiser, kept, whole, now - kept + s.most_rest)
        else:
            held = Memory(moment, f.weights, live["gradients"], f.optimiser, kept, 0, now - kept + s.most)
        yield _shared(held, shards)
        live.update(s.change)


def _shared(m: Memory, shards: int) -> Memory:
    """What each rank has, where weights, gradients and optimiser lie in shards, and the optimiser moves its own."""
    passing = m.passing if m.gathered else -(-m.passing // shards)  # the optimiser gathers nothing
    parameters, gradients, optimiser = (-(-x // shards) for x in (m.parameters, m.gradients, m.optimiser))
    return replace(m, parameters=parameters, gradients=gradients, optimiser=optimiser, passing=passing)


def _whole(f: Footprint) -> int:
    """What is in no layer, and of layers: weights of the one that computes and of the one under way, the gradients of
    one as they come, and of two as they are added over the ranks."""
    return GATHERED * f.root + max(f.layers, default=0) * (3 * GATHERED + 2 * REDUCED)
