"""Run a model's generated tinygrad program on tinygrad's CPU device and the interpreter, and compare.

Input: a checked `Model`, how its matrices are stored, and blocks of tokens.
Output: the errors of outputs and final states, by relative RMS.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.conformance import tinygrad_device as tinygrad_device  # before tinygrad

# isort: split
from cdrmix.codegen.tinygrad.program import emit_program
from cdrmix.runtime import tinygrad as runtime
from cdrmix.runtime.tinygrad.stream import Stream

from cdrmix.compiler import lower
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.layout import slots
from cdrmix.ir.nodes import Model, Stored
from cdrmix.packing import pack, read_stored, read_values

Array = NDArray[Any]
TOLERANCE = 1e-5


def program_of(text: str) -> ModuleType:
    """The generated module, importing the runtime of this tree."""
    sys.modules["cdrmix_tinygrad"] = runtime
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        path.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("generated_program", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def rms(x: Array, y: Array) -> float:
    """The relative RMS error of x against y; absolute where y is all zero."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    assert x.shape == y.shape, (x.shape, y.shape)
    scale = float(np.sqrt(np.mean(y**2))) if y.size else 0.0
    error = float(np.sqrt(np.mean((x - y) ** 2))) if y.size else 0.0
    return error / scale if scale > 0 else error


def inputs_of(model: Model, batch: int, length: int) -> tuple[Array, list[list[Any]]]:
    """Tokens as the program takes them, [batch, length, ...], and each session's as the interpreter does."""
    rng = np.random.default_rng(0)
    if model.vocab:
        ids = rng.integers(0, model.vocab, (batch, length)).astype(np.int32)
        return ids, [[int(t) for t in row] for row in ids]
    formals = model.cells[model.lines[0].chain[0].cell].inputs
    parts = [rng.standard_normal((batch, length, *(a.size for a in i.axes))).astype(np.float32) for i in formals]
    rows = [[tuple(p[b, t] for p in parts) for t in range(length)] for b in range(batch)]
    flat = parts[0] if len(parts) == 1 else np.concatenate([p.reshape(batch, length, -1) for p in parts], -1)
    return flat, rows


def check(
    model: Model,
    blocks: Sequence[int],
    batch: int = 1,
    stored: Stored = "f32",
    tolerance: float = TOLERANCE,
    rules: Sequence[str] = (),
) -> None:
    """The program over these blocks in turn, one after another's state, is the interpreter."""
    program = lower(model, weights=stored, rules=rules).program
    weights = random_weights(model, 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        pack(path, program.model, lambda name: np.asarray(weights[name], np.float32))
        held, values = read_stored(program.model, path), read_values(program.model, path)
    length = sum(blocks)
    fed, rows = inputs_of(model, batch, length)
    stream = Stream(program_of(emit_program(program)["program.py"]), held, batch, sorted({*blocks}))
    twin = Interpreter(model, values)
    wanted = [twin.run(row) for row in rows]
    at = 0
    for block in blocks:
        found = stream.prefill(fed[:, at : at + block])
        at += block
        for b in range(batch):
            error = rms(found[b], np.reshape(wanted[b].logits[at - 1], found[b].shape))
            assert error <= tolerance, f"outputs of session {b} after {at} tokens: {error:.2e}"
    for b in range(batch):
        compare_state(model, stream.state(b), wanted[b].state, tolerance)


def compare_state(model: Model, found: Mapping[str, Array], wanted: Mapping[str, Array], tolerance: float) -> None:
    """Every slot agrees; a history that holds nothing but this token has no slot."""
    empty = [s.path for s in slots(model) if s.kind == "history" and s.shape[0] == 0]
    assert set(found) == set(wanted) - {*empty, *(f"{path}.count" for path in empty)}
    for path, value in found.items():
        error = rms(value, wanted[path])
        assert error <= tolerance, f"{path}: {error:.2e}"
