"""A batch: streams of one artefact that step together.

Input: an engine and how many rows there are.  Output: the logits of every row, each what its stream gives alone.
On targets whose programs take several streams, the weights are read once for all of them; elsewhere rows take turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from cdrmix.runtime.errors import ArtifactError

EMPTY = -1
"""For a row's token: the row reads nothing, and lets go of what it holds."""


class Rows(Protocol):
    """An engine's batch.  A row holds a state from `put` on; one that was never put begins a document."""

    rows: int

    def put(self, row: int, state: Any) -> None:
        """Copy a state into a row."""

    def take(self, row: int) -> Any:
        """A copy of the state that a row holds."""

    def step(self, tokens: Sequence[int]) -> np.ndarray:
        """Read a token of every row, or `EMPTY`; float32 [rows, vocab]."""

    def close(self) -> None:
        """Let go of all rows."""


class InTurn:
    """The batch of an engine whose program takes one stream: the rows step one after the other."""

    def __init__(self, engine: Any, rows: int, vocab: int):
        self.rows, self._engine, self._vocab = check_rows(rows), engine, vocab
        self._states: list[Any] = [engine.start() for _ in range(rows)]

    def put(self, row: int, state: Any) -> None:
        """See `Rows`."""
        self._states[check_row(row, self.rows)] = self._engine.copy(state)

    def take(self, row: int) -> Any:
        """See `Rows`."""
        return self._engine.copy(self._held(row))

    def step(self, tokens: Sequence[int]) -> np.ndarray:
        """See `Rows`."""
        ids = ids_of(tokens, self.rows)
        held = [None if token == EMPTY else self._held(row) for row, token in enumerate(ids.tolist())]
        found = np.zeros((self.rows, self._vocab), np.float32)
        for row, (state, token) in enumerate(zip(held, ids.tolist(), strict=True)):
            self._states[row] = state
            if state is not None:
                found[row] = self._engine.prefill(state, [token])
        return found

    def close(self) -> None:
        """See `Rows`."""
        self._states = [None] * self.rows

    def _held(self, row: int) -> Any:
        state = self._states[check_row(row, self.rows)]
        if state is None:
            raise ArtifactError(f"row {row} of the batch holds no state", "put a state there first")
        return state


def check_rows(rows: int) -> int:
    """The number of rows, if there is one at least."""
    if rows < 1:
        raise ArtifactError(f"a batch of {rows} rows holds nothing", "give 1 or more")
    return rows


def check_row(row: int, rows: int) -> int:
    """A row's number, if there is such a row."""
    if not 0 <= row < rows:
        raise ArtifactError(f"the batch has no row {row}", f"give one from 0 to {rows - 1}")
    return row


def ids_of(tokens: Sequence[int], rows: int) -> np.ndarray:
    """A token of each row, int32 [rows]."""
    ids = np.asarray(tokens, np.int32)
    if ids.shape != (rows,):
        raise ArtifactError(f"the batch has {rows} rows, not {ids.size}", "give a token for each")
    return ids
