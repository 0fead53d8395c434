"""Plans dealt out to cores, run by numpy with arrays of each core's own: they are the interpreter, however many cores.

A few models and ops on a few numbers of cores by default; with `CDRMIX_TENSTORRENT=all` in the environment every op of
the library, every recurrence and every architecture of `tests/conformance/unseen`, states spread and not.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cdrmix.codegen.metalium import artefact as model_planning
from cdrmix.codegen.metalium.cost.devices import DEVICES, Device
from cdrmix.codegen.metalium.deal.distribute import distribute
from cdrmix.codegen.metalium.deal.placement import place
from cdrmix.codegen.metalium.lower.lines import schedule
from cdrmix.codegen.metalium.plan import ModelPlan

from cdrmix.check import load, load_op
from cdrmix.compiler import lower
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Model
from tests.conformance.torch_specs import LIBRARY, MODELS, OWN
from tests.good.cells import model_of
from tests.good.known_cells import CELLS
from tests.good.odd_cells import MORE

from .agree import TOLERANCES, compare, compile_to, ids_of, needs_compiler
from .plan_runner import PlanRunner
from .test_models import GATED_DELTA, HYBRID, TINY
from .test_models import MORE as MODELS_BY_MIXER

ROOT = Path(__file__).parents[2]
OPS = ROOT / "tests" / "conformance" / "torch_ops.cdr"
EVERYTHING = os.environ.get("CDRMIX_TENSTORRENT") == "all"
CORES = [1, 2, 3, 5, 16, 64] if EVERYTHING else [2, 3, 64]
STATE_IN_BANKS = {"bank_of_state", "bank_of_history", "every_of_state"}
SOME_OPS = ["rotate", "moe", "rwkv4", "places", "picks", "one_window"]
SOME_CELLS = ["heads that share a state", "a vector, its maximum by heads", "two tokens back"]
EXACT = 1e-10


def dealt(model: Model, cores: int, spread: bool) -> ModelPlan:
    plan = schedule(lower(model).program)
    device = DEVICES["n150"]
    programs = {name: place(distribute(p, device, cores, spread)) for name, p in plan.programs.items()}
    return replace(plan, device=device.name, programs=programs)


def error(got: np.ndarray, wanted: np.ndarray) -> float:
    scale = float(np.sqrt(np.mean(np.square(wanted)))) if wanted.size else 1.0
    return float(np.sqrt(np.mean((got.reshape(wanted.shape) - wanted) ** 2))) / (scale or 1.0) if wanted.size else 0.0


def agrees(model: Model, cores: int, tokens: int = 5) -> None:
    weights, rng = random_weights(model, 1), np.random.default_rng(0)
    formals = model.cells[model.lines[0].chain[0].cell].inputs
    given = []
    for _ in range(tokens):
        values = tuple(rng.standard_normal([a.size for a in f.axes]) for f in formals)
        given.append(int(rng.integers(model.vocab)) if model.vocab else values if len(values) > 1 else values[0])
    interpreter = Interpreter(model, weights)
    state, wanted = interpreter.start(), []
    for one in given:
        logits, state = interpreter.step(one, state)
        wanted.append(np.ravel(logits))
    for spread in (False, True):
        found, after = PlanRunner(dealt(model, cores, spread), model, weights).run(given)
        assert error(found, np.stack(wanted)) < EXACT
        wrong = {
            path: e for path in state if not (e := error(np.asarray(after[path]), np.asarray(state[path]))) < EXACT
        }
        assert not wrong, wrong


def op_named(name: str) -> Model:
    if name in LIBRARY:
        op, dims, args = LIBRARY[name]
        return load_op(OPS, op, dims, args)
    dims, args = OWN[name]
    return load_op(OPS, name, dims, args)


@pytest.mark.parametrize("cores", CORES)
@pytest.mark.parametrize("name", [n for n in [*LIBRARY, *OWN] if n not in STATE_IN_BANKS] if EVERYTHING else SOME_OPS)
def test_an_op_is_the_interpreter(name: str, cores: int) -> None:
    agrees(op_named(name), cores)


@pytest.mark.parametrize("cores", CORES)
@pytest.mark.parametrize("name", [*CELLS, *MORE] if EVERYTHING else SOME_CELLS)
def test_a_recurrence_is_the_interpreter(name: str, cores: int, tmp_path: Path) -> None:
    agrees(model_of((CELLS | MORE)[name], tmp_path), cores)


SMALL = {"tiny": TINY, "hybrid": HYBRID, "gated DeltaNet": GATED_DELTA}


@pytest.mark.parametrize("cores", CORES)
@pytest.mark.parametrize("name", MODELS_BY_MIXER if EVERYTHING else SMALL)
def test_a_model_is_the_interpreter(name: str, cores: int) -> None:
    agrees((MODELS_BY_MIXER if EVERYTHING else SMALL)[name].load(), cores, tokens=12 if name == "hybrid" else 5)


@pytest.mark.skipif(not EVERYTHING, reason="CDRMIX_TENSTORRENT=all runs the other targets' models too")
@pytest.mark.parametrize("name", MODELS)
def test_the_other_targets_models(name: str) -> None:
    file, settings = MODELS[name]
    agrees(load(ROOT / "spec" / f"{file}.cdr", settings), 5)


@needs_compiler
def test_spread_states_run_over_the_emulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rings by the core that has the token's place, states that are gathered: as where L1 is short."""

    def spread(plan: ModelPlan, device: Device, cores: int | None = None) -> ModelPlan:
        programs = {name: place(distribute(p, device, cores or 64, True)) for name, p in plan.programs.items()}
        return replace(plan, device=device.name, programs=programs)

    monkeypatch.setenv("CDR_DEVICE", "emulated")
    monkeypatch.setattr(model_planning, "deal_out", spread)
    model = HYBRID.load()
    compile_to(tmp_path / "a", model, "bf16", 5)
    found = compare(tmp_path / "a", model, ids_of(model, 12))  # more tokens than the ring has places
    assert all(e <= TOLERANCES["bf16"] for e in found.errors.values()), found.errors
