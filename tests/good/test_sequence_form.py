"""The class of every known cell, by algebra alone; and the sequence form, which is the text token by token."""

from __future__ import annotations

import numpy as np
import pytest

from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.passes.classify import classify
from cdrmix.passes.notes import shown
from cdrmix.passes.precision import decide_precision
from tests.good.cells import cell_of, model_of
from tests.good.known_cells import CELLS
from tests.good.odd_cells import MORE
from tests.good.sequence_loops import Loops

ALL = {**CELLS, **MORE}


@pytest.mark.parametrize("name", ALL)
def test_classes(name, tmp_path):
    groups = classify(cell_of(ALL[name], tmp_path))
    assert " | ".join(str(g).split(" [")[0] for g in groups) == ALL[name].classes


@pytest.mark.parametrize(
    ("name", "why", "words"),
    [
        ("vanilla RNN", "is not affine in the state", "tanh(x[c] + sum[e](u[c,e]*s[e]))"),
        ("state-dependent gate", "is not affine in the state", "sigmoid(sum[m](S[h,i,m]*r[h,m]))"),
        ("quadratic", "multiplies the state by itself", "sum[m](S[h,i,m]*k[h,m])*S[h,i,j]"),
        ("linear RNN, dense", "is a dense transition: it takes every place of the state to every other", "u[c,e]"),
        ("two-sided", "is contracted along another axis than in the term before", "S[h,i,m"),
        ("transposed", "is read at another place along `i`", "S[j,i]"),
    ],
)
def test_the_culprit_is_named_in_the_words_of_the_text(name, why, words, tmp_path):
    (group,) = classify(cell_of(ALL[name], tmp_path))
    assert group.culprit is not None
    assert group.why == why
    assert words in shown(group.culprit.node)
    assert group.culprit.node.span.line > 0


def agree(model, T, seed=0, work="f32"):
    """Outputs and last states of both, from a random state, with documents that begin inside; worst relative error.

    With a narrow `work` both are rounded, at the same places.
    """
    model = decide_precision(model, work)
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
