"""What the generated tinygrad program says: names, its template, products side by side, far positions, the schedule."""

from __future__ import annotations

import ast
import keyword
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tinygrad")

from tests.conformance.tinygrad_agree import program_of, rms

# isort: split
from cdrmix.codegen.tinygrad.program import TEMPLATE, emit_program, schedule, template_keys
from cdrmix.runtime.tinygrad.stream import Stream
from jinja2 import Environment, meta

from cdrmix.check import load, load_op
from cdrmix.compiler import lower
from cdrmix.ir import python as names
from cdrmix.ir.forms import Program
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.weights import owners
from tests.conformance.torch_specs import MODELS

ROOT = Path(__file__).parents[2]
OPS = Path(__file__).with_name("torch_ops.cdr")


def hybrid(weights: str = "f32") -> Program:
    file, settings = MODELS["hybrid"]
    return lower(load(ROOT / "spec" / f"{file}.cdr", settings), weights=weights).program  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["class", "None", "print", "__import__", "_", "3d", "a b", "x;import os", "naïve", ""])
def test_an_identifier_is_one(name: str) -> None:
    found = names.identifier(name)
    assert found.isidentifier() and not keyword.iskeyword(found) and not found.startswith("__")


@pytest.mark.parametrize("value", ['"', "'", "\\", "\n", '"""', "\u2028", "\x00", "{{ x }}", "é\ud800"])
def test_texts_of_a_spec_are_harmless(value: str) -> None:
    assert ast.literal_eval(names.text(value)) == value
    assert not ast.parse(f"# {names.comment(value)}\n").body
    (found,) = ast.parse('"""' + "\n    ".join(names.doc(value)) + '\n    """').body
    assert isinstance(found, ast.Expr) and isinstance(found.value, ast.Constant)


def test_the_template_uses_exactly_its_keys() -> None:
    source = files("cdrmix.codegen.tinygrad").joinpath(TEMPLATE).read_text()
    assert meta.find_undeclared_variables(Environment().parse(source)) == set(template_keys(hybrid()))


def test_the_program_is_readable_python() -> None:
    text = emit_program(hybrid())["program.py"]
    ast.parse(text)
    assert "# r = Wr @ (x + dx*mr)" in text and "r, w1_x, kx, vx, a1_x, g1_x = here.products(" in text
    assert text == emit_program(hybrid())["program.py"]


def test_a_norm_asks_for_both_its_statistics_at_once() -> None:
    text = emit_program(hybrid())["program.py"]
    assert "mu, var = moments(x)" in text and "group_norm_mu, group_norm_var = moments(y)" in text
    assert "mean_square(x)" in text and ".mean(" not in text


def test_the_schedule_fits_the_weights_and_the_state() -> None:
    program = hybrid("i8")
    plan = schedule(program)
    shapes = {w.path: w.shape for w in owners(program.model)}
    for call in plan["calls"]:
        unit = plan["units"][call["unit"]]
        assert len(call["weights"]) == len(unit["weights"]) and len(call["states"]) == len(unit["states"])
        for path, (_, shape, stored) in zip(call["weights"], unit["weights"], strict=True):
            wanted = shapes[path] if path in shapes else shapes[path.removesuffix(".scale")][:-1]
            assert tuple(shape) == wanted and stored in ("f32", "i8")
    assert [c["unit"] for c in plan["calls"]][-1] == "advance"
    assert [c["path"] for c in plan["calls"] if c["last_only"]] == ["ln_out", "head"]


@pytest.mark.parametrize("op", ["rotate", "positions"])
@pytest.mark.parametrize("place", [0, 4097, 99_990])
def test_angles_of_far_places_keep_their_digits(op: str, place: int) -> None:
    dims, args = ({"H": 2, "N": 64}, {"base": "10000.0"}) if op == "rotate" else ({"D": 6}, {})
    model = load_op(OPS, op, dims, args)
    weights = {path: np.asarray(w, np.float32) for path, w in random_weights(model, 0).items()}
    stream = Stream(program_of(emit_program(lower(model).program)["program.py"]), weights)
    stream.slots["pos"] = (stream.slots["pos"] + place).realize()
    shape = [a.size for a in model.cells[model.lines[0].chain[0].cell].inputs[0].axes]
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    twin = Interpreter(model, weights)
    wanted = twin.run(x, {**twin.start(), "pos": np.asarray(place)})
    found = stream.prefill(x[None])
    assert rms(found[0], np.reshape(wanted.logits[-1], found[0].shape)) < 1e-6
