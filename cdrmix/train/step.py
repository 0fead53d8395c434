"""The third stage of training: one step, that is forward, backward and update on one batch.

Input: a placed module and its optimiser, a batch in equal parts, the state it begins with, and the rate of the step.
Output: what the step measured, and the state after its last tokens.  The module and the optimiser have moved, unless
the loss or the gradient is not finite.  Nothing here knows a file or a clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cdrmix.runtime.torch.module import Streaming
from cdrmix.runtime.torch.stream import State
from cdrmix.runtime.torch.sums import Sums
from cdrmix.train.batches import IGNORE, Batch
from cdrmix.train.loss import summed_loss
from cdrmix.train.optimiser import set_rate
from cdrmix.train.ranks import ALONE, Ranks
from cdrmix.train.shard import add_gradients, clip_gradient


@dataclass(frozen=True, slots=True)
class Measured:
    """What one step measured, over all its parts; `targets` is how many tokens it predicted, `routed` by bank how often
    each expert was chosen."""

    targets: int = 0
    loss: float = 0.0
    norm: float = 0.0
    aux: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)
    routed: dict[str, Tensor] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """Whether the step may move the weights."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


def take_step(
    module: Streaming,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    state: State | None,
    rate: float,
    clip: float,
    parts: int,
    z_loss: float = 0.0,
    ranks: Ranks = ALONE,
) -> tuple[Measured, State | None]:
    """One step.  `rate` is a share of the optimiser's peak, `clip` the largest norm of the gradient, `z_loss` the
    weight of that loss, which is not in what is measured.

    `state` is None where none is carried from step to step, and empty where the batch begins documents, as it is after
    a bad step.  A batch without a target moves nothing, the state included.  Of several `ranks` each has its rows of
    the batch; what is measured is of all of them, and the same at each.
    """
    scored = ranks.count(int((batch.targets != IGNORE).sum()))
    if scored == 0:
        return Measured(), state
    optimiser.zero_grad(set_to_none=True)
    total, sums, after, share = torch.zeros((), dtype=torch.float64), Sums(), [], 1 / (parts * ranks.size)
    for part, before in _parts(batch, state, parts):
        own = Sums()
        x, ended = module.hidden(part.tokens, before, part.reset, own)
        if state is not None:  # what nobody goes on from would be in memory until the step ends
            after.append({path: x.detach() for path, x in ended.items()})
        del ended
        loss = summed_loss(module, x, part.targets, z_loss) / scored
        sums += ranks.add_sums(own.detach())
        aux = module.aux(own.of_step(sums, share))
        (loss + share * sum(aux.values())).backward()  # type: ignore[no-untyped-call]
        total += loss.detach().cpu()
    add_gradients(module.parameters(), ranks)
    norm = clip_gradient(module.parameters(), clip, ranks)
    with torch.no_grad():
        whole = {path: float(x) for path, x in module.aux(sums).items()}
    found = Measured(scored, float(ranks.add(total)), norm, whole, module.metrics(sums), module.routed(sums))
    if found.finite:
        set_rate(optimiser, rate)
        optimiser.step()
        module.after_step(sums)
    if state is None:
        return found, None
    return found, {path: torch.cat([s[path] for s in after]) for path in after[0]} if found.finite else {}


def _parts(batch: Batch, state: State | None, count: int) -> list[tuple[Batch, State | None]]:
    """A batch in parts, each with the state that it begins with."""
    cut = zip(*(x.chunk(count) for x in (batch.tokens, batch.targets, batch.reset)), strict=True)
    rows = {path: x.chunk(count) for path, x in (state or {}).items()}
    return [(Batch(*part), {path: x[i] for path, x in rows.items()} or None) for i, part in enumerate(cut)]
