"""The sequence form, statement by statement over whole sequences, is the text token by token."""

from __future__ import annotations

import numpy as np
import pytest

from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.passes.types import decide_types

from .cells import model_of
from .known_cells import CELLS
from .odd_cells import MORE
from .sequence_loops import Loops

ALL = {**CELLS, **MORE}


def agree(model, T, seed=0, work="f32"):
    """Outputs and last states of both, from a random state, with documents that begin inside; worst relative error.

    With a narrow `work` both are rounded, at the same places.
    """
    model = decide_types(model, work)
    rng = np.random.default_rng(seed)
    weights = random_weights(model, 1)
    interpreter = Interpreter(model, weights, rounding=True)
    (line,) = model.lines
    cell, path = model.cells[line.chain[0].cell], line.chain[0].path
    state = {k: np.abs(rng.standard_normal(np.shape(v))) * 0.5 for k, v in interpreter.start().items()}
    state |= {k: np.asarray(min(2, state[k[:-6]].shape[0])) for k in state if k.endswith(".count")}
    state["pos"] = np.asarray(7)
    for k in state:
        if f"{k}.count" in state:
            state[k][int(state[f"{k}.count"]) :] = 0
    x = rng.standard_normal((T, model.width))
    starts = [t in (5, 21, 22) for t in range(T)]
    want, after = interpreter.run(x, dict(state), np.asarray(starts))
    got, new = Loops(cell, model.cells, weights, path).run({cell.inputs[0].name: x}, state, starts, pos=7)
    pairs = [(got, want)] + [(new[k], after[k]) for k in new]
    return max(float(np.max(np.abs(a - b)) / max(1.0, np.max(np.abs(b)))) if np.size(b) else 0.0 for a, b in pairs)


@pytest.mark.parametrize("T", [1, 2, 37])
@pytest.mark.parametrize("name", ALL)
def test_known_cells(name, T, tmp_path):
    assert agree(model_of(ALL[name], tmp_path), T) < 1e-10


@pytest.mark.parametrize("name", ALL)
def test_known_cells_round_where_the_text_does(name, tmp_path):
    assert agree(model_of(ALL[name], tmp_path), 23, work="bf16") < 1e-9
