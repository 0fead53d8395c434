"""How well a model predicts text: loss, perplexity, bits per byte.

Each document is read from its start to its end with its state carried, as it would be streamed; every token is scored
but a document's first, and the end-of-text token is scored too where the tokenizer has one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from cdrmix.train.batches import IGNORE, lanes
from cdrmix.train.store import TokenStore


@dataclass(frozen=True, slots=True)
class Score:
    """`nats` over `tokens` scored tokens, which are `size` bytes of text."""

    nats: float
    tokens: int
    size: int

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Bits a byte of text; the end-of-text token costs bits and is no byte."""
        return self.nats / math.log(2) / max(1, self.size)


@torch.no_grad()
def evaluate(module: nn.Module, store: TokenStore, length: int, rows: int = 8, limit: int | None = None) -> Score:
    """Score a store, `length` tokens at a time in `rows` lanes; with a `limit`, only its first so many predictions."""
    was_training = module.training
    module.eval()
    sizes = torch.from_numpy(store.sizes)
    state, nats, tokens, size = None, 0.0, 0, 0
    for batch in lanes(store, rows, length, limit):
        logits, state = module(batch.tokens, state, batch.reset)
        loss = F.cross_entropy(
            logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=IGNORE, reduction="sum"
        )
        nats += float(loss)
        scored = batch.targets[batch.targets != IGNORE]
        tokens, size = tokens + len(scored), size + int(sizes[scored].sum())
    module.train(was_training)
    return Score(nats, max(1, tokens), size)
