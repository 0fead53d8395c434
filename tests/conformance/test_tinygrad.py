"""The generated tinygrad program, executed on tinygrad's CPU device, against the interpreter: steps and blocks.

A few cells of each kind by default; with `CDRMIX_TINYGRAD=all` in the environment every cell, and models in all stored
types.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("tinygrad")

from cdrmix.codegen.tinygrad.program import emit_program
from cdrmix.codegen.tinygrad.spelling import OPS as EMITTED

from cdrmix.check import load, load_op
from cdrmix.compiler import lower
from cdrmix.diagnose import CompileError
from cdrmix.ir.nodes import Model, Stored
from cdrmix.ir.ops import OPS as TABLE
from tests.conformance.tinygrad_agree import check
from tests.conformance.torch_specs import LIBRARY, MODELS, OWN
from tests.good.cells import model_of
from tests.good.known_cells import CELLS
from tests.good.odd_cells import MORE

ROOT = Path(__file__).parents[2]
OPS = Path(__file__).with_name("torch_ops.cdr")
EVERYTHING = os.environ.get("CDRMIX_TINYGRAD") == "all"
STATE_IN_BANKS = ("bank_of_state", "bank_of_history", "every_of_state")


def _op(name: str) -> Model:
    if name in LIBRARY:
        op, dims, args = LIBRARY[name]
        return load_op(OPS, op, dims, args)
    dims, args = OWN[name]
    return load_op(OPS, name, dims, args)


def _model(name: str) -> Model:
    file, settings = MODELS[name]
    return load(ROOT / "spec" / f"{file}.cdr", settings)


SOME_OPS = ["rotate", "token_shift", "moe", "rwkv4", "places", "picks", "started", "scalars", "hostile", "one_window",
            "turned_signs", "entropies", "weights_seen_merged", "without_inputs"]  # fmt: skip
SOME_CELLS = ["asked with another chunk's answer", "momentum that looks back", "divided by itself", "token shift"]


@pytest.mark.parametrize("name", [n for n in [*LIBRARY, *OWN] if n not in STATE_IN_BANKS] if EVERYTHING else SOME_OPS)
def test_an_op_is_the_interpreter(name: str) -> None:
    check(_op(name), (1, 1, 2, 8, 3) if EVERYTHING else (1, 3, 1), batch=2)


@pytest.mark.parametrize("name", [*CELLS, *MORE] if EVERYTHING else SOME_CELLS)
def test_a_recurrent_cell_is_the_interpreter(name: str, tmp_path: Path) -> None:
    blocks = (1, 1, 2, 5) if EVERYTHING else (1, 3)
    check(model_of((CELLS | MORE)[name], tmp_path), blocks, batch=2, tolerance=1e-4)  # some magnify what f32 rounds


@pytest.mark.parametrize("name", MODELS if EVERYTHING else ["tiny"])
def test_a_model_is_the_interpreter(name: str) -> None:
    check(_model(name), (1, 1, 8, 2, 1), batch=2 if EVERYTHING else 1)


@pytest.mark.parametrize("stored", ["f16", "bf16", "i8"])
def test_weights_as_they_are_stored(stored: Stored) -> None:
    check(_model("hybrid") if EVERYTHING else _op("moe"), (1, 8), batch=1, stored=stored)


@pytest.mark.parametrize("name", STATE_IN_BANKS)
def test_state_inside_a_bank_is_refused(name: str) -> None:
    with pytest.raises(CompileError, match="E0907") as refused:
        emit_program(lower(_op(name)).program)
    assert all(d.span.line > 0 and d.help for d in refused.value.diagnostics)


def test_every_primitive_has_a_rule() -> None:
    assert set(TABLE) == EMITTED
