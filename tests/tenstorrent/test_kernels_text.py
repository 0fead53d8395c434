"""What generated kernels look like: golden texts of a small plan, and the templates' keys.

A golden changes by `pytest --update-expected` alone; read the difference before you keep it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from cdrmix.codegen.metalium import plan
from cdrmix.codegen.metalium.emit.buffers import setting_of
from cdrmix.codegen.metalium.emit.kernels import ROLES, emit_kernels, frame
from cdrmix.codegen.metalium.emit.names import identifier
from cdrmix.codegen.metalium.emit.places import groups_of, load_rule
from cdrmix.codegen.metalium.emit.registers import REGISTERS, evaluate
from jinja2 import Environment, meta

from cdrmix.ir import build
from cdrmix.ir import steps as form
from cdrmix.ir.nodes import Node

from .plans import at, bank, index, load, model_of, number, op, placed

GOLDEN = Path(__file__).parent / "golden"
LIBRARY = files("cdrmix.runtime.metalium").joinpath("kernels")


@pytest.mark.parametrize("role", ROLES)
def test_golden(role: str, update_expected: bool) -> None:
    text = emit_kernels(model_of(placed(bank(3))))[f"kernels/bank_{role}.cpp"]
    golden = GOLDEN / f"bank_{role}.cpp"
    if update_expected:
        GOLDEN.mkdir(exist_ok=True)
        golden.write_text(text)
    assert golden.exists(), f"{golden} is missing: pytest --update-expected writes it"
    assert text == golden.read_text()


@pytest.mark.parametrize("role", ROLES)
def test_templates_use_exactly_their_keys(role: str) -> None:
    source = files("cdrmix.codegen.metalium.emit").joinpath("kernel.cpp.j2").read_text()
    setting = setting_of(placed(bank(3)))
    assert meta.find_undeclared_variables(Environment().parse(source)) == set(frame(role, setting, set(), [], []))


def test_equal_plans_have_equal_texts() -> None:
    assert emit_kernels(model_of(placed(bank(3)))) == emit_kernels(model_of(placed(bank(3))))


@pytest.mark.parametrize("role", ROLES)
def test_every_function_comes_from_an_included_header(role: str) -> None:
    text = emit_kernels(model_of(placed(bank(3))))[f"kernels/bank_{role}.cpp"]
    included = re.findall(r'#include "(\w+\.h)"', text)
    assert included == sorted(included)
    seen = set(included)
    while True:
        more = {h for name in seen for h in re.findall(r'#include "(\w+\.h)"', LIBRARY.joinpath(name).read_text())}
        if more <= seen:
            break
        seen |= more
    library = {h.name for h in LIBRARY.iterdir() if h.name.endswith(".h")}
    own = {n for h in library for n in re.findall(r"inline \w+ (\w+)\(", LIBRARY.joinpath(h).read_text())}
    here = {n for h in seen for n in re.findall(r"inline \w+ (\w+)\(", LIBRARY.joinpath(h).read_text())}
    called = set(re.findall(r"\b(\w+)\(", text))
    assert called & own <= here


def test_a_text_cannot_leave_its_comment() -> None:
    program = placed(bank(1))
    step = replace(program.steps[0], texts=("x = 1 \\\n  #error // \r\n*/ int y; \\",))  # type: ignore[type-var]
    text = emit_kernels(model_of(replace(program, steps=(step, *program.steps[1:]))))["kernels/bank_writer.cpp"]
    for line in text.splitlines():
        assert "#error" not in line or line.lstrip().startswith("//")
        assert not line.endswith("\\")


def test_names_that_c_plus_plus_has_already() -> None:
    assert identifier("S'") == "S_next"
    for word in ("int", "register", "first", "core", "state", "end", "place0", "x_layout", "Walk", "EOF"):
        assert identifier(word) != word


def test_eight_registers_suffice_and_vectors_stay_vectors() -> None:
    def tree(depth: int, first: int = 0) -> Node:
        if depth == 0:
            return form.operand(first % 4)
        return op("mul", tree(depth - 1, first), tree(depth - 1, first + 2 ** (depth - 1)))

    lines, _ = evaluate(tree(7), ("whole",) * 4)
    assert {int(n) for line in lines for n in re.findall(r"\d+", line)} <= set(range(REGISTERS))
    with pytest.raises(ValueError, match="more tiles than DST has"):
        evaluate(tree(8), ("whole",) * 4)
    lines, _ = evaluate(op("mul", 0, op("mul", 1, number(0.5))), ("whole", "row"))
    assert lines[-1] == "tile::multiply_row(1, 0);" or lines[-1] == "tile::multiply_row(0, 1);"
    assert not any("fill" in line for line in lines)
    lines, _ = evaluate(op("div", 0, 1), ("whole", "column"))
    assert any("add_column" in line for line in lines)  # a division has no broadcast of its own


def test_views_are_seen_through() -> None:
    i, j = index("i", 6), index("j", 4)
    array = plan.Array("x", (24,))
    flat = build.add(build.node("mul", build.index(i), build.const(4)), build.index(j))
    split = (build.node("floordiv", flat, build.const(8)), build.node("mod", flat, build.const(8)))
    rule = load_rule(array, form.Load("x", (3, 8), split))
    assert (rule.base, rule.steps, rule.terms) == (0, {i: 4, j: 1}, ())
    assert groups_of((i, j), [rule]) == [(i, j)]
    turned = load_rule(array, load("x", j, i))
    assert groups_of((i, j), [turned]) == [(i,), (j,)]
    assert load_rule(array, form.Load("x", (24,), at(5))).base == 5
