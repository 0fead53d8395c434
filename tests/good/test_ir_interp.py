"""The interpreter on cells made by hand: what each rule of the semantics means, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from cdrmix.ir.build import const, index, mul, read, reduce, softmax, sub
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import History
from tests.good.handmade import D, W, X, at, bank_cells, cell, d, define, delta_cell, history_cell, layer_norm, model, t


def test_layer_norm_is_the_textbooks() -> None:
    rng = np.random.default_rng(0)
    x, w, b = rng.normal(size=(3, 6))
    y, _ = Interpreter(model(layer_norm()), {"f.w": w, "f.b": b}).run([x])
    np.testing.assert_allclose(y[0], (x - x.mean()) / np.sqrt(x.var() + 1e-5) * w + b, rtol=1e-13)


def test_a_delta_state_starts_from_its_param_and_restarts_at_a_document() -> None:
    rng = np.random.default_rng(1)
    weights = {"f.a": rng.normal(size=(2, 3)), "f.b": rng.normal(size=(2, 3)), "f.S0": rng.normal(size=(2, 3, 3))}
    xs = rng.normal(size=(5, 6)) * 0.3
    resets = [False, False, False, True, False]
    want, s = [], weights["f.S0"]
    for x, reset in zip(xs.reshape(5, 2, 3), resets, strict=True):
        s = weights["f.S0"] if reset else s
        s = s - np.einsum("him,hm,hj->hij", s, weights["f.a"], weights["f.b"]) + np.einsum("hi,hj->hij", x, x)
        want.append(np.einsum("hij,hj->hi", s, x).reshape(6))
    interpreter = Interpreter(model(delta_cell()), weights)
    got, state = interpreter.run(xs, resets=resets)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_allclose(state["f.S"], s, rtol=1e-12)
    assert int(state["pos"]) == 2

    half = interpreter.run(xs[:2])
    rest, again = interpreter.run(xs[2:], half.state, resets[2:])
    np.testing.assert_array_equal(rest, got[2:])
    np.testing.assert_array_equal(again["f.S"], state["f.S"])


@pytest.mark.parametrize(
    ("op", "want"),
    [
        ("sum", lambda p: p.sum(0)),
        ("mean", lambda p: p.mean(0)),
        ("max_over", lambda p: p.max(0)),
        ("logsumexp", lambda p: np.log(np.exp(p).sum(0))),
    ],
)
def test_a_window_holds_only_the_tokens_that_are_there(op: str, want: object) -> None:
    product = mul(at("param", "F", t, d), at("history", "X", t, d))
    F = np.arange(24.0).reshape(4, 6)
    interpreter = Interpreter(model(history_cell(reduce(op, (t,), product))), {"f.F": F})
    xs = np.random.default_rng(2).normal(size=(7, 6))
    resets = [t == 5 for t in range(7)]
    got, state = interpreter.run(xs, resets=resets)
    for n in range(7):
        first = 5 if n >= 5 else 0
        window = xs[max(first, n - 3) : n + 1][::-1]
        np.testing.assert_allclose(got[n], want(F[: len(window)] * window), rtol=1e-12)  # type: ignore[operator]
    assert int(state["f.X.count"]) == 2
    np.testing.assert_array_equal(state["f.X"], [xs[6], xs[5], np.zeros(6)])


def test_softmax_and_the_age_run_over_a_window_through_other_definitions() -> None:
    score = sub(at("history", "X", t, d), mul(const(0.5), index(t)))
    y = reduce("sum", (t,), mul(softmax(t, at("def", "s", d, t)), at("history", "X", t, d)))
    attend = cell(
        "attend",
        define("history", "X", (d,), at("input", "x", d)),
        define("def", "s", (d, t), score),
        define("output", "out", (d,), y),
        histories=(History("X", W, (D,)),),
    )
    xs = np.random.default_rng(3).normal(size=(6, 6))
    got, _ = Interpreter(model(attend), {}).run(xs)
    for n in range(6):
        window = xs[max(0, n - 3) : n + 1][::-1]
        weight = np.exp(window - 0.5 * np.arange(len(window))[:, None])
        np.testing.assert_allclose(got[n], (weight / weight.sum(0) * window).sum(0), rtol=1e-12)


def test_only_chosen_experts_advance_and_ties_go_to_the_lowest() -> None:
    rng = np.random.default_rng(4)
    G, w, bias = rng.normal(size=(4, 6)), rng.normal(size=4), rng.normal(size=4)
    G[3] = G[1]  # a tie whenever both are near the top
    xs = rng.normal(size=(9, 6))
    interpreter = Interpreter(model(*bank_cells()), {"f.G": G, "f.bias": bias, "f.F.w": w})
    run = interpreter.run(xs, collect=True)
    sums, kept, counts = np.zeros((4, 6)), [[] for _ in range(4)], np.zeros(4)
    for n, x in enumerate(xs):
        p = G @ x
        best = sorted(range(4), key=lambda place: (-p[place], place))[:2]
        want = np.zeros(6)
        for place in best:
            counts[place] += 1
            sums[place] += x
            kept[place] = [x, *kept[place]][:2]
            want += p[place] * (w[place] * (sums[place] + sum(kept[place])) + n)
        np.testing.assert_allclose(run.logits[n], want, rtol=1e-12)
    np.testing.assert_allclose(run.state["f.F.s"], sums, rtol=1e-12)
    np.testing.assert_array_equal(run.state["f.F.X.count"], np.minimum(counts, 1))

    values = interpreter.training_values([interpreter.run(xs[:4], collect=True), interpreter.run(xs[4:], collect=True)])
    np.testing.assert_allclose(values.metrics["f.load"], counts / 9, rtol=1e-12)
    np.testing.assert_allclose(values.aux["f.loss"], (counts / 9) @ bias, rtol=1e-12)
    np.testing.assert_allclose(values.after["f.bias"], bias - counts / 9, rtol=1e-12)


def test_a_read_outside_its_axis_is_refused_not_wrapped() -> None:
    shifted = read(X, (D,), (sub(index(d), const(1)),))
    with pytest.raises(IndexError, match="outside its axis"):
        Interpreter(model(cell("bad", define("output", "out", (d,), shifted))), {}).run(np.zeros((1, 6)))


def test_weights_must_be_there_with_their_shapes() -> None:
    with pytest.raises(KeyError, match=r"f\.a"):
        Interpreter(model(delta_cell()), {})
    with pytest.raises(ValueError, match=r"f\.F"):
        Interpreter(model(history_cell(at("input", "x", d))), {"f.F": np.zeros((6, 4))})
