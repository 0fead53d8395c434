"""A generated program run by itself on any tinygrad device: a batch of sessions, each token in order.

Input: the imported `program.py` and its weights as stored, by path (bf16 as uint16, int8 with `path.scale`; the
`slot.start` of states that begin as parameters).
Output: logits, and each session's state in the canonical layout (a history's entries the most recent first, with its
`path.count`; `pos`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor, dtypes

from .program import Call, Slot, Unit

Array = NDArray[Any]
BLOCKS = (64, 8)


class Stream:
    """Sessions that advance together."""

    def __init__(
        self, program: ModuleType, weights: Mapping[str, Array], batch: int = 1, blocks: Sequence[int] = BLOCKS
    ):
        self.units: Mapping[str, Unit] = program.UNITS
        self.calls: Sequence[Call] = program.CALLS
        self.layout: Mapping[str, Slot] = program.SLOTS
        self.batch = batch
        self.blocks = sorted((*blocks, 1), reverse=True) if all(u.blocked for u in self.units.values()) else [1]
        self.weights = {path: Tensor(np.require(w, requirements="C")).realize() for path, w in weights.items()}
        self.slots: dict[str, Tensor] = {}
        self.start()

    def start(self) -> None:
        """Every session to the state before a document's first token."""
        for path, slot in self.layout.items():
            shape = (self.batch, *slot.shape)
            dtype = dtypes.int32 if slot.kind == "pos" else dtypes.float32
            if isinstance(slot.start, str):
                value = self.weights[slot.start].reshape(1, *slot.shape).expand(shape)
            else:
                value = Tensor.full(shape, slot.start, dtype=dtype, buffer=False)
            self.slots[path] = value.clone().realize()

    def step(self, tokens: Array) -> Array:
        """Logits [B, vocab] after one more token [B] of each session."""
        return self._run(np.asarray(tokens)[:, None], last=True)

    def prefill(self, tokens: Array) -> Array:
        """Logits [B, vocab] after n more tokens [B, n], in blocks that read each weight once."""
        tokens = np.asarray(tokens)
        n, at, logits = tokens.shape[1], 0, np.zeros((self.batch, 0), np.float32)
        if n == 0:
            raise ValueError("no tokens")
        while at < n:
            size = next(b for b in self.blocks if b <= n - at)
            logits = self._run(tokens[:, at : at + size], last=at + size == n)
            at += size
        return logits

    def _run(self, tokens: Array, last: bool) -> Array:
        """The stack over a block; without `last`, only as far as the state needs."""
        dtype = np.int32 if tokens.dtype.kind in "iu" else np.float32
        first = x = Tensor(np.ascontiguousarray(tokens, dtype)).realize()
        carries: dict[str, Tensor] = {}
        narrowed = False
        for call in self.calls:
            if call.last_only and not last:
                continue
            if call.last_only and not narrowed:
                x, narrowed = x[:, -1:].contiguous().realize(), True
            unit = self.units[call.unit]
            slots = {name: self.slots[path] for name, path in call.states.items()}
            given = first if call.unit == "advance" else x
            result = unit.run(given, {n: self.weights[p] for n, p in call.weights.items()}, slots, carries)
            new = {n: v.clone() for n, v in result.states.items() if v is not None}
            made = {n: v.clone() for n, v in result.carries.items()}
            out = None if result.out is None else result.out.clone()  # it may be a view of a slot that changes now
            Tensor.realize(*([] if out is None else [out]), *made.values(), *new.values(), *slots.values())
            if new:
                Tensor.realize(*(slots[n].assign(v) for n, v in new.items()))
            carries |= made
            x = x if out is None else out
        logits: Array = x[:, -1].numpy()
        return logits

    def state(self, row: int = 0) -> dict[str, Array]:
        """One session's state."""
        pos = int(self.slots["pos"].numpy()[row])
        found: dict[str, Array] = {}
        for path, slot in self.layout.items():
            value = self.slots[path].numpy()[row]
            if slot.kind == "history":
                held = min(pos, slot.shape[0])
                recent = [value[(pos - 1 - age) % slot.shape[0]] for age in range(held)]
                value = np.concatenate([np.reshape(recent, (held, *slot.shape[1:])), np.zeros_like(value[held:])])
                found[f"{path}.count"] = np.asarray(held)
            found[path] = value
        return found
