"""Whole models through the captured launches, executed on this CPU, against the interpreter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tinygrad")

from cdrmix.codegen.tinygrad.program import emit_program, schedule

from cdrmix.check import load
from cdrmix.compiler import lower
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from tests.conformance.tinygrad_plan import Plans, Sessions
from tests.conformance.torch_specs import MODELS

SPEC = Path(__file__).parents[2] / "spec"
TOLERANCE = 1e-4


@pytest.mark.parametrize("name", ["hybrid"])
def test_the_captured_launches_are_the_model(tmp_path: Path, name: str) -> None:
    spec, overrides = MODELS[name]
    program = lower(load(SPEC / f"{spec}.cdr", overrides)).program
    for file, text in emit_program(program).items():
        path = tmp_path / "source" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    plans = Plans(tmp_path, schedule(program) | {"batches": [1, 2], "blocks": [5]}, jobs=2)
    weights = random_weights(program.model, 0)
    twin = Interpreter(program.model, weights)
    tokens = np.random.default_rng(0).integers(0, program.model.vocab, (2, 20))
    wanted = np.stack([twin.run(row).logits for row in tokens])

    one = Sessions(plans, weights, twin.start(), 1)
    for at in (0, 5, 10):
        found = one.run(tokens[:1, at : at + 5])
        assert rms(found, wanted[:1, at + 4]) < TOLERANCE
    for at in range(15, 20):
        assert rms(one.run(tokens[:1, at : at + 1]), wanted[:1, at]) < TOLERANCE

    both = Sessions(plans, weights, twin.start(), 2)
    for at in range(20):
        assert rms(both.run(tokens[:, at : at + 1]), wanted[:, at]) < TOLERANCE


def rms(found: np.ndarray, wanted: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)))
