"""Every primitive on the GPU targets' program, executed on tinygrad's CPU device: see `test_primitives`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from . import tinygrad_device  # noqa: F401  isort: skip  (chooses the device before tinygrad is imported)
from cdrmix.codegen.tinygrad.program import emit_program
from cdrmix.runtime.tinygrad.stream import Stream

from cdrmix.compiler import lower
from cdrmix.packing import pack, read_stored

from .primitives import weights_of
from .test_primitives import INPUTS, ROWS, cases, compare, model_for, tokens_of
from .tinygrad_agree import program_of


@pytest.mark.parametrize(("group", "key"), cases())
def test_tinygrad(group: str, key: str) -> None:
    program = lower(model_for(group, key)).program
    weights = weights_of(INPUTS[key]())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        pack(path, program.model, lambda name: np.asarray(weights[name], np.float32))
        held = read_stored(program.model, path)
    stream = Stream(program_of(emit_program(program)["program.py"]), held, ROWS, [1])
    for token in np.array([tokens_of(group, row) for row in range(ROWS)], np.int32).T:
        stream.step(token)
    assert not compare([stream.state(row) for row in range(ROWS)], group, key)
