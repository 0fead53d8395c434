"""Build a model's C program and call it through ctypes.

Input: a checked `Model` and weights by path.
Output: a `Stream`: the program with one state, whose results compare with the interpreter's.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cdrmix.codegen.c import program as backend
from numpy.typing import NDArray
from safetensors.numpy import save_file

from cdrmix.compiler import lower
from cdrmix.ir import layout
from cdrmix.ir.nodes import Model

Array = NDArray[Any]
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic", "-ffp-contract=off")
ENGINE = ("model.c",)
TEXT = ("tokenizer.c",)
QUICK = ("-O1", "-DCDR_PLAIN")
"""Flags for tests of what is generated: the kernels of other instruction sets have a test of their own."""
TOLERANCE = 1e-5

CC = shutil.which(os.environ.get("CC", "cc"))
CLANG = next(filter(None, map(shutil.which, ("clang", *(f"clang-{n}" for n in range(22, 10, -1))))), None)
needs_compiler = pytest.mark.skipif(CC is None, reason="no C compiler")


def sources(model: Model, folder: Path) -> Path:
    """The program's files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = backend.emit(lower(model).program, "cpu", {})
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def write_weights(weights: Mapping[str, Array], folder: Path) -> Path:
    """weights.safetensors in a folder."""
    path = folder / "weights.safetensors"
    save_file({k: np.array(v, np.float32, order="C") for k, v in weights.items()}, path)
    return path


def library(folder: Path, *flags: str, compiler: str | None = CC, files: Sequence[str] = (*ENGINE, *TEXT)) -> Path:
    """The shared library, without a warning; of clang neither, where there is one."""
    out = folder / "libmodel.so"
    given = [*STRICT, *(flags or QUICK), *(str(folder / name) for name in files)]
    compile_c([str(compiler), *given, "-fPIC", "-shared", "-o", str(out), "-lm"])
    if CLANG not in (None, compiler):
        compile_c([CLANG, *given, "-fsyntax-only"])
    return out


def compile_c(command: Sequence[str]) -> None:
    """Run a compiler; its complaints are the failure."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    assert not done.stderr, done.stderr[:4000]


def load(path: Path) -> ctypes.CDLL:
    """The library with its signatures."""
    lib = ctypes.CDLL(str(path))
    floats = POINTER(c_float)
    for name, result, arguments in (
        ("cdr_open", c_int, [POINTER(c_void_p), c_char_p]),
        ("cdr_close", None, [c_void_p]),
        ("cdr_vocab", c_int, [c_void_p]),
        ("cdr_state_size", c_size_t, [c_void_p]),
        ("cdr_state_init", c_int, [c_void_p, c_void_p]),
        ("cdr_state_tokens", c_uint64, [c_void_p, c_void_p]),
        ("cdr_state_fork", c_int, [c_void_p, c_void_p, c_void_p]),
        ("cdr_state_free", None, [c_void_p, c_void_p]),
        ("cdr_step", c_int, [c_void_p, c_void_p, c_int32, floats]),
        ("cdr_prefill", c_int, [c_void_p, c_void_p, POINTER(c_int32), c_size_t, floats]),
        ("cdr_step_values", c_int, [c_void_p, c_void_p, floats, floats]),
        ("cdr_state_save", c_int, [c_void_p, c_void_p, c_char_p]),
        ("cdr_state_load", c_int, [c_void_p, c_void_p, c_char_p]),
        ("cdr_state_read", c_int, [c_void_p, c_void_p, c_char_p, floats]),
        ("cdr_error_text", c_char_p, [c_int]),
    ):
        if hasattr(lib, name):
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    return lib


class Refused(Exception):
    """A code that the program returned, as its text."""


class Stream:
    """A program with one state, at an address that is a multiple of 16 and of no more."""

    def __init__(self, model: Model, lib: ctypes.CDLL, weights: Path):
        self.model, self.lib = model, lib
        self.handle = c_void_p()
        self.check(lib.cdr_open(byref(self.handle), os.fsencode(weights)))
        self.size: int = lib.cdr_state_size(self.handle)
        self._memory = np.full(self.size + 64, 0xA5, np.uint8)
        start = -self._memory.ctypes.data % 64 + 16
        self.bytes = self._memory[start : start + self.size]
        self.state_pointer = c_void_p(self.bytes.ctypes.data)
        self.reset()

    def check(self, code: int) -> None:
        if code:
            raise Refused(self.lib.cdr_error_text(code).decode())

    def reset(self) -> None:
        self.check(self.lib.cdr_state_init(self.handle, self.state_pointer))

    def step(self, token: int) -> Array:
        out = np.full(self.model.vocab, np.nan, np.float32)
        self.check(self.lib.cdr_step(self.handle, self.state_pointer, token, _floats(out)))
        return out

    def prefill(self, tokens: Sequence[int]) -> Array:
        ids, out = np.asarray(tokens, np.int32), np.full(self.model.vocab, np.nan, np.float32)
        pointer = ids.ctypes.data_as(POINTER(c_int32))
        self.check(self.lib.cdr_prefill(self.handle, self.state_pointer, pointer, len(ids), _floats(out)))
        return out

    def values(self, *inputs: Array) -> Array:
        """One token of a model of one bare op."""
        last = self.model.cells[self.model.lines[-1].chain[-1].cell]
        given = np.concatenate([np.asarray(x, np.float32).ravel() for x in inputs])
        out = np.full([a.size for a in last.out_axes], np.nan, np.float32)
        self.check(self.lib.cdr_step_values(self.handle, self.state_pointer, _floats(given), _floats(out)))
        return out

    def read(self, path: str, shape: Sequence[int]) -> Array:
        out = np.full(shape, np.nan, np.float32)
        self.check(self.lib.cdr_state_read(self.handle, self.state_pointer, path.encode(), _floats(out)))
        return out

    def state(self) -> dict[str, Array]:
        """The whole state in the canonical layout."""
        found = {}
        for slot in layout.slots(self.model):
            found[slot.path] = self.read(slot.path, slot.shape)
            if slot.kind == "history":
                found[f"{slot.path}.count"] = self.read(f"{slot.path}.count", slot.place.banks)
        found["pos"] = self.read("pos", ())
        return found

    def save(self, path: Path) -> None:
        self.check(self.lib.cdr_state_save(self.handle, self.state_pointer, os.fsencode(path)))

    def load(self, path: Path) -> None:
        self.check(self.lib.cdr_state_load(self.handle, self.state_pointer, os.fsencode(path)))


def _floats(a: Array) -> Any:
    return a.ctypes.data_as(POINTER(c_float))


def stream(model: Model, weights: Mapping[str, Array], folder: Path, *flags: str) -> Stream:
    """A model's program, built and opened."""
    path = write_weights(weights, sources(model, folder))
    return Stream(model, load(library(folder, *flags)), path)


def rms(found: Array, wanted: Array) -> float:
    """The relative RMS error; absolute where zero is wanted."""
    x, y = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert x.shape == y.shape, (x.shape, y.shape)
    if not y.size:
        return 0.0
    scale, error = np.sqrt(np.mean(y**2)), np.sqrt(np.mean((x - y) ** 2))
    return float(error / scale if scale > 0 else error)


def worst(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """The largest error of two states."""
    assert found.keys() == wanted.keys()
    return max(rms(found[path], wanted[path]) for path in wanted)
