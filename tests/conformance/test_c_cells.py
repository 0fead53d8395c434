"""The C program on cells that no library op is: recurrences of the literature, odd ones, and random expressions."""

from __future__ import annotations

import random
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from cdrmix.ir import build
from cdrmix.ir.build import const, index, node
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Axis, Cell, Def, History, Index, Init, Input, Instance, Line, Model, Node, Param, Ref, State
from tests.good.cells import model_of
from tests.good.known_cells import CELLS
from tests.good.odd_cells import MORE

from .c_program import TOLERANCE, needs_compiler, rms, stream, worst

pytestmark = needs_compiler

SOME = (
    "conv, 3 delays",
    "RWKV-4, running max",
    "RWKV-7",
    "Mamba-1",
    "TTT-linear",
    "Titans, linear, momentum",
    "linear RNN, dense",
    "LRU, complex",
    "mLSTM, stabilised",
    "two states change places",
    "transposed",
    "two tokens back",
    "heads that share a state",
    "begins elsewhere",
    "one number",
    "softened maximum, by way of an equation",
)


@pytest.mark.parametrize("name", SOME)
def test_recurrences(name: str, tmp_path: Path) -> None:
    """Each token from the program's own state: some of these cells double an error every few tokens."""
    model = model_of({**CELLS, **MORE}[name], tmp_path)
    each_token(model, (5,), 20, tmp_path)


def each_token(model: Model, shape: tuple[int, ...], length: int, folder: Path) -> None:
    weights = random_weights(model, 1)
    c, interpreter, rng = stream(model, weights, folder), Interpreter(model, weights), np.random.default_rng(0)
    for _ in range(length):
        x = rng.normal(size=shape).astype(np.float32)
        wanted, state = interpreter.step(x, {k: np.asarray(v, np.float64) for k, v in c.state().items()})
        assert rms(c.values(x), wanted) <= TOLERANCE
        assert worst(c.state(), state) <= TOLERANCE


# --- random expressions --------------------------------------------------------------------------------------------
D, H, N, W = Axis("D", 6), Axis("H", 2), Axis("N", 19), Axis("W", 4)
d, h, i = Index("d", D), Index("h", H), Index("i", N)
BINARY = ("add", "sub", "mul", "mul", "max", "min", "lt", "ge", "div", "logaddexp", "and", "or")
UNARY = ("neg", "tanh", "sigmoid", "abs", "sign", "relu", "exp", "softplus", "silu", "not", "cos", "sqrt", "log")
REDUCTIONS = ("sum", "sum", "mean", "max_over", "min_over", "logsumexp")


class Grower:
    """Random expressions over params, a window of the input, indices and `pos`."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.names = count()
        self.params: dict[str, tuple[Axis, ...]] = {}

    def leaf(self, scope: tuple[Index, ...]) -> Node:
        pick = self.random
        match pick.randrange(5):
            case 0:
                return const(pick.choice([0, 1, 2, -1, 3, 0.0, 1.0, 0.5, -2.5]))
            case 1:
                return index(pick.choice(scope)) if pick.random() < 0.8 else build.context("pos")
        held = [pick.choice(scope) for _ in range(pick.choice([1, 2, 2, 3]))]
        ages = [j for j in held if j.axis is W]
        if ages:
            at = [j for j in scope if j.axis is D]
            return build.read(Ref("history", "X"), (W, D), (ages[0], pick.choice(at)))
        view = tuple(j.axis for j in held)
        name = "p_" + "_".join(a.name for a in view)
        self.params[name] = view
        return build.read(Ref("param", name), view, held)

    def grow(self, scope: tuple[Index, ...], left: int) -> Node:
        pick = self.random
        match pick.randrange(7) if left else 0:
            case 0:
                return self.leaf(scope)
            case 1 | 2:
                op, a, b = pick.choice(BINARY), self.grow(scope, left - 1), self.grow(scope, left - 1)
                return node(op, a, build.add(node("abs", b), const(1.5)) if op == "div" else b)
            case 3:
                return self.unary(self.grow(scope, left - 1))
            case 4:
                cond = node("lt", self.grow(scope, left - 1), const(0.2513))
                return build.select(cond, self.grow(scope, left - 1), self.grow(scope, left - 1))
            case 5:
                return build.softmax(pick.choice(scope), self.grow(scope, left - 1))
        bound = [Index(f"b{next(self.names)}", pick.choice([D, H, N, N, W])) for _ in range(pick.choice([1, 1, 2]))]
        return build.reduce(pick.choice(REDUCTIONS), bound, self.grow((*scope, *bound), left - 1))

    def unary(self, n: Node) -> Node:
        op = self.random.choice(UNARY)
        if op == "exp":
            n = node("tanh", n)
        if op in ("sqrt", "log"):
            n = build.add(node("abs", n), const(0.5))
        return node(op, n)


def random_model(seed: int, count: int = 30) -> Model:
    """A cell whose states are random functions of the token; some read the states before it."""
    grower, x = Grower(seed), build.read(Ref("input", "x"), (D,), (d,))
    states, body = [], [Def(Ref("history", "X"), (d,), x)]
    for s in range(count):
        value = node("tanh", build.mul(grower.grow((d, h, i), 2 + s % 3), const(0.05)))
        other = s if s % 3 == 0 else (s + 1) % count
        old = build.read(Ref("state", f"s{other}"), (D, H, N), (d, h, i), "f32")
        body.append(Def(Ref("next", f"s{s}"), (d, h, i), build.add(value, build.mul(old, const(0.25))), "f32"))
        states.append(State(f"s{s}", (d, h, i), const(0)))
    body.append(Def(Ref("output", "out"), (d,), x))
    params = tuple(
        Param(name, tuple(Index(f"p{p}", a) for p, a in enumerate(view)), Init("value", (const(0),)))
        for name, view in grower.params.items()
    )
    cell = Cell("c", "c", (Input("x", (D,)),), (D,), tuple(body), params, tuple(states), (History("X", W, (D,)),))
    return Model("m", 0, 6, (Line("f", False, (Instance("f", "c"),)),), {"c": cell})


@pytest.mark.parametrize("seed", range(4))
def test_random_expressions(seed: int, tmp_path: Path) -> None:
    each_token(random_model(seed), (6,), 6, tmp_path)
