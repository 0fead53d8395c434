"""What one part of a step holds and moves, layer by layer, from running it with tensors that have no data.

Input: a lowered spec, a `TrainConfig`, and the rows of a part, of `context` tokens.
Output: a `Footprint`.

The module and the step are those of training, under torch's `FakeTensorMode`: what autograd keeps of a spec is what it
keeps here.  Of layers that are alike, of one class, two are run and the rest are taken to be as they are.  States that
are carried from step to step are not counted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from cdrmix.compiler import Lowered
from cdrmix.diagnose import UserError
from cdrmix.plan.ledger import Ledger, Segment, tensors_of
from cdrmix.runtime.torch.module import Streaming
from cdrmix.train.batches import Batch
from cdrmix.train.build import build_module
from cdrmix.train.config import TrainConfig
from cdrmix.train.optimiser import make_optimiser
from cdrmix.train.place import recompute_layers
from cdrmix.train.shard import read_outside, require_ties_within
from cdrmix.train.step import take_step


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one process that holds all of a model, for one part of a step.

    `segments` are in the order of time, through the forward, the loss and the backward pass; the first `forward` of
    them are before the loss.  `step` is the optimiser's.  `layers` are elements of the parameters of each layer that
    repeats, what a sharded run gathers as one; `root` those of the rest.
    """

    weights: int
    optimiser: int
    segments: Sequence[Segment]
    forward: int
    step: Segment
    layers: Sequence[int]
    root: int


def footprint(lowered: Lowered, config: TrainConfig, rows: int, context: int, many: bool = False) -> Footprint:
    """Run a step of parts of `rows` sequences each.  Raises `UserError` where what is kept depends on the data, and
    where `many` processes cannot share the module."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as inside:
        inside.enter_context(FakeTensorMode())
        module = build_module(lowered, Path(folder), None).train()
        if many:
            require_ties_within(module)
        if config.recompute == "layers":
            recompute_layers(module)
        ledger = inside.enter_context(Ledger())
        ledger.hold((*module.parameters(), *module.buffers()), "weights")
        weights = ledger.live["weights"]
        run = _Run(module, ledger, config)
        try:
            segments, forward = run.part(rows, context)
        except DynamicOutputShapeException as e:
            name = lowered.program.model.name
            raise UserError(
                f"{name}: what is kept for the backward pass depends on what the tokens choose ({e.func})",
                "experts that hold state cannot be planned; `cdrmix train` runs them",
            ) from None
        step = run.optimise()
        left = set(module.parameters()) - read_outside(module)
        layers = []
        for layer in run.layers:
            own = left.intersection(layer.parameters())  # a tied one is counted where it is first
            left -= own
            layers.append(sum(p.numel() for p in own))
        root = sum(p.numel() for p in module.parameters()) - sum(layers)
        return Footprint(weights, ledger.live["optimiser"], segments, forward, step, layers, root)


class _Run:
    """A module whose repeated layers are few while it runs, and what is marked on the way."""

    def __init__(self, module: Streaming, ledger: Ledger, config: TrainConfig):
        self.module, self.ledger, self.config = module, ledger, config
        self.layers = list(module.layers())
        self.optimiser = make_optimiser(module, config.optim)
        self.ends = set[nn.Module]()
        self.found: dict[tuple[str, object], Segment] = {}
        for p in module.parameters():
            p.register_post_accumulate_grad_hook(lambda p: ledger.hold([p.grad], "gradients"))

    def part(self, rows: int, context: int) -> tuple[list[Segment], int]:
        """The segments of a step's last part, and how many of them are before the loss."""
        whole = {name: list(x) for name, x in self.module.named_children() if isinstance(x, nn.ModuleList)}
        for name, layers in whole.items():
            few = _few(layers)
            setattr(self.module, name, nn.ModuleList(few))
            self.ends.add(few[-1])
        for layer in self.module.layers():
            layer.register_forward_pre_hook(self._enters)
            layer.register_forward_hook(self._leaves)
        hidden = self.module.hidden

        def marked(*given: Any, **named: Any) -> Any:
            self.ledger.mark()
            found = hidden(*given, **named)
            self.mark("after")
            return found

        self.module.hidden = marked  # type: ignore[method-assign]
        if self.config.accumulate > 1:  # a part that is not the first finds gradients
            self.give_gradients()
        tokens = torch.zeros(rows, context, dtype=torch.int64)
        batch = Batch(tokens, tokens.clone(), tokens.bool())
        still = _Still([{**group} for group in self.optimiser.param_groups])
        take_step(self.module, still, batch, None, 1.0, self.config.optim.clip, 1, self.config.optim.z_loss)
        self.mark("end")
        for name, layers in whole.items():
            setattr(self.module, name, nn.ModuleList(layers))
        return self._whole(whole)

    def mark(self, what: str, of: object = None) -> None:
        """End a segment."""
        self.found[what, of] = self.ledger.mark()

    def _enters(self, layer: nn.Module, given: tuple[Any, ...]) -> None:
        self.mark("before", layer)
        if given[0].requires_grad:  # tokens have no gradient
            given[0].register_hook(partial(self._grad, "backward", layer))

    def _leaves(self, layer: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        self.mark("forward", layer)
        if layer in self.ends:
            x = out[0] if isinstance(out, tuple) else out
            x.register_hook(partial(self._grad, "loss", layer))

    def _grad(self, what: str, layer: nn.Module, grad: Tensor) -> None:
        self.mark(what, layer)

    def _whole(self, whole: dict[str, list[nn.Module]]) -> tuple[list[Segment], int]:
        """The segments as if every layer had run: each as one of its class that did.

        What the backward pass of a layer lets go of is gone when that of the next one begins: so the last layer of all
        is told apart from those that have another of their class behind them.
        """
        forward, backward = [], [self.found["end", None]]
        for layers in whole.values():
            few = _few(layers)
            later = {type(layer): layer for layer in few}
            first = {type(layer): layer for layer in reversed(few)}
            forward += [self.found["before", few[0]], *(self.found["forward", later[type(x)]] for x in layers)]
            back = [self.found["backward", first[type(x)]] for x in layers[-2::-1]]
            backward = [self.found["loss", few[-1]], self.found["backward", few[-1]], *back, *backward]
        return [*forward, self.found["after", None], *backward], len(forward) + 1

    def give_gradients(self) -> None:
        """A gradient of every parameter."""
        for p in self.module.parameters():
            p.grad = torch.empty_like(p)
            self.ledger.hold([p.grad], "gradients")

    def optimise(self) -> Segment:
        """The optimiser's step; what it keeps is in the ledger then."""
        self.give_gradients()
        self.ledger.mark()
        self.ledger.of_weights = "optimiser"
        self.optimiser.step()
        self.ledger.hold(tensors_of(self.optimiser.state.values()), "optimiser")
        return self.ledger.mark()


class _Still(torch.optim.SGD):
    """An optimiser that moves nothing and leaves the gradients."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing."""

    def step(self) -> None:  # type: ignore[override]
        """Nothing."""


def _few(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The first of each class and the last one, in order; the last of all is the last of these."""
    later = {type(layer): layer for layer in layers}
    first = {type(layer): layer for layer in reversed(layers)}
    return [layer for layer in layers if layer in (first[type(layer)], later[type(layer)])]
