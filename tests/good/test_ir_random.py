"""Random expressions: the passes keep their value, the text keeps their tree, substitution captures nothing."""

from __future__ import annotations

from itertools import count

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cdrmix.ir import build, walk
from cdrmix.ir.build import const, index, node
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.interp_expr import Frame, expression
from cdrmix.ir.nodes import Index, Node, Ref
from cdrmix.ir.verify import verify_cell
from cdrmix.passes.hoist import hoist
from cdrmix.passes.simplify import simplify
from tests.good.handmade import D, at, cell, d, define, h, i, model, param

BINARY = ("add", "sub", "mul", "mul", "max", "lt", "add")
UNARY = ("neg", "tanh", "sigmoid", "abs", "sign")
REDUCTIONS = ("sum", "mean", "max_over", "logsumexp")


@st.composite
def expressions(draw: st.DrawFn, around: tuple[Index, ...] = (d, h, i), depth: int = 4) -> Node:
    """An expression over some of the indices `around`."""
    names = count()

    def leaf(scope: tuple[Index, ...]) -> Node:
        match draw(st.integers(0, 3)):
            case 0:
                return const(draw(st.sampled_from([0, 1, 2, -1, 0.0, 1.0, 0.5])))
            case 1:
                return index(draw(st.sampled_from(scope)))
            case _:
                held = draw(st.lists(st.sampled_from(scope), min_size=1, max_size=2))
                view = tuple(j.axis for j in held)
                return build.read(Ref("def", "_".join(a.name for a in view)), view, held)

    def grow(scope: tuple[Index, ...], left: int) -> Node:
        kind = draw(st.integers(0, 5)) if left else 0
        if kind == 0:
            return leaf(scope)
        if kind <= 2:
            return node(draw(st.sampled_from(BINARY)), grow(scope, left - 1), grow(scope, left - 1))
        if kind == 3:
            return node(draw(st.sampled_from(UNARY)), grow(scope, left - 1))
        if kind == 4:
            cond = node("lt", grow(scope, left - 1), const(0.25))
            return build.select(cond, grow(scope, left - 1), grow(scope, left - 1))
        bound = Index(f"b{next(names)}", draw(st.sampled_from(scope)).axis)
        return build.reduce(draw(st.sampled_from(REDUCTIONS)), (bound,), grow((*scope, bound), left - 1))

    return grow(around, depth)


class Values(dict[Ref, np.ndarray]):
    """A value for every name: numbers of its shape, the same each time."""

    def __missing__(self, ref: Ref) -> np.ndarray:
        sizes = {"D": 6, "H": 2, "N": 3}
        self[ref] = np.random.default_rng(len(ref.name)).normal(size=[sizes[a] for a in ref.name.split("_")])
        return self[ref]


def value(n: Node, order: tuple[Index, ...] = (d, h, i)) -> np.ndarray:
    return expression(n, order=order)(Frame(Values()))


@settings(max_examples=300, deadline=None)
@given(expressions())
def test_passes_keep_a_cells_value(n: Node) -> None:
    names = sorted({m.arg.ref.name for m in walk.reads(n)})
    params = [param(name, *(Index(f"p{p}", a) for p, a in enumerate(view))) for name, view in views(n).items()]
    n = walk.rename_refs(n, {Ref("def", name): Ref("param", name) for name in names})
    made = cell("c", define("def", "y", (d, h, i), n), define("output", "out", (d,), first()), params=tuple(params))
    lifted = hoist(simplify(made))
    verify_cell(lifted, {})
    weights = {f"f.{name}": Values()[Ref("def", name)] for name in names}
    want, got = (Interpreter(model(c), weights).run(np.zeros((1, 6))).logits for c in (made, lifted))
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def first() -> Node:
    """`y` summed over what is not the output's."""
    i2 = Index("i2", i.axis)
    h2 = Index("h2", h.axis)
    return build.reduce("sum", (h2, i2), at("def", "y", d, h2, i2))


def views(n: Node) -> dict[str, tuple]:
    return {m.arg.ref.name: m.arg.view for m in walk.reads(n)}


@settings(max_examples=200, deadline=None)
@given(expressions(), expressions(around=(Index("b0", D), Index("b1", D)), depth=2))
def test_substitution_is_replacement(n: Node, by: Node) -> None:
    """With `d` a value of an expression over names that `n` may bind: as if `d` were that number everywhere."""
    place = node("mod", node("floordiv", node("abs", node("sign", by)), const(1)), const(6))
    if place.dtype != "int" or not walk.reads(place) and not place.free:
        place = index(Index("b0", D))
    got = value(walk.substitute(n, {d: place}), (Index("b0", D), Index("b1", D), h, i))
    at_place = value(place, (Index("b0", D), Index("b1", D)))
    np.testing.assert_allclose(got, value(n)[at_place], rtol=1e-12, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(expressions())
def test_rebuilding_changes_nothing(n: Node) -> None:
    again = walk.transform(n, lambda m: build.node(m.op, *m.args, arg=m.arg) if m.args and m.op != "read" else m)
    assert again == n
    assert walk.transform(n, lambda m: m) is n
