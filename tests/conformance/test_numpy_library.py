"""numpy, a library of arrays that only the tests know, is the interpreter: the whole library, forward and step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdrmix.check import load, load_op
from cdrmix.compiler import lower
from cdrmix.ir import layout
from cdrmix.ir.forms import Program
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Model
from cdrmix.ir.ops import OPS
from tests.conformance import numpy_library
from tests.conformance.numpy_library import TRAITS, Here, Tensor, function_of
from tests.conformance.tinygrad_agree import inputs_of, rms
from tests.conformance.torch_specs import LIBRARY, MODELS

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-10
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in subtract")  # -inf - -inf, of absent tokens


class NumpyProgram:
    """A model as numpy functions, over one session: `prefill` takes a sequence, `step` a token."""

    def __init__(self, program: Program, weights: dict[str, Tensor]):
        model = program.model
        self.model, self.cells = model, program.array_form(TRAITS)
        self.weights = {w.path: np.asarray(weights[w.owner], float) for w in layout.weights(model)}
        self.functions: dict[tuple[str, str], Any] = {}
        scope = vars(numpy_library) | {f"op_{op}": row.numpy for op, row in OPS.items()}
        for cell, made in self.cells.items():
            for function in filter(None, (made.sequence, made.step)):
                exec(function_of(function, model.sources), scope)
                self.functions[cell, function.mode] = scope["run"]

    def run(self, cell: str, here: Here, lead: tuple[int, ...], *inputs: Tensor) -> Tensor:
        mode = "step" if here.pos.ndim == 1 and (cell, "step") in self.functions else "sequence"
        return self.functions[cell, mode](here, lead, *inputs)  # type: ignore[no-any-return]

    def __call__(self, state: dict[str, Tensor], pos: Tensor, *inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs over `pos` [B, T], or [B] for one token, and the state after."""
        x, whole = inputs, Here(self, state, pos)
        for line in self.model.lines:
            y = x
            for i in line.chain:
                here = Here(self, state, pos, f"{i.path}.", whole.new, whole.carries)
                y = (self.run(i.cell, here, pos.shape, *y),)
            x = (x[0] + y[0],) if line.residual else y
        return x[0], state | whole.new


def model_of(name: str) -> Model:
    if name in MODELS:
        file, settings = MODELS[name]
        return load(ROOT / "spec" / f"{file}.cdr", settings)
    op, dims, args = LIBRARY[name]
    return load_op(Path(__file__).with_name("torch_ops.cdr"), op, dims, args)


@pytest.mark.parametrize("name", [*LIBRARY, *MODELS])
@pytest.mark.parametrize("length", [1, 65])
def test_a_sequence_and_its_steps_are_the_interpreter(name: str, length: int) -> None:
    model = model_of(name)
    weights = random_weights(model, 0)
    program, twin = NumpyProgram(lower(model).program, weights), Interpreter(model, weights)
    _, (rows,) = inputs_of(model, 1, length)
    wanted = twin.run(rows)
    fed = [np.asarray(rows)[None]] if model.vocab else [np.asarray(x, float)[None] for x in zip(*rows, strict=True)]
    start: dict[str, Any] = {path: np.asarray(x)[None] for path, x in twin.start().items()}
    cut = length // 2
    outputs, state = program(start, np.arange(cut)[None], *(x[:, :cut] for x in fed)) if cut else (None, start)
    steps = []
    for t in range(cut, length):
        y, state = program(state, np.full(1, t), *(x[:, t] for x in fed))
        steps.append(y[0])
    found = [*(outputs[0] if outputs is not None else ()), *steps]
    assert rms(np.reshape(found, np.shape(wanted.logits)), wanted.logits) < TOLERANCE
    for path, x in wanted.state.items():
        assert path == "pos" or rms(state[path][0], x) < TOLERANCE, path
