"""What training measures: sums over the tokens of an optimiser step, and how many tokens those were.

Input: a caller's `Sums()`, given to a forward, which adds what it measured.
Output: by path, the sum over all tokens of those forwards.  `Streaming.aux`, `metrics` and `after_step` make of it what
one forward over all the tokens would give: a mean over tokens divides by `tokens` at the very end, so sums of
micro-batches add first, and those of ranks (an all-reduce of every tensor, in the order of the keys).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class Sums(dict[str, Tensor]):
    """Sums over tokens by path, and `tokens`; a gradient flows through those of auxiliary losses.

    A run of a block that is computed again for its gradient (activation checkpointing) counts once: a forward keeps its
    own sums, and adds them here when it is through.
    """

    def __missing__(self, path: str) -> Tensor:
        raise KeyError(f"{path}: no forward has added it; give these sums to one, as `model(tokens, sums=sums)`")

    def __iadd__(self, other: Mapping[str, Tensor]) -> Sums:
        for path, x in other.items():
            self[path] = self[path] + x if path in self else x
        return self

    def mean(self, path: str) -> Tensor:
        """The mean over all tokens."""
        return self[path] / self["tokens"]

    def detach(self) -> Sums:
        """The same numbers without a gradient."""
        return Sums({path: x.detach() for path, x in self.items()})

    def of_step(self, so_far: Mapping[str, Tensor], share: float) -> Sums:
        """A whole step's sums as one part of it can know them; this part holds a `share` of the step's tokens.

        `so_far` are the sums of the parts up to this one, itself included.  The numbers are those, scaled up to the
        whole step; the gradient is this part's, scaled up likewise.  So the gradients of `share * aux(sums)` add up
        over the parts to the gradient of the step's aux where that is linear in the sums; a product of two means has
        each factor as the step so far knows it.
        """
        tokens = self["tokens"] / share
        whole = Sums()
        for path, x in self.items():
            own = x / share
            whole[path] = own + (so_far[path] * (tokens / so_far["tokens"]) - own).detach()
        return whole
