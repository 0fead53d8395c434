"""Random expressions, with and without windows, and random recurrences: the generated tinygrad program is the text."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

pytest.importorskip("tinygrad")

from tests.conformance.tinygrad_agree import check

# isort: split
from cdrmix.ir import walk
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Model, Node
from tests.conformance.test_torch_random import cell_over
from tests.good.cells import Known, model_of
from tests.good.handmade import model
from tests.good.test_ir_random import expressions
from tests.good.test_sequence_form_random import draw

EXAMPLES, SEEDS = (60, 12) if os.environ.get("CDRMIX_TINYGRAD") == "all" else (4, 2)
STEEP = {"sign", "floordiv", "mod", "eq", "ne", "lt", "le", "gt", "ge", "pow", "div"}
"""What makes something else of a rounding error."""


def tame(m: Model) -> bool:
    """Whether the outputs are numbers that f32 holds."""
    x = np.random.default_rng(0).standard_normal((4, 6))
    with np.errstate(all="ignore"):
        found = Interpreter(m, random_weights(m, 0)).run(x).logits
    return bool(np.isfinite(found).all() and np.abs(found).max() < 1e4)


@pytest.mark.parametrize("windows", [False, True])
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(expressions())
def test_random_expressions(windows: bool, e: Node) -> None:
    assume(not any(m.op in STEEP for m in walk.nodes(e)))
    m = model(cell_over(e, windows))
    assume(tame(m))
    check(m, (1, 3), tolerance=1e-4)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_recurrences(seed: int, tmp_path: Path) -> None:
    check(model_of(Known(draw(seed), ""), tmp_path), (1, 1, 2, 5), batch=2, tolerance=1e-4)
