"""Run a `cuda` or `rocm` artefact: its C runner as a shared library, through ctypes.

A state is memory of the GPU and is given back when nothing refers to it any more.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_int32, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from cdrmix.runtime.errors import ArtifactError, NoDevice
from cdrmix.runtime.library import LIBRARY
from cdrmix.runtime.native import FLOATS, NativeEngine, NativeState
from cdrmix.runtime.runner import load
from cdrmix.runtime.sampling import Sampling

ABSENT = {"CDR_DRIVER_MISSING": 38, "CDR_DEVICE_MISSING": 39, "CDR_CODE_MISSING": 40}
"""The kinds of error, by errors.h, that say that nothing here can run the artefact."""

STANDS_FOR: Mapping[str, str] = {"Mock GPU": "source executed on CPU", "Emulated": "emulated"}
"""What running on a device that is none is called, by how the device's name begins."""


COMPARES = ("weights.safetensors", LIBRARY)
"""The runner compares the weights as it uploads them; another library can be built."""


class _Sampling(ctypes.Structure):
    """`cdr_sampling` of sample.h."""

    _fields_ = [
        ("temperature", c_double),
        ("top_p", c_double),
        ("top_k", c_int32),
        ("random", c_uint64),
        ("known", c_void_p),
    ]


class DeviceState(NativeState):
    """A handle to a state on the GPU."""

    def __init__(self, engine: DeviceEngine, size: int):
        super().__init__(size)
        self._engine = engine

    def __del__(self) -> None:
        self._engine.free(self)


class DeviceEngine(NativeEngine):
    """`cdr_*` of the runner's model.h over ctypes."""

    opening = "opening the artefact"
    threads = 0
    own = ()

    def __init__(self, folder: Path, manifest: Mapping[str, Any]):
        super().__init__(folder, manifest, load(folder, manifest))
        tokens, how = POINTER(c_int32), POINTER(_Sampling)
        self._declare(
            ("cdr_about", c_char_p, [c_void_p]),
            ("cdr_state_free", None, [c_void_p, c_void_p]),
            ("cdr_generate", c_int, [c_void_p, c_void_p, c_int32, c_size_t, how, tokens]),
            ("cdr_batch_open", c_int, [POINTER(c_void_p), c_void_p, c_int]),
            ("cdr_batch_put", c_int, [c_void_p, c_int, c_void_p]),
            ("cdr_batch_take", c_int, [c_void_p, c_int, c_void_p]),
            ("cdr_batch_step", c_int, [c_void_p, tokens, FLOATS]),
            ("cdr_batch_generate", c_int, [c_void_p, tokens, c_size_t, how, tokens]),
            ("cdr_batch_close", None, [c_void_p]),
        )

    @property
    def about(self) -> str:
        """Which GPU this is, and which of the artefact's programs runs on it."""
        found: bytes = self._lib.cdr_about(self._handle())
        return found.decode(errors="replace")

    @property
    def how(self) -> str:  # type: ignore[override]
        """See `Engine`."""
        given = os.environ.get("CDR_DRIVER")  # whose device may be none that we know
        otherwise = "executed by the driver that CDR_DRIVER names" if given else "executed"
        return next((how for name, how in STANDS_FOR.items() if self.about.startswith(name)), otherwise)

    def _check(self, code: int, doing: str, remedy: str = "") -> None:
        if code & 0xFF in ABSENT.values():
            text = self._lib.cdr_error_text(code).decode(errors="replace")
            raise NoDevice(text, "run it where its GPU is; `cdrmix verify` can run its program on this CPU")
        super()._check(code, doing, remedy)  # the runner's sentences say what to do

    def start(self) -> DeviceState:
        """A new document's state."""
        state = DeviceState(self, self._size)
        self._check(self._lib.cdr_state_init(self._handle(), state.pointer), "starting a state")
        return state

    def copy(self, state: NativeState) -> DeviceState:
        """An independent copy."""
        twin = DeviceState(self, self._size)
        self._check(self._lib.cdr_state_fork(self._handle(), state.pointer, twin.pointer), "copying a state")
        return twin

    def free(self, state: DeviceState) -> None:
        """Give a state's memory back; nothing when the model is closed, which has given it back itself."""
        if self._model:
            self._lib.cdr_state_free(self._model, state.pointer)

    def generate(self, state: NativeState, token: int, count: int, how: Sampling) -> np.ndarray:
        """Read `token` and then each chosen token but the last; the `count` chosen ones, int32."""
        found = np.empty(count, np.int32)
        code = self._lib.cdr_generate(self._handle(), state.pointer, token, count, byref(_native(how)), _ints(found))
        self._check(code, "running the model")
        return found

    def batch(self, rows: int) -> Batch:
        """Sessions that step together."""
        return Batch(self, rows)

    def _room(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(math.prod(shape) + 1, np.float32)


class Batch:
    """Sessions in one sequence of launches.  Every row begins a document until a state is put there."""

    def __init__(self, engine: DeviceEngine, rows: int):
        self.rows, self._engine, self._batch = rows, engine, c_void_p()
        engine._check(engine._lib.cdr_batch_open(byref(self._batch), engine._handle(), rows), "opening a batch")

    def _handle(self) -> c_void_p:
        self._engine._handle()
        if not self._batch:
            raise ArtifactError("the batch is closed", "open another one")
        return self._batch

    def put(self, row: int, state: NativeState) -> None:
        """Copy a state into a row."""
        self._engine._check(self._engine._lib.cdr_batch_put(self._handle(), row, state.pointer), "filling a batch")

    def take(self, row: int) -> DeviceState:
        """Copy a row out into a state."""
        state = DeviceState(self._engine, self._engine._size)
        self._engine._check(self._engine._lib.cdr_batch_take(self._handle(), row, state.pointer), "emptying a batch")
        return state

    def step(self, tokens: Sequence[int]) -> np.ndarray:
        """Read a token of every row (-1 lets go of what a row holds); float32 [rows, vocab]."""
        ids = self._ids(tokens)
        logits = np.empty((self.rows, self._engine._vocab), np.float32)
        code = self._engine._lib.cdr_batch_step(self._handle(), _ints(ids), logits.ctypes.data_as(FLOATS))
        self._engine._check(code, "running the model")
        return logits

    def generate(self, tokens: Sequence[int], count: int, how: Sampling) -> np.ndarray:
        """As an engine's, of every row: int32 [rows, count]."""
        ids, found = self._ids(tokens), np.empty((count, self.rows), np.int32)
        lib = self._engine._lib
        code = lib.cdr_batch_generate(self._handle(), _ints(ids), count, byref(_native(how)), _ints(found))
        self._engine._check(code, "running the model")
        return found.T.copy()

    def _ids(self, tokens: Sequence[int]) -> np.ndarray:
        ids = np.asarray(tokens, np.int32)
        if ids.shape != (self.rows,):
            raise ArtifactError(f"the batch has {self.rows} rows, not {ids.size}", "give a token for each")
        return ids

    def close(self) -> None:
        """Give the batch's memory back."""
        if self._batch and self._engine._model:
            self._engine._lib.cdr_batch_close(self._batch)
        self._batch = c_void_p()

    def __del__(self) -> None:
        self.close()


def _ints(a: np.ndarray) -> Any:
    return a.ctypes.data_as(POINTER(c_int32))


def _native(how: Sampling) -> _Sampling:
    return _Sampling(how.temperature, how.top_p, how.top_k, how.seed, None)


def open_engine(folder: Path, manifest: Mapping[str, Any]) -> DeviceEngine:
    """The engine of a `cuda` or `rocm` artefact."""
    return DeviceEngine(folder, manifest)
