"""The interpreter with the rounding of mixed precision: where a value is rounded, and where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cdrmix.check import load, load_text
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter, Run
from cdrmix.ir.nodes import DType, Model
from cdrmix.ir.types import rounded
from cdrmix.passes.precision import decide_precision
from tests.conformance.torch_specs import MODELS
from tests.good.elaborated import elaborate
from tests.small import SPEC

Array = NDArray[np.float64]
TORCH = {"bf16": torch.bfloat16, "f16": torch.float16}
X = np.array([1.0078125, -2.984375, 0.33203125, 7.0, -0.00390625, 100.5, 1.5, -0.75])
"""Numbers of bf16."""


def to_torch(x: Array, dtype: DType) -> Array:
    with np.errstate(over="ignore"):
        single = np.asarray(x, np.float32)
    return torch.from_numpy(single).to(TORCH[dtype]).double().numpy()


def model(*lines: str, work: DType = "bf16", head: str = "op f(x: [D]) -> f32[D]", before: str = "") -> Model:
    """An op that returns f32, so that what it returns is not rounded once more."""
    return decide_precision(elaborate(before + head + " {\n" + "\n".join(lines) + "\n}\n").model(), work)


def run(model: Model, *tokens: Array, **weights: Array) -> Run:
    given = {f"m.{name.replace('__', '.')}": np.asarray(value, np.float64) for name, value in weights.items()}
    return Interpreter(model, given, rounding=True).run(list(tokens))


def bf16(x: Array) -> Array:
    return to_torch(x, "bf16")


# --- rounding itself -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_rounding_is_that_of_the_hardware(dtype: DType) -> None:
    """Every number of the type, the middles between neighbours, what is just beside these, and what has no number."""
    held = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(TORCH[dtype]).float().numpy()
    held = np.sort(held[np.isfinite(held)])
    middles = ((held[1:].astype(np.float64) + held[:-1]) / 2).astype(np.float32)
    largest = float(held[-1])
    odd = [0.0, -0.0, np.inf, -np.inf, np.nan, largest * 1.0001, largest * 1.01, -largest * 1.01, 1e-45, -3e38, 1e300]
    for x in (held, middles, np.nextafter(middles, np.inf), np.nextafter(middles, -np.inf), np.array(odd)):
        found, want = rounded(x.astype(np.float64), dtype), to_torch(x, dtype)
        np.testing.assert_array_equal(found, want)
        np.testing.assert_array_equal(np.signbit(found[~np.isnan(x)]), np.signbit(want[~np.isnan(x)]))


def test_a_wider_type_rounds_nothing() -> None:
    x = np.array([1.1, 1e300])
    assert rounded(x, "f32") is x
    assert rounded(x, "work") is x


# --- names ---------------------------------------------------------------------------------------------------------
def test_a_value_is_rounded_where_it_gets_a_name_and_not_inside_an_equation() -> None:
    small = np.full(8, 2.0**-12)
    named = model("param v: [D] ~ 0", "y = 1 + v*x", "return y - 1")
    at_once = model("param v: [D] ~ 0", "return (1 + v*x) - 1")
    ones = np.ones(8)
    np.testing.assert_array_equal(run(named, ones, v=small).logits[0], 0 * ones)
    np.testing.assert_array_equal(run(at_once, ones, v=small).logits[0], small)


def test_return_rounds_to_what_it_declares() -> None:
    third = X / 3
    np.testing.assert_array_equal(run(model("return x/3", head="op f(x: [D]) -> [D]"), X).logits[0], bf16(third))
    np.testing.assert_array_equal(run(model("return x/3"), X).logits[0], third)


def test_a_value_is_rounded_to_the_type_of_the_formal_that_it_is_given_to() -> None:
    x = X + 2.0**-20
    np.testing.assert_array_equal(run(model("return x*1"), x).logits[0], X)
    np.testing.assert_array_equal(run(model("return x*1", head="op f(x: f32[D]) -> f32[D]"), x).logits[0], x)
    part = "op g(x: [D]) -> f32[D] {\n  param u: [D] ~ 1\n  return x*u\n}\n"
    wide = model("part p: g", "y = x + 1", "return p(y)", head="op f(x: f32[D]) -> f32[D]", before=part)
    np.testing.assert_array_equal(run(wide, x, p__u=np.ones(8)).logits[0], bf16(x + 1))


def test_what_is_declared_f32_is_not_rounded() -> None:
    u = np.full(8, 1 + 2.0**-12)
    np.testing.assert_array_equal(run(model("param u: f32[D] ~ 1", "y = x*u", "return y"), X, u=u).logits[0], X * u)
    np.testing.assert_array_equal(run(model("param u: [D] ~ 1", "y = x*u", "return y"), X, u=u).logits[0], bf16(X * u))


# --- matrices ------------------------------------------------------------------------------------------------------
W = np.random.default_rng(0).normal(size=(8, 8))


def test_a_matrix_and_its_operand_are_rounded_to_its_type_and_the_sum_is_not() -> None:
    narrow = model("param W: [D, D] ~ 0", "return 1 + W @ (x/3)")
    np.testing.assert_allclose(run(narrow, X, W=W).logits[0], 1 + bf16(W) @ bf16(X / 3), rtol=1e-14)
    half = model("param W: f16[D, D] ~ 0", "return 1 + W @ (x/3)")
    np.testing.assert_allclose(run(half, X, W=W).logits[0], 1 + to_torch(W, "f16") @ to_torch(X / 3, "f16"), rtol=1e-14)
    wide = model("param W: f32[D, D] ~ 0", "return 1 + W @ (x/3)")
    np.testing.assert_allclose(run(wide, X, W=W).logits[0], 1 + W @ (X / 3), rtol=1e-14)


def test_an_operand_of_several_factors_is_rounded_once_and_what_stands_outside_the_sum_is_not() -> None:
    gated = model("param W: [D, D] ~ 0", "y[i] = sum[j](x[i]*W[i,j]*(x[j]*0.1)*x[j]/3)", "return y*1", work="f16")
    want = to_torch(X * (to_torch(W, "f16") @ to_torch(X * X / 30, "f16")), "f16")
    np.testing.assert_array_equal(run(gated, X, W=W).logits[0], want)


def test_matrices_in_a_row_round_what_the_first_one_gives() -> None:
    twice = model("param A: [D, D] ~ 0", "param B: [D, D] ~ 0", "return B @ (A @ x)")
    want = bf16(W.T) @ bf16(bf16(W) @ X)
    np.testing.assert_allclose(run(twice, X, A=W, B=W.T).logits[0], want, rtol=1e-13)


def test_a_filter_a_channel_is_no_matrix() -> None:
    conv = model("param F: [2, D] ~ 0", "history K: [D] last 2 = x/3", "y[d] = sum[t](F[t,d]*(K[t,d] + 2^-20))",
                 "return y*1")  # fmt: skip
    F = bf16(W[:2])
    got = run(conv, X, X, F=W[:2]).logits[1]
    np.testing.assert_array_equal(got, bf16(F.sum(0) * (bf16(X / 3) + 2.0**-20)))


# --- time ----------------------------------------------------------------------------------------------------------
def test_a_delay_holds_what_it_is_given_and_a_recurrence_all_its_digits() -> None:
    shift = model("state old: [D]", "state s: [D] = 0", "y = x/3", "old' = y", "s' = s*(1/3) + x", "return old + s")
    found = run(shift, X, X)
    np.testing.assert_array_equal(found.state["m.old"], bf16(X / 3))
    np.testing.assert_array_equal(found.state["m.s"], X * (1 / 3) + X)
    np.testing.assert_array_equal(found.logits[1], bf16(X / 3) + X)


def test_a_state_begins_with_a_number_of_its_type() -> None:
    shift = model("param a: [D] ~ 0", "state old: bf16[D] = a", "old' = x", "return old + 0")
    a = np.full(8, 1 / 3)
    np.testing.assert_array_equal(run(shift, X, a=a).logits[0], bf16(a))


def test_the_entries_of_a_history_are_rounded_and_scores_are_not() -> None:
    attend = model("history K: [D] last 4 = x/3", "s[t] = sum[i](K[t,i]*x[i])*0.01",
                   "y[i] = sum[t](softmax[t](s[t])*K[t,i])", "return y*1")  # fmt: skip
    found = run(attend, X, 2 * X)
    K = bf16(np.stack([2 * X, X]) / 3)
    np.testing.assert_array_equal(found.state["m.K"][:2], K)
    weights = np.exp(K @ (2 * X) * 0.01)
    np.testing.assert_array_equal(found.logits[1], bf16(weights / weights.sum() @ K))


def test_a_decay_keeps_the_digits_that_the_name_of_another_value_loses() -> None:
    keeps = model("param u: [D] ~ 0", "state s: [D] = 1", "w = 1 - u*0.001*x", "s' = s*w", "return s'")
    ones = np.ones(8)
    np.testing.assert_allclose(run(keeps, ones, u=ones).state["m.s"], 0.999 * ones, rtol=1e-14)
    seen = model("param u: [D] ~ 0", "v = 1 - u*0.001*x", "return v*1")
    np.testing.assert_array_equal(run(seen, ones, u=ones).logits[0], bf16(0.999 * ones))


def test_top_chooses_from_what_is_not_rounded() -> None:
    chosen = model("param b: [D] ~ 0", "score = x + b", "gate, pick = top[k < 1](score)",
                   "y[i < D] = sum[k](gate[k]*(pick[k] == i))", "return y")  # fmt: skip
    b = np.zeros(8)
    b[3] = 2.0**-12
    found = run(chosen, np.ones(8), b=b).logits[0]
    assert np.argmax(found) == 3


# --- the stack -----------------------------------------------------------------------------------------------------
def test_the_stream_between_lines_is_rounded_to_work() -> None:
    line = model("return x/3")
    added = replace(line, lines=tuple(replace(one, residual=True) for one in line.lines))
    np.testing.assert_array_equal(run(added, X).logits[0], bf16(X + X / 3))


def test_training_values_are_f32() -> None:
    load = model("y = x/3", "aux size = mean[tokens](sum[i](x[i]*x[i]/3))", "return y", head="op f(x: [D]) -> [D]")
    interpreter = Interpreter(load, {}, rounding=True)
    found = interpreter.training_values([interpreter.run([X], collect=True)])
    np.testing.assert_allclose(found.aux["m.size"], (X * X / 3).sum(), rtol=1e-14)


# --- whole models --------------------------------------------------------------------------------------------------
def logits(model: Model, weights: Mapping[str, Array], rounding: bool) -> Array:
    tokens = [int(t) for t in np.random.default_rng(1).integers(0, model.vocab, 9)]
    return np.asarray(Interpreter(model, weights, rounding=rounding).run(tokens).logits)


@pytest.mark.parametrize("name", MODELS)
def test_with_work_f32_it_is_the_plain_interpreter(name: str) -> None:
    spec, settings = MODELS[name]
    found = load(f"spec/{spec}.cdr", settings)
    weights = random_weights(found, 0)
    np.testing.assert_array_equal(logits(decide_precision(found), weights, True), logits(found, weights, False))


def test_a_model_in_bf16_is_near_the_plain_one_and_f16_is_nearer() -> None:
    found = load_text(SPEC)
    weights = random_weights(found, 0)
    plain = logits(found, weights, False)
    size = np.sqrt((plain**2).mean(-1))
    far = {work: np.sqrt(((logits(decide_precision(found, work), weights, True) - plain) ** 2).mean(-1)) / size
           for work in ("bf16", "f16")}  # fmt: skip
    assert 1e-3 < far["bf16"].min() < far["bf16"].max() < 3e-2
    assert 1e-4 < far["f16"].min() < far["f16"].max() < 4e-3


def test_f16_is_infinite_where_a_name_holds_more_than_it_can_and_an_equation_is_not() -> None:
    big = np.full(8, 1000.0)
    named = run(model("y = x*x", "return y/x", work="f16"), big)
    assert np.isinf(named.logits).all()
    np.testing.assert_array_equal(run(model("return x*x/x", work="f16"), big).logits[0], big)
