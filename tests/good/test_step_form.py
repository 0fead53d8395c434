"""The step form: what is overwritten in place is never read again, and the token's values stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from cdrmix.ir import walk
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.interp_expr import Frame, expression
from cdrmix.ir.nodes import Ref
from cdrmix.ir.types import param_types, rounded
from cdrmix.passes.hoist import hoist
from cdrmix.passes.precision import decide_precision
from cdrmix.passes.step import step_form

from .cells import model_of
from .known_cells import CELLS
from .odd_cells import MORE

ALL = {**CELLS, **MORE}
TWO_BUFFERS = {
    "RWKV-4, running max": {"p"},
    "mLSTM, stabilised": {"m"},
    "LRU, complex": {"re"},
    "LSTM": {"o"},
    "vanilla RNN": {"s"},
    "linear RNN, dense": {"s"},
    "delay of an answer": {"s"},
    "asked with another chunk's answer": {"S"},
    "two states change places": {"b"},
    "transposed": {"S"},
    "two tokens back": {"S"},
    "the state before, kept": {"S"},
    "begins elsewhere": {"p"},
    "a vector, its maximum by heads": {"p"},
}


@pytest.mark.parametrize("name", ALL)
def test_in_place(name, tmp_path):
    model = model_of(ALL[name], tmp_path)
    form = check(model, step_form)
    (cell,) = model.cells.values()
    assert {s.name for s in cell.states} - form.in_place == TWO_BUFFERS.get(name, set())


@pytest.mark.parametrize("name", ALL)
def test_it_rounds_where_the_text_does(name, tmp_path):
    check(decide_precision(model_of(ALL[name], tmp_path), "bf16"), lambda cell: step_form(hoist(cell)))


def check(model, derive):
    """A token by the interpreter and by a model's step form, which is returned."""
    (line,) = model.lines
    cell, path = model.cells[line.chain[0].cell], line.chain[0].path
    form = derive(cell)
    rng = np.random.default_rng(0)
    weights = {k: w.astype(np.float64) for k, w in random_weights(model, 1).items()}
    state = {f"{path}.{s.name}": np.abs(rng.standard_normal([i.axis.size for i in s.indices])) for s in cell.states}
    x = rng.standard_normal(model.width)
    want, after = Interpreter(model, weights, rounding=True).step(x, {**state, "pos": np.asarray(0)})
    values = {Ref("param", p.name): rounded(weights[f"{path}.{p.name}"], p.dtype) for p in cell.params}
    values |= {Ref("state", s.name): state[f"{path}.{s.name}"] for s in cell.states}
    frame = Frame({**values, Ref("input", cell.inputs[0].name): rounded(x, cell.inputs[0].dtype)}, {"pos": 0})
    for stmt in form.body:
        value = expression(stmt.value, walk.windows(cell), stmt.indices, param_types(cell))
        frame.values[stmt.ref] = rounded(np.asarray(value(frame)), stmt.dtype)
        if stmt.ref.kind == "next" and stmt.ref.name in form.in_place:
            frame.values[Ref("state", stmt.ref.name)] = np.full(frame.values[stmt.ref].shape, np.nan)
    np.testing.assert_allclose(frame.values[Ref("output", "out")], want, rtol=1e-10, atol=1e-12)
    for s in cell.states:
        np.testing.assert_allclose(frame.values[Ref("next", s.name)], after[f"{path}.{s.name}"], rtol=1e-10, atol=1e-12)
    return form
