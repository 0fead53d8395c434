"""Costs against closed forms worked out by hand, and against the tensors that are there."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from cdrmix.check import load, load_text
from cdrmix.ir import layout
from cdrmix.ir.cost import cost, flops
from cdrmix.ir.initial import initial_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.passes.encodings import encode
from cdrmix.passes.precision import decide_precision
from tests.good.handmade import delta_cell, layer_norm
from tests.small import SPEC

SPECS = Path(__file__).parents[2] / "spec"


def test_parameters_are_those_that_are_there() -> None:
    model = load(SPECS / "hybrid.cdr", {"vocab": "64", "d_model": "64", "layers": "4", "attn.window": "8"})
    found, weights = cost(model), initial_weights(model)
    assert found.total.weight_bytes() == 4 * sum(v.size for v in weights.values())
    buffers = sum(v.size for w, v in weights.items() if w.endswith(".bias"))
    assert found.total.stored == sum(v.size for v in weights.values()) - buffers
    state = Interpreter(model, weights).start()
    assert found.total.state_bytes() == 4 * sum(state[s.path].size for s in layout.slots(model))
    assert found.total.stored == sum(line.stored for line in found.lines.values())


def test_a_mixture_runs_its_chosen_experts() -> None:
    model = load_text(SPEC.replace("moe(relu2(hidden=32), experts=4", "moe(relu2(hidden=64), experts=8, shared=1"))
    expert = 2 * 32 * 64
    lines = cost(model).lines
    found, shift_and_norm = lines["layer.1.ffn"], 3 * 32
    assert found.stored == 8 * 32 + 9 * expert + shift_and_norm
    assert found.active == 8 * 32 + 3 * expert + shift_and_norm
    # three experts of two products, relu and square; the router; the rest is small
    products = 3 * (2 * expert + 2 * 64) + 2 * 8 * 32
    assert products < found.flops < products + 800


def test_a_product_is_two_flops_a_weight_and_what_does_not_vary_counts_once() -> None:
    h, n = 2, 3
    seen, update, out = 2 * h * n * n, 4 * h * n * n, 2 * h * n * n
    assert sum(flops(s.value) for s in delta_cell().body) == seen + update + out  # type: ignore[union-attr]
    # mean 6; centre, square, mean 3*6; root 2; centre, divide, scale, shift 4*6
    assert sum(flops(s.value) for s in layer_norm().body) == 6 + 18 + 2 + 24  # type: ignore[union-attr]


def test_bytes_follow_the_working_type() -> None:
    model = load(SPECS / "1b.cdr", {"d_model": "128", "layers": "2"})
    total = cost(model).total
    routers = sum(int(np.prod(w.shape)) for w in layout.weights(model) if w.path.endswith(".Wg"))
    assert total.weight_bytes("bf16") == 2 * (total.stored - routers) + 4 * routers
    kept = sum(int(np.prod(s.shape)) for s in layout.slots(model) if s.path.endswith(".S"))
    shifts = sum(int(np.prod(s.shape)) for s in layout.slots(model)) - kept
    assert shifts > 0
    assert total.state_bytes("bf16") in (4 * kept + 2 * shifts, 4 * (kept + shifts))


def test_a_large_model_takes_no_time() -> None:
    model = load(SPECS / "1b.cdr", {"d_model": "4096", "layers": "32", "moe.hidden": "14336"})
    began = time.perf_counter()
    total = cost(model).total
    assert time.perf_counter() - began < 1
    assert total.stored > 8e9
    assert total.active < total.stored / 2
    assert 1.9 < total.flops / total.active < 2.5


def test_what_a_token_reads_is_what_is_active() -> None:
    model = decide_precision(load(SPECS / "tiny.cdr"))
    total = cost(model).total
    assert total.read_bytes() == 4 * total.active
    small = cost(decide_precision(encode(load(SPECS / "tiny.cdr"), "i8"))).total.read_bytes()
    assert total.active < small < 1.3 * total.active
