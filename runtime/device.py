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
from cdrmix.runtime.batch import ids_of
from cdrmix.runtime.errors import ArtifactError, NoDevice
from cdrmix.runtime.library import LIBRARY
from cdrmix.runtime.native import TOKENS, NativeBatch, NativeEngine, NativeState, ints
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
    threads = 0  # type: ignore[assignment]
    own = ()

    def __init__(self, folder: Path, manifest: Mapping[str, Any]):
        super().__init__(folder, manifest, load(folder, manifest))
        how = POINTER(_Sampling)
        self._declare(
            ("cdr_about", c_char_p, [c_void_p]),
            ("cdr_state_free", None, [c_void_p, c_void_p]),
            ("cdr_generate", c_int, [c_void_p, c_void_p, c_int32, c_size_t, how, TOKENS]),
            ("cdr_batch_generate", c_int, [c_void_p, TOKENS, c_size_t, how, TOKENS]),
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

    def _unset(self) -> DeviceState:
        return DeviceState(self, self._size)

    def free(self, state: DeviceState) -> None:
        """Give a state's memory back; nothing when the model is closed, which has given it back itself."""
        if self._model:
            self._lib.cdr_state_free(self._model, state.pointer)

    def generate(self, state: NativeState, token: int, count: int, how: Sampling) -> np.ndarray:
        """Read `token` and then each chosen token but the last; the `count` chosen ones, int32."""
        found = np.empty(count, np.int32)
        code = self._lib.cdr_generate(self._handle(), state.pointer, token, count, byref(_native(how)), ints(found))
        self._check(code, "running the model")
        return found

    def batch(self, rows: int) -> DeviceBatch:
        """See `Engine`."""
        return DeviceBatch(self, rows)

    def set_threads(self, threads: int) -> None:
        """See `Engine`."""
        raise ArtifactError("an artefact of a GPU has no threads to set", "leave them away")

    def _room(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(math.prod(shape) + 1, np.float32)


class DeviceBatch(NativeBatch):
    """Sessions in one sequence of launches."""

    def generate(self, tokens: Sequence[int], count: int, how: Sampling) -> np.ndarray:
        """As an engine's, of every row: int32 [rows, count]."""
        ids, found = ids_of(tokens, self.rows), np.empty((count, self.rows), np.int32)
        lib = self._engine._lib
        code = lib.cdr_batch_generate(self._handle(), ints(ids), count, byref(_native(how)), ints(found))
        self._engine._check(code, "running the model")
        return found.T.copy()


def _native(how: Sampling) -> _Sampling:
    return _Sampling(how.temperature, how.top_p, how.top_k, how.seed, None)


def open_engine(folder: Path, manifest: Mapping[str, Any]) -> DeviceEngine:
    """The engine of a `cuda` or `rocm` artefact."""
    return DeviceEngine(folder, manifest)
