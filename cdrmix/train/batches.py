"""Batches from a token store.

Input: a `TokenStore`.  Output: for a step, tokens, targets and document starts, a function of (seed, step) alone; so a
resumed run sees what an uninterrupted one would have, with nothing to save.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import chain, count, islice

import numpy as np
import torch

from cdrmix.diagnose import UserError
from cdrmix.train.store import TokenStore

IGNORE = -100
"""The target of a token whose next token is not to be predicted."""


@dataclass(frozen=True, slots=True)
class Batch:
    """`tokens`, `targets` (IGNORE where there is none), `reset` (a document's first token): all [B, T]."""

    tokens: torch.Tensor
    targets: torch.Tensor
    reset: torch.Tensor

    def to(self, device: str) -> Batch:
        """The same where a module computes."""
        return Batch(*(x.to(device, non_blocking=True) for x in (self.tokens, self.targets, self.reset)))


class Batches:
    """Windows of `length` tokens in a random order, another one each epoch, cut at another offset.

    A step has `batch` rows; `rows` are those that this process takes, None all of them.
    """

    def __init__(self, store: TokenStore, batch: int, length: int, seed: int, rows: np.ndarray | None = None):
        self._store, self._batch, self._length, self._seed = store, batch, length, seed
        self._rows = np.arange(batch) if rows is None else rows
        # an epoch drops up to one window at its offset and needs one token more than it reads
        self._windows = (len(store.tokens) - 1) // length - 1
        if self._windows < 1:
            raise UserError(
                f"the data has {len(store.tokens)} tokens; a sequence of {length} needs at least {2 * length + 1}",
                "give more text, or a smaller `context`",
            )
        self._first = _first(store)
        self._epoch, self._order, self._offset = -1, np.empty(0, np.int64), 0

    def at(self, step: int) -> Batch:
        """The batch of a step."""
        places = [self._place(step * self._batch + row) for row in self._rows.tolist()]
        return _cut(self._store, self._first, np.asarray(places)[:, None] + np.arange(self._length + 1))

    def _place(self, window: int) -> int:
        epoch, place = divmod(window, self._windows)
        if epoch != self._epoch:
            random = np.random.default_rng((self._seed, epoch))
            self._epoch, self._order = epoch, random.permutation(self._windows)
            self._offset = int(random.integers(self._length))
        return self._offset + int(self._order[place]) * self._length


class Lanes:
    """Documents in a random order, one after the other along `batch` lanes, `length` tokens a step.

    What a row holds at a step goes on where it ended at the step before, so the caller carries its state over.  Each
    epoch has another order and begins at another place of it; there, and where a document begins, the state is reset.
    `rows` are the lanes that this process takes, None all of them.
    """

    def __init__(self, store: TokenStore, batch: int, length: int, seed: int, rows: np.ndarray | None = None):
        self._store, self._length, self._seed = store, length, seed
        self._share = len(store.tokens) // batch  # of a lane
        self._steps = self._share // length
        if self._steps < 1:
            raise UserError(
                f"the data has {len(store.tokens)} tokens; {batch} lanes of {length} need {batch * length}",
                "give more text, or a smaller `batch` or `context`",
            )
        self._lane = (np.arange(batch) if rows is None else rows)[:, None] * self._share
        self._first = _first(store)
        self._sizes = np.diff(store.starts, append=len(store.tokens))
        self._epoch, self._order, self._ends, self._offset = -1, self._sizes, self._sizes, 0

    def at(self, step: int) -> Batch:
        """The batch of a step."""
        epoch, step = divmod(step, self._steps)
        if epoch != self._epoch:
            random = np.random.default_rng((self._seed, epoch))
            self._epoch, self._order = epoch, random.permutation(len(self._sizes))
            self._ends = np.cumsum(self._sizes[self._order])
            self._offset = int(random.integers(len(self._store.tokens)))
        at = self._lane + self._offset + step * self._length + np.arange(self._length + 1)
        at %= len(self._store.tokens)  # the order is a ring
        turn = np.searchsorted(self._ends, at, side="right")
        document = self._order[turn]
        where = self._store.starts[document] + self._sizes[document] - (self._ends[turn] - at)
        batch = _cut(self._store, self._first, where)
        if step == 0:
            batch.reset[:, 0] = True
        return batch


def _first(store: TokenStore) -> np.ndarray:
    """Whether each token begins a document, and one more for what follows the last."""
    first = np.zeros(len(store.tokens) + 1, bool)
    first[store.starts] = True
    return first


def _cut(store: TokenStore, first: np.ndarray, where: np.ndarray) -> Batch:
    """The batch of tokens at `where` [B, T + 1], the last ones being targets only."""
    ids, begins = torch.from_numpy(store.tokens[where].astype(np.int64)), torch.from_numpy(first[where])
    targets = ids[:, 1:] if store.end is not None else ids[:, 1:].masked_fill(begins[:, 1:], IGNORE)
    return Batch(ids[:, :-1].contiguous(), targets.contiguous(), begins[:, :-1].contiguous())


def lanes(store: TokenStore, rows: int, length: int, limit: int | None = None) -> Iterator[Batch]:
    """The store once, in order, for evaluation: documents side by side in up to `rows` lanes, `length` tokens a batch.

    A lane takes the next document when it is through with one; the caller carries its state from batch to batch.  With
    a `limit`, only so many tokens are predicted, the first ones; it bounds time and memory.
    """
    length = min(length, len(store.tokens))
    stretches = _stretches(store, limit)
    lane = [deque([replace(s, at=0)]) for s in islice(stretches, rows)]
    free = [(parts[0].targets, row) for row, parts in enumerate(lane)]  # when a lane is through with what it has
    heapify(free)
    for at in count(0, length):
        while free and free[0][0] < at + length and (s := next(stretches, None)):
            begin, row = heappop(free)
            lane[row].append(replace(s, at=begin))
            heappush(free, (begin + s.targets, row))
        if not any(lane):
            return
        tokens = np.zeros((len(lane), length), np.int64)
        targets = np.full((len(lane), length), IGNORE, np.int64)
        reset = np.ones((len(lane), length), bool)  # padding: each its own document, never scored
        for row, parts in enumerate(lane):
            for s in parts:
                begin, stop = max(s.at, at), min(s.at + s.targets, at + length)
                here = slice(begin - at, stop - at)
                tokens[row, here] = store.tokens[s.start + begin - s.at : s.start + stop - s.at]
                targets[row, here] = s.after(store, begin - s.at, stop - s.at)
                reset[row, here] = np.arange(begin, stop) == s.at
            while parts and parts[0].at + parts[0].targets <= at + length:
                parts.popleft()
        yield Batch(*map(torch.from_numpy, (tokens, targets, reset)))


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A document of `size`; what follows each of its first `targets` is predicted.  `at`: its place in the lane."""

    start: int
    size: int
    targets: int
    at: int = 0

    def after(self, store: TokenStore, begin: int, stop: int) -> np.ndarray:
        """What follows its tokens `begin` to `stop`."""
        found = store.tokens[self.start + begin + 1 : self.start + min(stop + 1, self.size)].astype(np.int64)
        return found if len(found) == stop - begin else np.append(found, IGNORE if store.end is None else store.end)


def _stretches(store: TokenStore, limit: int | None) -> Iterator[_Stretch]:
    """The documents that hold something to predict, up to `limit` predictions in all."""
    left = len(store.tokens) + 1 if limit is None else limit
    for start, stop in zip(store.starts, chain(store.starts[1:], [len(store.tokens)]), strict=True):
        size = int(stop - start)
        targets = min(left, size - (store.end is None))
        if targets:
            yield _Stretch(int(start), size, targets)
            left -= targets
        if not left:
            return
