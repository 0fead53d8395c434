"""Every rule of `verify` refuses something, and says where."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from cdrmix.ir import build
from cdrmix.ir.build import add, const, index, read, reduce, softmax
from cdrmix.ir.nodes import Apply, Axis, Carry, Cell, Def, Index, Instance, Line, Model, Part, Ref, State, Top
from cdrmix.ir.verify import InvalidIR, faults, verify, verify_cell
from tests.good.handmade import (
    OUT,
    D,
    N,
    W,
    at,
    bank_cells,
    cell,
    d,
    define,
    delta_cell,
    history_cell,
    i,
    k,
    layer_norm,
    t,
)

EXPERT, MOE = bank_cells()
X = at("input", "x", d)


def out(value: build.Node, **rest: object) -> Cell:
    return cell("bad", define("output", "out", (d,), value), **rest)


def with_statement(kind: type, **change: object) -> Cell:
    """The mixture with one statement of `kind` changed."""
    body = tuple(replace(s, **change) if isinstance(s, kind) else s for s in MOE.body)  # type: ignore[arg-type]
    return replace(MOE, body=body)


def wrong_dtype() -> Cell:
    return out(replace(X, dtype="f32"))


BROKEN: list[tuple[str, Callable[[], Cell]]] = [
    ("the index k is bound nowhere", lambda: out(at("input", "x", k))),
    ("two index variables have the name d", lambda: out(reduce("sum", (d,), X))),
    (
        "two index variables have the name k",
        lambda: out(add(reduce("sum", (k,), at("input", "x", k)), reduce("max_over", (k,), at("input", "x", k)))),
    ),
    ("there is no def y", lambda: out(at("def", "y", d))),
    ("read as f32, declared as work", wrong_dtype),
    ("`add` has the dtype f32, not work", lambda: out(replace(add(X, X), dtype="f32"))),
    (r"free indices \[\], not \['d'\]", lambda: out(replace(add(X, X), free=()))),
    ("under a view of another size", lambda: out(at("input", "x", i))),
    ("has the dtype int", lambda: out(build.Node("const", (), 1.0, "int"))),
    ("read at 6 of D", lambda: out(read(Ref("input", "x"), (D,), (const(6),)))),
    ("indexed by a work", lambda: out(read(Ref("input", "x"), (D,), (const(0.5),)))),
    ("`layer` has no value here", lambda: out(build.context("layer"))),
    ("`sum` reduces over nothing", lambda: out(build.node("sum", X, arg=()))),
    ("`guess` is no op", lambda: out(build.Node("guess"))),
    ("read at a fixed age", lambda: history_cell(read(Ref("history", "X"), (W, D), (const(1), index(d))))),
    ("two axes have the name D", lambda: out(X, carries=(Carry("c", (Axis("D", 7),), True, False),))),
    ("output out is never defined", lambda: cell("bad", define("def", "y", (d,), X))),
    ("next S is never defined", lambda: replace(delta_cell(), body=delta_cell().body[1:])),
    ("reads next S before it is defined", lambda: replace(delta_cell(), body=delta_cell().body[::-1])),
    ("out is defined twice", lambda: cell("bad", *[define("output", "out", (d,), X)] * 2)),
    ("is defined over", lambda: cell("bad", Def(OUT, (), const(1)), states=())),
    ("x is declared twice", lambda: out(X, states=(State("x", (d,), const(0)),))),
    ("the part F has the name of a tensor", lambda: replace(MOE, params=(replace(MOE.params[0], name="F"),))),
    ("defined as work, declared as f32", lambda: replace(delta_cell(), body=(Def(*_S()), *delta_cell().body[1:]))),
    ("runs over a history's window", lambda: _over_window()),
    ("chooses 6 of 4", lambda: with_statement(Top, k=Index("c", D))),
    ("the part F is applied 0 times", lambda: replace(MOE, body=_without(Apply))),
    ("applies G, which is no part", lambda: with_statement(Apply, part="G")),
    ("exactly when F is a bank", lambda: with_statement(Apply, select=None)),
    ("takes other axes than expert gives", lambda: with_statement(Apply, outs=(i,))),
    ("gives 0 inputs of 1", lambda: with_statement(Apply, inputs=())),
    ("which does not stand before", lambda: replace(MOE, parts=(Part("F", "later", MOE.parts[0].bank),))),
    ("neither a constant nor a param", lambda: replace(delta_cell(), states=(_state(add(const(1), const(2))),))),
    ("the init of S", lambda: replace(delta_cell(), states=(_state(at("input", "x", d)),))),
    ("is no buffer", lambda: replace(MOE, buffers=())),
    ("outside a reduction over tokens", lambda: replace(MOE, training=(_bare(),))),
    ("carry c is never defined", lambda: out(X, carries=(Carry("c", (D,), False, True),))),
]


def _S() -> tuple[object, ...]:
    first = delta_cell().body[0]
    return first.ref, first.indices, first.value, "work"  # type: ignore[union-attr]


def _state(init: build.Node) -> State:
    return replace(delta_cell().states[0], init=init)


def _bare() -> object:
    e = MOE.training[0].indices[0]
    return replace(MOE.training[0], value=read(Ref("def", "chosen"), (e.axis,), (e,), "int"))


def _without(kind: type) -> tuple[object, ...]:
    return tuple(s for s in MOE.body if not isinstance(s, kind))


def _over_window() -> Cell:
    scores = softmax(t, at("history", "X", t, d))
    return replace(history_cell(X), out_axes=(W, D), body=(history_cell(X).body[0], Def(OUT, (t, d), scores)))


@pytest.mark.parametrize(("message", "make"), BROKEN, ids=[m for m, _ in BROKEN])
def test_a_broken_cell_is_refused(message: str, make: Callable[[], Cell]) -> None:
    broken = make()
    found = list(faults(broken, {"expert": EXPERT}))
    assert any(re.search(message, f) for f in found), found
    with pytest.raises(InvalidIR, match=f"^cell {broken.name}: "):
        verify_cell(broken, {"expert": EXPERT})


def test_sound_cells_pass() -> None:
    for sound in (layer_norm(), delta_cell(), history_cell(X), EXPERT):
        verify_cell(sound, {})
    verify_cell(MOE, {"expert": EXPERT})


def stack(*cells: Cell, **rest: object) -> Model:
    lines = tuple(Line(f"l{n}", False, (Instance(f"l{n}", c.name),)) for n, c in enumerate(cells))
    return Model("m", 0, 6, lines, {c.name: c for c in cells}, **rest)  # type: ignore[arg-type]


def carrier(name: str, reads: bool, axis: Axis = D) -> Cell:
    body = () if reads else (define("carry", "c", (d,), X),)
    return cell(name, *body, define("output", "out", (d,), X), carries=(Carry("c", (axis,), reads, not reads),))


@pytest.mark.parametrize(
    ("message", "model"),
    [
        ("kept under the name", replace(stack(layer_norm()), cells={"other": layer_norm()})),
        ("which is no cell", replace(stack(layer_norm()), cells={})),
        ("two tensors have one path", Model("m", 0, 6, stack(layer_norm()).lines * 2, {"norm": layer_norm()})),
        ("which is no owner", stack(layer_norm(), ties={"l0.w": "l0.x"})),
        ("has another shape", stack(layer_norm(), delta_cell(), ties={"l0.w": "l1.a"})),
        ("nothing above has written", stack(carrier("reader", True), carrier("writer", False))),
        ("in another shape", stack(carrier("writer", False), carrier("reader", True, N))),
    ],
)
def test_a_broken_model_is_refused(message: str, model: Model) -> None:
    with pytest.raises(InvalidIR, match=message):
        verify(model)


def test_a_carry_from_above_passes() -> None:
    verify(stack(carrier("writer", False), carrier("reader", True)))
