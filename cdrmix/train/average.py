"""An average of a run's weights over its last steps, which often scores better than any of them.

Input: a module whose parameters an optimiser moves.  Output: for each parameter its exponential moving average (Polyak
and Juditsky 1992), to be scored in the parameters' place and saved beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """`tensors` by the names of `state_dict`: a ← d a + (1 - d) p after each step, d = min(decay, (1 + t)/(10 + t)).

    t counts steps from 0: a young average forgets the first weights sooner (as TensorFlow's).
    """

    def __init__(self, module: nn.Module, decay: float):
        self._module, self._decay = module, decay
        self._parameters = {n: p for n, p in module.state_dict(keep_vars=True).items() if isinstance(p, nn.Parameter)}
        self.tensors = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step that moved them."""
        new = 1.0 - min(self._decay, (1 + step) / (10 + step))
        for name, p in self._parameters.items():
            self.tensors[name].lerp_(p, new)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module with the average for its parameters; afterwards bitwise with its own again."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, p in self._parameters.items():
            own = p.clone()
            p.copy_(self.tensors[name])
            self.tensors[name].copy_(own)

    def state(self) -> dict[str, Tensor]:
        """A whole checkpoint's tensors: the average, and what no optimiser moves as the module has it."""
        return {name: self.tensors.get(name, x) for name, x in self._module.state_dict().items()}
