"""Run a `cpu` artefact: its C program as a shared library, through ctypes.

The library is built by the artefact's own Makefile, in this user's cache (`library.py`).
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from cdrmix.runtime.batch import ids_of
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.library import LIBRARY, TOOLS, build, built_elsewhere, missing_tool, shipped
from cdrmix.runtime.saved import LATEST

FLOATS, TOKENS = POINTER(c_float), POINTER(c_int32)
NO_TOKENS = 5
"""The kind of error, by errors.h, that says that there is nothing to read and that no logits are kept."""

COMPARES = ("weights.safetensors",)
"""The program compares them with the manifest as it opens them, faster than Python would."""


def load(folder: Path, manifest: Mapping[str, Any]) -> ctypes.CDLL:
    """The artefact's program: built here, or where there is no compiler the one that `make` built elsewhere."""
    tool = missing_tool()
    content = built_elsewhere(folder, manifest) if tool else None
    if tool and content is None:
        remedy = f"{TOOLS}, or run `make` in the artefact elsewhere and copy the whole folder"
        raise ArtifactError(f"no {tool} on this machine, and no whole {LIBRARY} of these sources", remedy)
    try:
        return build(folder, manifest) if content is None else shipped(content)
    except OSError as e:
        raise ArtifactError(f"the program of {folder} cannot be loaded: {e}", "compile the spec again") from e


class NativeState:
    """The caller-owned buffer of one stream, 64-byte aligned."""

    def __init__(self, size: int):
        self._memory = np.zeros(size + 64, np.uint8)
        start = -self._memory.ctypes.data % 64
        self.bytes = self._memory[start : start + size]
        self.pointer = c_void_p(self.bytes.ctypes.data)


class NativeEngine:
    """`cdr_*` of model.h over ctypes."""

    how = "executed"
    closed = False
    opening = "opening the weights"
    own: Sequence[tuple[str, Any, list[Any]]] = (
        ("cdr_kernels_name", c_char_p, []),
        ("cdr_set_threads", c_int, [c_void_p, c_int]),
        ("cdr_threads", c_int, [c_void_p]),
    )
    """The functions that no other target's library has."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], library: ctypes.CDLL | None = None):
        lib = self._lib = library or load(folder, manifest)
        self._model = c_void_p()
        self._slots: list[dict[str, Any]] = manifest["state"]
        self._vocab: int = manifest["vocab"]
        self._declare(
            ("cdr_open", c_int, [POINTER(c_void_p), c_char_p]),
            ("cdr_close", None, [c_void_p]),
            ("cdr_vocab", c_int32, [c_void_p]),
            ("cdr_state_size", c_size_t, [c_void_p]),
            ("cdr_state_memory", c_size_t, [c_void_p]),
            ("cdr_state_init", c_int, [c_void_p, c_void_p]),
            ("cdr_state_fork", c_int, [c_void_p, c_void_p, c_void_p]),
            ("cdr_prefill", c_int, [c_void_p, c_void_p, TOKENS, c_size_t, FLOATS]),
            ("cdr_state_tokens", c_uint64, [c_void_p, c_void_p]),
            ("cdr_state_latest", c_int, [c_void_p, c_void_p, TOKENS]),
            ("cdr_state_save", c_int, [c_void_p, c_void_p, c_char_p]),
            ("cdr_state_load", c_int, [c_void_p, c_void_p, c_char_p]),
            ("cdr_state_read", c_int, [c_void_p, c_void_p, c_char_p, FLOATS]),
            ("cdr_error_text", c_char_p, [c_int]),
            ("cdr_batch_open", c_int, [POINTER(c_void_p), c_void_p, c_int]),
            ("cdr_batch_put", c_int, [c_void_p, c_int, c_void_p]),
            ("cdr_batch_take", c_int, [c_void_p, c_int, c_void_p]),
            ("cdr_batch_step", c_int, [c_void_p, TOKENS, FLOATS]),
            ("cdr_batch_close", None, [c_void_p]),
            *self.own,
        )
        self._check(lib.cdr_open(byref(self._model), os.fsencode(folder / "weights.safetensors")), self.opening)
        if lib.cdr_vocab(self._model) != self._vocab:
            raise ArtifactError(f"the manifest of {folder} is not of its program", "compile the spec again")
        self._size: int = lib.cdr_state_size(self._model)
        self.state_bytes: int = lib.cdr_state_memory(self._model)

    @property
    def about(self) -> str:
        """See `Engine`."""
        name: bytes = self._lib.cdr_kernels_name()
        return f"{name.decode()} kernels"

    @property
    def threads(self) -> int:
        """See `Engine`."""
        return int(self._lib.cdr_threads(self._handle()))

    def _declare(self, *signatures: tuple[str, Any, list[Any]]) -> None:
        for name, result, arguments in signatures:
            function = getattr(self._lib, name, None)
            if function is None:
                raise ArtifactError(f"the artefact is of another version: it has no {name}", "compile the spec again")
            function.restype, function.argtypes = result, arguments

    def _check(self, code: int, doing: str, remedy: str = "compile the spec again") -> None:
        if code:
            text = self._lib.cdr_error_text(code).decode()
            raise ArtifactError(f"{doing}: {text}", remedy)

    def _handle(self) -> c_void_p:
        if not self._model:
            raise ArtifactError("the session is closed", "open the artefact again")
        return self._model

    def _unset(self) -> NativeState:
        """Room for a state, which nothing has been put into."""
        return NativeState(self._size)

    def start(self) -> NativeState:
        """A new document's state."""
        state = self._unset()
        self._check(self._lib.cdr_state_init(self._handle(), state.pointer), "starting a state")
        return state

    def copy(self, state: NativeState) -> NativeState:
        """An independent copy, without the scratch, whose pages then take no memory."""
        twin = self._unset()
        self._check(self._lib.cdr_state_fork(self._handle(), state.pointer, twin.pointer), "copying a state")
        return twin

    def prefill(self, state: NativeState, tokens: Sequence[int]) -> np.ndarray | None:
        """See `Engine`."""
        ids = np.asarray(tokens, np.int32)
        logits = np.empty(self._vocab, np.float32)
        given = (ints(ids), len(ids), logits.ctypes.data_as(FLOATS))
        code = self._lib.cdr_prefill(self._handle(), state.pointer, *given)
        if code & 0xFF == NO_TOKENS:
            return None
        self._check(code, "running the model")
        return logits

    def batch(self, rows: int) -> NativeBatch:
        """See `Engine`."""
        return NativeBatch(self, rows)

    def set_threads(self, threads: int) -> None:
        """See `Engine`."""
        self._check(self._lib.cdr_set_threads(self._handle(), threads), "setting threads", "give a number from 1 to 64")

    def latest(self, state: NativeState) -> list[int]:
        """See `Engine`."""
        found = (c_int32 * LATEST)()
        return list(found[: self._lib.cdr_state_latest(self._handle(), state.pointer, found)])

    def read(self, state: NativeState) -> dict[str, np.ndarray]:
        """Every slot in the manifest's layout."""
        found: dict[str, np.ndarray] = {}
        try:
            for slot in self._slots:
                found[slot["path"]] = self._slot(state, slot["path"], tuple(slot["shape"]))
                if slot["kind"] == "history":
                    banks = tuple(slot.get("banks", ()))
                    found[slot["path"] + ".count"] = self._slot(state, slot["path"] + ".count", banks)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise ArtifactError(f"the manifest's `state` is damaged ({e!r})", "compile the spec again") from e
        found["pos"] = np.array(self._lib.cdr_state_tokens(self._handle(), state.pointer))
        return found

    def _slot(self, state: NativeState, path: str, shape: tuple[int, ...]) -> np.ndarray:
        room = self._room(shape)
        code = self._lib.cdr_state_read(self._handle(), state.pointer, path.encode(), room.ctypes.data_as(FLOATS))
        self._check(code, f"reading {path}")
        return room[: math.prod(shape)].reshape(shape).copy()

    def _room(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(self._size, np.float32)  # more than any piece needs, whatever the manifest says its shape is

    def save(self, state: NativeState, path: Path) -> None:
        """Write the state to a file."""
        code = self._lib.cdr_state_save(self._handle(), state.pointer, os.fsencode(path))
        self._check(code, f"saving {path}", "give a file that can be written")

    def load(self, path: Path) -> NativeState:
        """A saved state."""
        state = self.start()
        code = self._lib.cdr_state_load(self._handle(), state.pointer, os.fsencode(path))
        self._check(code, f"loading {path}", "give a state that this artefact saved")
        return state

    def close(self) -> None:
        """Unmap the weights."""
        self.closed = True
        if self._model:
            self._lib.cdr_close(self._model)
            self._model = c_void_p()


class NativeBatch:
    """`cdr_batch_*` of model.h."""

    def __init__(self, engine: NativeEngine, rows: int):
        self.rows, self._engine, self._batch = rows, engine, c_void_p()
        engine._check(engine._lib.cdr_batch_open(byref(self._batch), engine._handle(), rows), "opening a batch")

    def _handle(self) -> c_void_p:
        self._engine._handle()
        if not self._batch:
            raise ArtifactError("the batch is closed", "open another one")
        return self._batch

    def put(self, row: int, state: NativeState) -> None:
        """See `Rows`."""
        self._engine._check(self._engine._lib.cdr_batch_put(self._handle(), row, state.pointer), "filling a batch")

    def take(self, row: int) -> NativeState:
        """See `Rows`."""
        state = self._engine._unset()
        self._engine._check(self._engine._lib.cdr_batch_take(self._handle(), row, state.pointer), "emptying a batch")
        return state

    def step(self, tokens: Sequence[int]) -> np.ndarray:
        """See `Rows`."""
        ids = ids_of(tokens, self.rows)
        logits = np.empty((self.rows, self._engine._vocab), np.float32)
        code = self._engine._lib.cdr_batch_step(self._handle(), ints(ids), logits.ctypes.data_as(FLOATS))
        self._engine._check(code, "running the model")
        return logits

    def close(self) -> None:
        """See `Rows`."""
        if self._batch and self._engine._model:
            self._engine._lib.cdr_batch_close(self._batch)
        self._batch = c_void_p()

    def __del__(self) -> None:
        self.close()


def ints(a: np.ndarray) -> Any:
    """An int32 array as C takes it."""
    return a.ctypes.data_as(TOKENS)


def open_engine(folder: Path, manifest: Mapping[str, Any]) -> NativeEngine:
    """The engine of a `cpu` artefact."""
    engine = NativeEngine(folder, manifest)
    engine.set_threads(0)  # as many as CDRMIX_THREADS says, or as there are processors
    return engine
