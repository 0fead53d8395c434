"""What it costs a text that a model's matrices are held in fewer bits.

Input: the spec's module, the roundings of its tensors, and a sample of the text in batches.  Output: by a choice of
encodings, the bits per byte that the predictions are away from those of the f32 weights: their Kullback-Leibler
divergence, which is what the text would cost more if it were written by the model, and varies far less with the sample
than a difference of losses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cdrmix.quantize.products import WholeVectors
from cdrmix.quantize.rounding import Rounding
from cdrmix.runtime.torch.module import Streaming
from cdrmix.train.batches import IGNORE, Batch

Held = Mapping[str, str]
"""The encoding of each tensor by path; f32 where none is named."""


class Trial:
    """A module whose tensors are held now one way, now another."""

    def __init__(self, module: Streaming, rounding: Rounding, rounds: frozenset[str]):
        """`rounds`: the encodings with which the target's products round their vectors too."""
        self.module, self.rounding, self.rounds = module, rounding, rounds
        self._tensors = module.state_dict()
        self._held: dict[str, str] = {}

    def hold(self, held: Held) -> AbstractContextManager[object]:
        """Put these tensors in place, all others as f32; the module runs within the block that this begins."""
        for path in self._held.keys() | held.keys():
            to = held.get(path, "f32")
            if self._held.get(path, "f32") != to:
                self._tensors[path].copy_(torch.from_numpy(np.ascontiguousarray(self.rounding.values_of(path, to))))
        self._held = dict(held)
        whole = [path for path, to in held.items() if to in self.rounds]
        return WholeVectors(self.module, whole) if whole else nullcontext()


class Sample:
    """Batches of text, and what the f32 weights say of them."""

    def __init__(self, trial: Trial, batches: Sequence[Batch], sizes: np.ndarray):
        """`sizes` [vocab]: the bytes of each token."""
        self.trial, self.batches = trial, batches
        scored = torch.cat([b.targets[b.targets != IGNORE] for b in batches])
        self.bytes = max(1, int(sizes[scored.numpy()].sum()))
        self.wanted = [x for _, x in self._predictions({})]

    def cost(self, held: Held) -> float:
        """Bits per byte away from the f32 weights."""
        nats = sum(
            float(F.kl_div(found, wanted, reduction="sum", log_target=True))
            for (_, found), wanted in zip(self._predictions(held), self.wanted, strict=True)
        )
        return nats / math.log(2) / self.bytes

    @torch.no_grad()
    def _predictions(self, held: Held) -> list[tuple[Batch, Tensor]]:
        """The log-probabilities [scored, vocab] of each batch."""
        state, found = None, []
        with self.trial.hold(held):
            for batch in self.batches:
                logits, state = self.trial.module(batch.tokens, state, batch.reset)
                found.append((batch, F.log_softmax(logits[batch.targets != IGNORE].float(), -1)))
        return found
