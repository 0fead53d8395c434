"""Batches from a token store.

Input: a `TokenStore`.  Output: for a step, tokens, targets and document starts, a function of (seed, step) alone; so a
resumed run sees what an uninterrupted one would have, with nothing to save.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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


class Batches:
    """Windows of `length` tokens in a random order, another one each epoch, cut at another offset."""

    def __init__(self, store: TokenStore, batch: int, length: int, seed: int):
        self._store, self._batch, self._length, self._seed = store, batch, length, seed
        # an epoch drops up to one window at its offset and needs one token more than it reads
        self._windows = (len(store.tokens) - 1) // length - 1
        if self._windows < 1:
            raise UserError(
                f"the data has {len(store.tokens)} tokens; a sequence of {length} needs at least {2 * length + 1}",
                "give more text, or a smaller `context`",
            )
        self._first = np.zeros(len(store.tokens) + 1, bool)
        self._first[store.starts] = True
        self._epoch, self._order, self._offset = -1, np.empty(0, np.int64), 0

    def at(self, step: int) -> Batch:
        """The batch of a step."""
        places = [self._place(step * self._batch + row) for row in range(self._batch)]
        where = np.asarray(places)[:, None] + np.arange(self._length + 1)
        ids = torch.from_numpy(self._store.tokens[where].astype(np.int64))
        first = torch.from_numpy(self._first[where])
        targets = ids[:, 1:]
        if self._store.end is None:
            targets = targets.masked_fill(first[:, 1:], IGNORE)
        return Batch(ids[:, :-1].contiguous(), targets.contiguous(), first[:, :-1].contiguous())

    def _place(self, window: int) -> int:
        epoch, place = divmod(window, self._windows)
        if epoch != self._epoch:
            random = np.random.default_rng((self._seed, epoch))
            self._epoch, self._order = epoch, random.permutation(self._windows)
            self._offset = int(random.integers(self._length))
        return self._offset + int(self._order[place]) * self._length


def lanes(store: TokenStore, rows: int, length: int, limit: int | None = None) -> Iterator[Batch]:
    """The store once, in order, for evaluation: whole documents dealt to `rows` lanes, `length` tokens at a time.

    A lane's state is carried from one batch to the next by the caller.  With a `limit`, only the first documents that
    fit in so many tokens are read (at least one).
    """
    ends = np.append(store.starts[1:], len(store.tokens))
    lane: list[list[np.ndarray]] = [[] for _ in range(rows)]
    filled = np.zeros(rows, np.int64)
    total = 0
    for start, stop in zip(store.starts, ends, strict=True):
        if limit is not None and total and total + stop - start > limit:
            break
        total += int(stop - start)
        row = int(np.argmin(filled))
        # the document's tokens and, as its last target, the end-of-text token
        lane[row].append(np.arange(start, stop))
        filled[row] += stop - start
    width = int(-(-filled.max() // length) * length)
    tokens = np.zeros((rows, width), np.int64)
    targets = np.full((rows, width), IGNORE, np.int64)
    reset = np.zeros((rows, width), bool)
    for row, parts in enumerate(lane):
        at = 0
        for part in parts:
            ids = store.tokens[part].astype(np.int64)
            n = len(ids)
            tokens[row, at : at + n], reset[row, at] = ids, True
            targets[row, at : at + n - 1] = ids[1:]
            if store.end is not None:
                targets[row, at + n - 1] = store.end
            at += n
        reset[row, at:] = True  # padding: each its own document, never scored
    for at in range(0, width, length):
        cut = slice(at, at + length)
        yield Batch(*(torch.from_numpy(x[:, cut].copy()) for x in (tokens, targets, reset)))
