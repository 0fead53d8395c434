"""The schedule of a model, run by numpy, is the interpreter: whole models, single ops, recurrences, random expressions.

All in float64, where the plan's arithmetic is exact; entries of a window that are not there are NaN.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cdrmix.codegen.metalium import plan
from cdrmix.codegen.metalium.lower.draft import LOADS
from cdrmix.codegen.metalium.lower.lines import schedule

from cdrmix.check import load, load_op, load_text
from cdrmix.compiler import lower
from cdrmix.diagnose import CompileError
from cdrmix.ir import steps as form
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Model, Stored
from tests.conformance.test_c_cells import random_model
from tests.conformance.torch_specs import LIBRARY, MODELS, OWN
from tests.good.cells import model_of
from tests.good.known_cells import CELLS
from tests.good.odd_cells import MORE

from .plan_runner import PlanRunner

ROOT = Path(__file__).parents[2]
OPS = ROOT / "tests" / "conformance" / "torch_ops.cdr"
UNSEEN = sorted((ROOT / "tests" / "conformance" / "unseen").glob("*.cdr"))
BANKS_OF_STATE = {"bank_of_state", "bank_of_history", "every_of_state"}
NAMED = {**CELLS, **MORE}
EXACT = 1e-10


def scheduled(model: Model, weights: Stored = "f32") -> plan.ModelPlan:
    return schedule(lower(model, weights=weights).program)


def error(got: object, wanted: object) -> float:
    """Relative RMS; absolute where all of it is zero."""
    a, b = np.ravel(np.asarray(got, np.float64)), np.ravel(np.asarray(wanted, np.float64))
    assert a.shape == b.shape
    if not a.size:
        return 0.0
    scale = float(np.sqrt(np.mean(b**2)))
    return float(np.sqrt(np.mean((a - b) ** 2))) / (scale or 1.0)


def agrees(
    model: Model, tokens: int = 12, weights: Stored = "f32", dtype: type = np.float64, most: float = EXACT
) -> None:
    """A document, then a second one with the first's entries still in the rings; each token's logits and the state."""
    given, rng = random_weights(model, 3), np.random.default_rng(0)
    interpreter = Interpreter(model, given)
    runner = PlanRunner(scheduled(model, weights), model, given, dtype)
    inputs = model.cells[model.lines[0].chain[0].cell].inputs
    for length in (tokens, 3):
        state = interpreter.start()
        runner.put(state)
        for _ in range(length):
            fed = (
                int(rng.integers(model.vocab))
                if model.vocab
                else tuple(rng.standard_normal([a.size for a in i.axes]) for i in inputs)
            )
            wanted, state = interpreter.step(fed, state)
            assert error(runner.step(fed), wanted) <= most
        found = runner.state()
        assert set(found) == set(state)
        for path, value in state.items():
            assert found[path].shape == np.shape(value), path
            assert error(found[path], value) <= most, path


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    file, overrides = MODELS[name]
    agrees(load(ROOT / "spec" / f"{file}.cdr", overrides))


@pytest.mark.parametrize("name", MODELS)
def test_models_in_f32(name: str) -> None:
    """With what the matrix unit sees: TF32 factors, weights rounded to TF32 or bf16."""
    file, overrides = MODELS[name]
    model = load(ROOT / "spec" / f"{file}.cdr", overrides)
    agrees(model, dtype=np.float32, most=2e-3)
    agrees(model, weights="bf16", dtype=np.float32, most=2e-2)


@pytest.mark.parametrize("path", UNSEEN, ids=lambda p: p.stem)
def test_unseen(path: Path) -> None:
    model = load(path)
    agrees(model)
    agrees(model, weights="bf16", tokens=3)


@pytest.mark.parametrize("name", LIBRARY)
def test_library(name: str) -> None:
    op, sizes, arguments = LIBRARY[name]
    agrees(load_op(OPS, op, sizes, arguments))


@pytest.mark.parametrize("name", sorted(OWN.keys() - BANKS_OF_STATE))
def test_own(name: str) -> None:
    agrees(load_op(OPS, name, *OWN[name]))


@pytest.mark.parametrize("name", NAMED)
def test_recurrences(name: str, tmp_path: Path) -> None:
    agrees(model_of(NAMED[name], tmp_path), tokens=5)


@pytest.mark.parametrize("seed", [0, 1, 2, 8])
def test_random_expressions(seed: int) -> None:
    agrees(random_model(seed), tokens=6)


@pytest.mark.parametrize("name", sorted(BANKS_OF_STATE))
def test_state_in_a_bank_is_refused(name: str) -> None:
    with pytest.raises(CompileError) as refused:
        scheduled(load_op(OPS, name, *OWN[name]))
    (found,) = refused.value.diagnostics
    assert found.code == "E0907" and "tenstorrent" in found.message and found.span.line > 1


def test_lines_of_one_structure_share_a_program() -> None:
    model = load(ROOT / "spec" / "tiny.cdr")
    found = scheduled(model)
    by = {call.path: call for call in found.calls}
    assert [call.path for call in found.calls] == [line.path for line in model.lines]
    one, three = by["layer.1.ffn"], by["layer.3.ffn"]
    assert one.program == three.program != by["layer.0.ffn"].program
    assert one.tensors["F_Wk"] == "layer.1.ffn.F.Wk" and three.tensors["F_Wk"] == "layer.3.ffn.F.Wk"
    assert three.vectors["layer_norm_w"] == "layer.3.ffn.layer_norm.w"
    assert [r.slot for r in three.state] == ["layer.3.ffn.token_shift.x_prev"]
    assert by["emb"].tensors["E_rows"] == "emb.E" and by["head"].tensors["x_out"] == "logits"


def test_a_tied_table_is_kept_both_ways() -> None:
    file, overrides = MODELS["hybrid"]
    by = {call.path: call for call in scheduled(load(ROOT / "spec" / f"{file}.cdr", overrides)).calls}
    assert by["emb"].tensors["E_rows"] == "emb.E.rows" and by["head"].tensors["W"] == "emb.E"


def test_a_chosen_expert_is_an_instance_of_the_streamed_bank() -> None:
    found = scheduled(load(ROOT / "spec" / "tiny.cdr"))
    steps = found.programs[next(c.program for c in found.calls if c.path == "layer.1.ffn")].steps
    experts = [s for s in steps if isinstance(s, form.Product) and s.streamed]
    assert [s.streamed for s in experts] == ["Wg", "F_Wk", "F_Wv", "F_Wk", "F_Wv"]
    assert [s.instance is not None for s in experts] == [False, True, True, True, True]


@pytest.mark.parametrize("weights", ["f32", "bf16"])
def test_the_state_of_a_head_lies_in_tiles(weights: Stored) -> None:
    found = scheduled(load(ROOT / "spec" / "tiny.cdr"), weights)
    program = found.programs["att"]
    assert program.arrays["S"].layout == "tiles" and program.arrays["x_prev"].layout == "flat"
    products = [s for s in program.steps if isinstance(s, form.Product) and s.lead]
    assert len(products) == 2 and all(p.transposed for p in products)
    assert {len(p.left) for p in products} == {2 if weights == "f32" else 1}


def test_maps_fit_the_registers() -> None:
    for path in UNSEEN:
        for program in scheduled(load(path)).programs.values():
            for step in program.steps:
                assert not isinstance(step, form.Map) or len(step.loads) <= LOADS


USES = 'use "lib/embed.cdr" { embed, head }\n'


def stack(ops: str, lines: str, width: int) -> Model:
    """A model of ops of its own."""
    text = f"{USES}{ops}\nmodel m {{\n  vocab = 40\n  d_model = {width}\n  stack {{\n{lines}\n  }}\n}}\n"
    return load_text(text, "case.cdr")


def test_only_the_chosen_rows_of_a_large_table_are_fetched() -> None:
    text = (ROOT / "tests" / "conformance" / "unseen" / "product_keys.cdr").read_text(encoding="utf-8")
    model = load_text(text.replace("keys=6", "keys=18"), "case.cdr")
    program = scheduled(model).programs["mem"]
    fetched = [s for s in program.steps if isinstance(s, plan.Fetch) and s.tensor == "V_rows"]
    assert len(fetched) == 9 and program.tensors["V_rows"].shape == (18 * 18, 22) and "V" not in program.arrays
    agrees(model)


EXPERTS = """
op scaled(x: [D], wide: int) -> [D] {
  param w: [wide, D] ~ 1
  param b: [D] ~ 0
  param Wo: [D, D] ~ orthogonal()
  y[d] = max[i](w[i,d])*x[d] + b[d]
  return Wo @ y
}
op choose(x: [D], experts: int, wide: int) -> [D] {
  param Wg: [experts, D] ~ orthogonal()
  bank F: [experts] of scaled(wide=wide)
  gate, pick = top[k < 2](softmax(Wg @ x))
  y[d] = sum[k](gate[k]*F[pick[k]](x)[d])
  return y
}
"""


@pytest.mark.parametrize("wide", [3, 40])
def test_vectors_of_experts(wide: int) -> None:
    """Small ones lie in L1 whole, of large ones the chosen rows are fetched."""
    ops = EXPERTS.replace(
        "return sum[k](gate[k]*F[pick[k]](x)[d] for d)", "y[d] = sum[k](gate[k]*F[pick[k]](x)[d])\n  return y"
    )
    model = stack(
        ops, f"    embed(vocab, d_model)\n    ffn: residual choose(experts=6, wide={wide})\n    head(vocab)", 24
    )
    program = scheduled(model).programs["ffn"]
    assert ("F_w_rows" in program.tensors) == (wide == 40) and "F_b" in program.arrays
    agrees(model)


BOTH_WAYS = """
op both(x: [D]) -> [D] {
  param W: [D, D] ~ orthogonal()
  y = W @ x
  z[j] = sum[i](W[i,j]*y[i])
  return z
}
"""


def test_a_matrix_along_both_axes() -> None:
    """A small one is held in L1 for the second product, a large one is refused."""
    lines = "    embed(vocab, d_model)\n    mix: residual both\n    head(vocab)"
    agrees(stack(BOTH_WAYS, lines, 32), tokens=4)
    with pytest.raises(CompileError) as refused:
        scheduled(stack(BOTH_WAYS, lines, 160))
    (found,) = refused.value.diagnostics
    assert found.code == "E0908" and "cannot be compiled for tenstorrent" in found.message
    assert (found.span.file, found.span.line) == ("case.cdr", 6)


ACROSS = """
op up(x: [D]) -> [D] {
  param W: [D, D] ~ orthogonal()
  return W @ x
}
op down(x: [D]) -> [D] {
  param W: [D, D] ~ orthogonal()
  y[j] = sum[i](W[i,j]*x[i])
  return y
}
"""


def test_a_tie_across_axes_is_refused() -> None:
    lines = "    embed(vocab, d_model)\n    a: up\n    b: down\n    tie b.W = a.W\n    head(vocab)"
    with pytest.raises(CompileError) as refused:
        scheduled(stack(ACROSS, lines, 16))
    (found,) = refused.value.diagnostics
    assert found.code == "E0908" and "`a.W`" in found.message and found.span.line == 8


SEVERAL = """
op several(x: [D], window: int = 3) -> [D] {
  param W: [D, D] ~ orthogonal()
  param a: [2, D] ~ 1
  history X: [D] last window = x
  y[c,i] = sum[j](W[i,j]*a[c,j]*x[j])
  z[t,i] = sum[j](W[i,j]*X[t,j])
  s[i] = sum[t](z[t,i])
  return s + y[0] + y[1]
}
"""


@pytest.mark.parametrize("width", [32, 160])
def test_a_matrix_by_several_vectors(width: int) -> None:
    """A small one is held in L1, a large one streamed once for each."""
    model = stack(SEVERAL, "    embed(vocab, d_model)\n    mix: residual several\n    head(vocab)", width)
    steps = scheduled(model).programs["mix"].steps
    streamed = [s for s in steps if isinstance(s, form.Product) and s.streamed]
    assert len(streamed) == (5 if width == 160 else 0)
    agrees(model, tokens=5)
