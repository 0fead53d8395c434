"""Library ops, elaborated and interpreted, against plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cdrmix.spec
import numpy as np
import pytest
from numpy.typing import NDArray

from cdrmix.check import load_op
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from tests.good.elaborated import elaborate, tokens

LIB = Path(cdrmix.spec.__file__).parent / "lib"
Array = NDArray[np.float64]
Weights = dict[str, Array]


def outputs(file: str, op: str, args: dict[str, str], xs: list[Array]) -> tuple[Array, Weights]:
    """What the library's op gives, and its weights."""
    model = load_op(LIB / f"{file}.cdr", op, {"D": len(xs[0])}, args)
    weights = random_weights(model, 0)
    short = {path.removeprefix(f"{op}."): w.astype(np.float64) for path, w in weights.items()}
    return Interpreter(model, weights).run(xs).logits, short


def rotated(z: Array, pos: int) -> Array:
    half = z.shape[1] // 2
    angle = pos * 10_000.0 ** (-np.arange(half) / half)
    a, b = z[:, :half], z[:, half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], 1)


def attended(xs: list[Array], w: Weights, turn: Callable[[Array, int], Array], slope: float) -> Array:
    """Six heads on two keys' heads over a window of four."""
    q = [turn((w["Wq"] @ x).reshape(6, 8), t) for t, x in enumerate(xs)]
    k = [turn((w["Wk"] @ x).reshape(2, 8), t) for t, x in enumerate(xs)]
    v = [(w["Wv"] @ x).reshape(2, 8) for x in xs]
    found = []
    for now in range(len(xs)):
        seen = range(max(0, now - 3), now + 1)
        y = np.zeros((6, 8))
        for h in range(6):
            bias = slope * 2.0 ** (-8 * (h + 1) / 6)
            s = np.array([q[now][h] @ k[t][h // 3] / np.sqrt(8) - bias * (now - t) for t in seen])
            p = np.exp(s - s.max())
            y[h] = sum(a * v[t][h // 3] for a, t in zip(p / p.sum(), seen, strict=True))
        found.append(w["Wo"] @ y.reshape(-1))
    return np.array(found)


KINDS = [("attention", rotated, 0.0), ("attention_alibi", lambda z, _: z, 1.0)]


@pytest.mark.parametrize(("op", "turn", "slope"), KINDS)
def test_attention(op: str, turn: Callable[[Array, int], Array], slope: float) -> None:
    xs = tokens([48], 7)
    found, w = outputs("attention", op, {"heads": "6", "kv_heads": "2", "window": "4"}, xs)
    np.testing.assert_allclose(found, attended(xs, w, turn, slope), atol=1e-13)


def test_rwkv7() -> None:
    xs = tokens([32], 6)
    found, w = outputs("rwkv7", "rwkv7", {"N": "8", "dw": "5", "da": "6", "dv": "3", "dg": "7"}, xs)

    def sigmoid(z: Array) -> Array:
        return 1 / (1 + np.exp(-z))

    def heads(z: Array) -> Array:
        return z.reshape(4, 8)

    S, before, want = np.zeros((4, 8, 8)), np.zeros(32), []
    for x in xs:
        r, decay, kx, v, a, g = (x + (before - x) * w[m] for m in ("mr", "mw", "mk", "mv", "ma", "mg"))
        r, kx, v = heads(w["Wr"] @ r), w["Wk"] @ kx, heads(w["Wv"] @ v)
        decay = heads(np.exp(-np.exp(-0.5) * sigmoid(w["w0"] + w["w2"] @ np.tanh(w["w1"] @ decay))))
        a = sigmoid(w["a0"] + w["a2"] @ (w["a1"] @ a))
        g = w["g2"] @ sigmoid(w["g1"] @ g)
        kk = heads(kx * w["k_k"])
        kk = kk / np.linalg.norm(kk, axis=1, keepdims=True)
        k = heads(kx * (1 + (a - 1) * w["k_a"]))
        S = S * decay[:, None] - np.einsum("hin,hn,hj->hij", S, kk, kk * heads(a)) + np.einsum("hi,hj->hij", v, k)
        y = np.einsum("hij,hj->hi", S, r)
        bonus = (r * k * w["r_k"]).sum(1, keepdims=True) * v
        y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 64e-5)
        want.append(w["Wo"] @ ((y.reshape(-1) * w["gn_w"] + w["gn_b"] + bonus.reshape(-1)) * g))
        before = x
    np.testing.assert_allclose(found, np.array(want), atol=1e-13)


def test_moe() -> None:
    found = elaborate("""
use "lib/moe.cdr" { moe }
use "lib/channel_mix.cdr" { relu2 }
op f(x: [D]) -> [D] {
  part m: moe(relu2(hidden=6), experts=4, top_k=2, shared=1)
  return m(x)
}
""")
    xs = tokens([8], 5)
    model = found.model()
    weights = random_weights(model, 0)
    run = Interpreter(model, weights).run(xs, collect=True)
    w = {path.removeprefix("m.m."): value.astype(np.float64) for path, value in weights.items()}

    def expert(bank: str, e: int, x: Array) -> Array:
        return np.asarray(w[f"{bank}.Wv"][e] @ np.maximum(w[f"{bank}.Wk"][e] @ x, 0) ** 2)

    want, chosen, p, z = [], np.zeros((5, 4)), np.zeros((5, 4)), np.zeros(5)
    for t, x in enumerate(xs):
        logits = w["Wg"] @ x
        p[t] = np.exp(logits) / np.exp(logits).sum()
        z[t] = np.log(np.exp(logits).sum())
        pick = np.argsort(-p[t])[:2]
        chosen[t, pick] = 1
        gate = p[t, pick] / p[t, pick].sum()
        want.append(sum(a * expert("F", e, x) for a, e in zip(gate, pick, strict=True)) + expert("A", 0, x))
    np.testing.assert_allclose(run.logits, np.array(want), atol=1e-13)
    values = Interpreter(model, weights).training_values([run])
    load = chosen.mean(0) / 2
    np.testing.assert_allclose(values.metrics["m.m.load"], load)
    np.testing.assert_allclose(values.aux["m.m.balance_loss"], 0.01 * 4 * (load * p.mean(0)).sum())
    np.testing.assert_allclose(values.aux["m.m.z_loss"], 1e-3 * (z**2).mean())


def test_a_window_narrows_what_it_meets() -> None:
    found = elaborate(
        "op f(x: [D], w: int = 3) -> [D] {\n  param F: [w, D] ~ 1\n  history X: [D] last w = 2*x\n"
        "  y[d] = sum[t](F[t,d]*X[t,d]*(t + 1)) + mean[t](X[t,d]) + sum[t](F[t,d])\n  return y\n}\n"
    )
    xs = tokens([8], 5)
    got, weights = found.run(xs)
    F = weights["F"]
    for now, y in enumerate(got):
        past = [2 * xs[t] for t in range(now, max(-1, now - 3), -1)]
        want = sum(F[t] * v * (t + 1) for t, v in enumerate(past)) + np.mean(past, 0) + F.sum(0)
        np.testing.assert_allclose(y, want, atol=1e-13)
