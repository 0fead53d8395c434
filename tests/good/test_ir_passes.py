"""`simplify` and `hoist`: what they make of an expression, and that a cell means the same after them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cdrmix.check import load, load_op
from cdrmix.ir.build import add, const, context, div, index, mul, node, read, reduce, select, softmax, sub
from cdrmix.ir.cost import cost
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Axis, Cell, Def, Index, Model, Node, Ref, Top
from cdrmix.ir.text import node_text, to_text
from cdrmix.ir.verify import verify, verify_cell
from cdrmix.passes.hoist import hoist
from cdrmix.passes.simplify import drop_unread, simplify, simplify_node
from tests.good.handmade import (
    D,
    at,
    bank_cells,
    cell,
    d,
    define,
    delta_cell,
    h,
    history_cell,
    i,
    j,
    k,
    layer_norm,
    m,
    t,
)

SPECS = Path(__file__).parents[2] / "spec"
x = at("input", "x", d)


# --- simplify ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("made", "want"),
    [
        (mul(x, const(1)), "x[d]"),
        (mul(const(1.0), x), "x[d]"),
        (add(const(0), x), "x[d]"),
        (sub(x, const(0.0)), "x[d]"),
        (div(x, const(1)), "x[d]"),
        (node("pow", x, const(1)), "x[d]"),
        (node("neg", node("neg", x)), "x[d]"),
        (mul(x, node("exp", node("neg", const(0.5)))), f"x[d]*{float(np.exp(-0.5))!r}"),
        (mul(x, add(const(1), mul(const(2), const(3)))), "x[d]*7"),
        (div(x, node("sqrt", const(64))), "x[d]/8.0"),
        (add(add(index(d), const(2)), const(3)), "d + 5"),
        (sub(add(index(d), const(2)), const(3)), "d - 1"),
        (sub(add(index(d), const(2)), const(2)), "d"),
        (select(node("lt", const(1), const(2)), x, const(0)), "x[d]"),
        (node("floordiv", const(7), const(0)), "0"),
        (node("mod", context("pos"), index(d)), "0 if d == 0 else pos % (1 if d == 0 else d)"),
        (node("mod", context("pos"), add(index(d), const(1))), "pos % (d + 1)"),
        (node("floordiv", context("pos"), node("max", index(d), const(2))), "pos // max(d, 2)"),
        (select(node("and", node("lt", x, const(0)), const(False)), const(1.0), x), "x[d]"),
        (reduce("sum", (k,), const(0.5)), "3.0"),
        (reduce("sum", (k,), x), "x[d]*6"),
        (reduce("mean", (k,), x), "x[d]"),
        (reduce("sum", (k, i), mul(x, at("param", "w", i))), "sum[i < N](x[d]*w[i])*6"),
        (reduce("logsumexp", (k,), x), f"x[d] + {float(np.log(6))!r}"),
        # what must stay
        (mul(x, const(0)), "x[d]*0"),
        (sub(x, x), "x[d] - x[d]"),
        (div(const(1), const(0)), "1/0"),
        (mul(index(d), const(1.0)), "d*1.0"),
        (add(add(x, const(0.1)), const(0.2)), "x[d] + 0.1 + 0.2"),
    ],
)
def test_simplified(made: Node, want: str) -> None:
    got = simplify_node(made)
    assert node_text(got) == want
    assert (got.dtype, got.free) == (made.dtype, made.free) or set(got.free) < set(made.free)


def test_what_keeps_a_divisor_from_zero_is_not_added_twice() -> None:
    once = simplify_node(node("mod", context("pos"), sub(index(d), const(1))))
    assert simplify_node(once) == once


def test_a_part_of_an_axis_stays_arithmetic() -> None:
    few = Index("f", Axis("F", 2))
    got = simplify_node(read(Ref("input", "x"), [D], [add(const(0), index(few))]))
    assert node_text(got) == "x[f + 0]"
    assert node_text(simplify_node(got)) == "x[f + 0]"


def test_constants_fold_as_float64_in_the_texts_order() -> None:
    assert simplify_node(add(add(const(0.1), const(0.2)), const(0.3))).arg == 0.1 + 0.2 + 0.3
    assert simplify_node(add(const(0.1), add(const(0.2), const(0.3)))).arg == 0.1 + (0.2 + 0.3)


def test_a_window_is_not_lost() -> None:
    """The choice would drop the only read of the window, and with it how many tokens are there."""
    body = reduce("sum", (t,), select(node("lt", const(1), const(2)), const(1.0), at("history", "X", t, d)))
    kept = simplify(history_cell(body))
    assert kept.body[-1] == history_cell(body).body[-1]
    gone = simplify(history_cell(add(body, reduce("sum", (k,), mul(const(1), at("input", "x", k))))))
    assert "X[t,d]" in to_text(gone)


def test_what_nothing_reads_goes_but_parts_run() -> None:
    expert, moe = bank_cells()
    unread = define("def", "spare", (d,), x)
    silent = replace(moe, body=(unread, *moe.body[:-1], define("output", "out", (d,), x)))
    assert [type(s).__name__ for s in drop_unread(silent).body] == ["Def", "Top", "Apply", "Def", "Def"]
    assert drop_unread(moe) is moe and drop_unread(expert) is expert


# --- hoist ---------------------------------------------------------------------------------------------------------
def lines(c: Cell) -> list[str]:
    """The statements of a cell."""
    text = to_text(replace(hoist(c), params=(), states=(), buffers=()))
    return [line.strip() for line in text.splitlines() if " = " in line and not line.startswith("  axes")]


def out(value: Node, *before: Def) -> list[str]:
    return lines(cell("c", *before, define("output", "out", (d,), value)))


W = at("param", "W", d, k)
xk = at("input", "x", k)


def test_the_input_of_a_product_becomes_a_definition() -> None:
    shifted = add(xk, mul(sub(at("state", "p", k), xk), at("param", "m", k)))
    assert out(reduce("sum", (k,), mul(W, shifted))) == [
        "out_in[k]: f32 = x[k] + (p[k] - x[k])*m[k]",
        "out[d] = sum[k](W[d,k]*out_in[k])",
    ]


def test_lifting_goes_inwards() -> None:
    inner = node("tanh", reduce("sum", (k,), mul(at("param", "V", m, k), node("exp", xk))))
    assert out(reduce("sum", (m,), mul(at("param", "U", d, m), inner))) == [
        "out_in[k] = exp(x[k])",
        "out_in_1[m] = tanh(sum[k](V[m,k]*out_in[k]))",
        "out[d] = sum[m](U[d,m]*out_in_1[m])",
    ]


def test_a_state_reads_its_row_once() -> None:
    assert lines(delta_cell())[-4:] == [
        "S_sum[h,i]: f32 = sum[m](S[h,i,m]*a[h,m])",
        "S'[h,i,j]: f32 = S[h,i,j] - S_sum[h,i]*b[h,j] + x[h,i]*x[h,j]",
        "y[h,i] = sum[j](S'[h,i,j]*x[h,j])",
        "out[d] = y[d]",
    ]


def test_factors_over_the_same_indices_come_together() -> None:
    b = at("param", "b", h)
    u, v = at("param", "u", h, i), at("param", "v", h, j)
    value = mul(mul(mul(mul(b, u), v), at("param", "w", h, j)), const(2.0))
    c = cell("c", define("def", "y", (h, i, j), value), define("output", "out", (d,), x))
    assert lines(c)[:4] == [
        "y_product[h] = b[h]*2.0",
        "y_product_1[h,i] = u[h,i]*y_product[h]",
        "y_product_2[h,j] = v[h,j]*w[h,j]",
        "y[h,i,j] = y_product_1[h,i]*y_product_2[h,j]",
    ]


def test_equal_subexpressions_are_one_definition() -> None:
    scale = div(xk, node("sqrt", add(reduce("mean", (m,), node("pow", at("param", "g", m), const(2))), const(1e-5))))
    first = define("def", "a", (d,), reduce("sum", (k,), mul(W, scale)))
    again = node("sqrt", add(reduce("mean", (i,), node("pow", at("param", "g", i), const(2))), const(1e-5)))
    assert out(add(at("def", "a", d), mul(x, again)), first) == [
        "a_sqrt = sqrt(mean[m](g[m]^2) + 1e-05)",
        "a_in[k] = x[k]/a_sqrt",
        "a[d] = sum[k](W[d,k]*a_in[k])",
        "out[d] = a[d] + x[d]*a_sqrt",
    ]


def test_a_definition_of_the_text_serves_too() -> None:
    e = define("def", "e", (d,), node("exp", x))
    assert out(reduce("sum", (k,), mul(W, node("exp", xk))), e) == [
        "e[d] = exp(x[d])",
        "out[d] = sum[k](W[d,k]*e[k])",
    ]


def test_a_definition_is_read_in_its_own_order() -> None:
    e = define("def", "e", (i, h), node("exp", at("param", "u", h, i)))
    again = node("exp", at("param", "u", h, j))
    assert out(mul(x, reduce("sum", (h, j), mul(again, at("param", "v", h)))), e)[1:] == [
        "out_sum = sum[h,j](e[j,h]*v[h])",
        "out[d] = x[d]*out_sum",
    ]


def test_axes_of_one_size_share_what_reads_nothing_of_them() -> None:
    other = Index("o", Axis("other", 6))
    angle = lambda p: node("cos", mul(context("pos"), index(p)))  # noqa: E731
    first = define("def", "a", (d, h), mul(at("param", "u", d, h), angle(d)))
    assert out(
        reduce("sum", (other,), mul(read(Ref("param", "W"), (D, other.axis), (d, other)), angle(other))), first
    ) == [
        "a_cos[d] = cos(pos*d)",
        "a[d,h] = u[d,h]*a_cos[d]",
        "out[d] = sum[o](W[d,o]*a_cos[o])",
    ]


def test_small_things_stay() -> None:
    kept = add(mul(x, at("param", "s")), mul(node("neg", at("param", "s")), node("pow", index(d), const(2))))
    assert len(out(kept)) == 1
    assert out(mul(x, node("cos", context("pos"))))[0] == "out_cos = cos(pos)"


def test_a_softmax_over_a_window_stays_with_what_ranges_over_it() -> None:
    weights = softmax(t, at("param", "bias", t))
    body = reduce("sum", (t,), mul(weights, at("history", "X", t, d)))
    kept = hoist(history_cell(body))
    assert len(kept.body) == 2


def test_scores_over_a_window_are_lifted() -> None:
    score = reduce("sum", (k,), mul(xk, at("history", "X", t, k)))
    body = reduce("sum", (t,), mul(softmax(t, score), at("history", "X", t, d)))
    assert lines(history_cell(body))[-2:] == [
        "out_in[t] = softmax[t](sum[k](x[k]*X[t,k]))",
        "out[d] = sum[t](out_in[t]*X[t,d])",
    ]


# --- both keep the meaning -------------------------------------------------------------------------------------------
def same(model: Model, feed: np.ndarray) -> None:
    """The model and its simplified, hoisted self give one output and one state."""
    lifted = replace(model, cells={n: hoist(simplify(c)) for n, c in model.cells.items()})
    verify(lifted)
    weights = random_weights(model, 1)
    resets = np.arange(len(feed)) % 7 == 4
    want, got = (Interpreter(each, weights).run(feed, resets=resets) for each in (model, lifted))
    np.testing.assert_allclose(got.logits, want.logits, rtol=1e-9, atol=1e-11)
    for path, value in want.state.items():
        np.testing.assert_allclose(got.state[path], value, rtol=1e-9, atol=1e-11, err_msg=path)
    assert cost(lifted).total.flops <= cost(model).total.flops
    assert cost(lifted).total.stored == cost(model).total.stored


@pytest.mark.parametrize("spec", ["tiny", "rwkv4", "rwkv6"])
def test_specs_mean_the_same(spec: str) -> None:
    model = load(SPECS / f"{spec}.cdr", {"layers": "2"})
    same(model, np.random.default_rng(0).integers(0, model.vocab, 12))


OPS = {
    "attention": ("attention", {"heads": "6", "kv_heads": "2", "window": "5"}),
    "attention_alibi": ("attention", {"heads": "6", "kv_heads": "2", "window": "5"}),
    "gated_delta": ("gated_delta", {"N": "8", "V": "4"}),
    "mamba2": ("mamba2", {"N": "8", "P": "16"}),
    "retnet": ("retnet", {"N": "16"}),
    "rwkv7_diag": ("rwkv7", {"N": "16"}),
    "rwkv7_gdn": ("rwkv7", {"N": "16"}),
    "layer_norm": ("norm", {}),
    "swiglu": ("channel_mix", {"hidden": "32"}),
}


@pytest.mark.parametrize("op", list(OPS))
def test_ops_mean_the_same(op: str) -> None:
    file, args = OPS[op]
    model = load_op(SPECS / "lib" / f"{file}.cdr", op, {"D": 48}, args)
    same(model, np.random.default_rng(0).normal(size=(12, 48)))


def test_handmade_cells_verify_after_both() -> None:
    expert, moe = bank_cells()
    for c in (expert, delta_cell(), layer_norm()):
        verify_cell(hoist(simplify(c)), {})
    verify_cell(hoist(simplify(moe)), {"expert": expert})
    assert any(isinstance(s, Top) for s in hoist(moe).body)
    assert all(s.ref.kind != "def" or s.ref != Ref("def", "out") for s in moe.body if isinstance(s, Def))
