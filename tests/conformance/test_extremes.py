"""Every op of the library at extreme inputs and parameters: finite in float64, and in f32 on torch and C, both ways.

Where float64 itself leaves f32's range nothing is asked of f32.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from cdrmix.check import load_op
from cdrmix.ir import layout
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Model

from .c_program import Stream, library, load, needs_compiler, sources, write_weights
from .primitives import Array
from .torch_agree import module_of
from .torch_specs import LIBRARY

torch.set_num_threads(1)
SPECS = Path(__file__).with_name("torch_ops.cdr")
T = 5
LARGEST = 1e36

INPUTS = {
    "1e-30": lambda x: 1e-30 * x,
    "1e-3": lambda x: 1e-3 * x,
    "1": lambda x: x,
    "1e3": lambda x: 1e3 * x,
    "1e4": lambda x: 1e4 * x,
    "zeros": lambda x: 0 * x,
    "equal": lambda x: 0 * x + 3,
    "positive": lambda x: 0 * x + 1e4,
    "negative": lambda x: 0 * x - 1e4,
}
CASES = [(x, w) for x in INPUTS for w in INPUTS if "1" in (x, w)] + [
    ("1e3", "1e3"),
    ("1e-30", "1e-30"),
    ("zeros", "zeros"),
]


@cache
def model_for(name: str) -> Model:
    op, dims, args = LIBRARY[name]
    return load_op(SPECS, op, dims, args)


def inputs_for(model: Model, case: str) -> tuple[Array, ...]:
    rng = np.random.default_rng(0)
    formals = model.cells[model.lines[0].chain[0].cell].inputs
    return tuple(INPUTS[case](rng.normal(size=(T, *(a.size for a in i.axes)))).astype(np.float32) for i in formals)


def weights_for(model: Model, case: str) -> dict[str, Array]:
    """All of the parameters changed in the same way; what balances a router's load is left alone."""
    kinds = {w.path: w.kind for w in layout.weights(model)}
    found = random_weights(model)
    return {p: (w if kinds[p] == "buffer" else INPUTS[case](w)).astype(np.float32) for p, w in found.items()}


@cache
def wanted(name: str, case: tuple[str, str]) -> bool:
    """Whether f32 can hold what comes out, which is finite in float64."""
    model = model_for(name)
    run = Interpreter(model, weights_for(model, case[1])).run(list(zip(*inputs_for(model, case[0]), strict=True)))
    everything = [run.logits, *run.state.values()]
    assert all(np.isfinite(v).all() for v in everything), case
    return all(np.max(np.abs(v), initial=0.0) < LARGEST for v in everything)


@pytest.mark.parametrize("name", LIBRARY)
def test_outputs_are_finite_and_torch_gradients_too(name: str) -> None:
    model = model_for(name)
    module, wrong = module_of(model), []
    for case in CASES:
        if not wanted(name, case):
            continue
        module.load_state_dict({path: torch.from_numpy(w) for path, w in weights_for(model, case[1]).items()})
        module.zero_grad()
        given = [torch.from_numpy(x)[None].requires_grad_() for x in inputs_for(model, case[0])]
        y, _ = module(tuple(given) if len(given) > 1 else given[0], None, None)
        y.sum().backward()
        leaves = {**dict(module.named_parameters()), **{f"input {n}": x for n, x in enumerate(given)}}
        wrong += [] if torch.isfinite(y).all() else [(case, "outputs")]
        wrong += [(case, path) for path, x in leaves.items() if x.grad is not None and torch.isnan(x.grad).any()]
    assert not wrong


@needs_compiler
@pytest.mark.parametrize("name", LIBRARY)
def test_c_is_finite(name: str, tmp_path: Path) -> None:
    model = model_for(name)
    lib = load(library(sources(model, tmp_path), "-O0"))
    for case in CASES:
        if wanted(name, case):
            program = Stream(model, lib, write_weights(weights_for(model, case[1]), tmp_path))
            found = [program.values(*(x[t] for x in inputs_for(model, case[0]))) for t in range(T)]
            assert np.isfinite(found).all(), case
