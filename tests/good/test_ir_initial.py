"""Initial weights: the spec's rules against the published ones, and that a tensor depends on its path alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cdrmix.check import load
from cdrmix.ir import layout
from cdrmix.ir.initial import initial_weights, orthogonal, random_weights, stream
from cdrmix.ir.interp import Interpreter

SPECS = Path(__file__).parents[2] / "spec"
SMALL = {"vocab": "64", "d_model": "64", "layers": "3"}
MOE = {"vocab": "64", "d_model": "64", "layers": "2", "mixer": "rwkv7(N=32)", "moe.hidden": "32", "moe.experts": "4"}


def test_rwkv7_begins_as_published() -> None:
    """By the formulas of BlinkDL's RWKV-7, written again here."""
    weights = initial_weights(load(SPECS / "rwkv7.cdr", SMALL))
    D, L, N = 64, 3, 32
    n = np.arange(D)
    zig = (n % N - (N - 1) / 2) / ((N - 1) / 2)
    zigzag, linear = zig * abs(zig), n / (D - 1) - 0.5
    for layer in range(L):
        depth, fade = layer / (L - 1), 1 - layer / L
        w0 = -6 + 6 * (n / (D - 1)) ** (1 + depth**0.3) + 0.5 + 2.5 * zigzag
        want = {"w0": w0, "a0": -0.19 + 0.3 * zigzag + 0.4 * linear, "k_k": 0.71 - 0.1 * linear}
        want |= {c: 1 - (n / D) ** (p * fade) for c, p in (("mr", 0.2), ("mw", 0.9), ("mk", 0.7), ("mg", 0.2))}
        want |= {"gn_w": np.full(D, ((1 + layer) / L) ** 0.7), "r_k": np.full((2, N), -0.04), "Wo": np.zeros((D, D))}
        for name, value in want.items():
            np.testing.assert_allclose(weights[f"layer.{layer}.att.{name}"], value, rtol=1e-6, atol=1e-7, err_msg=name)
        shift = 1 - (n / D) ** fade**4
        np.testing.assert_allclose(weights[f"layer.{layer}.ffn.shift.mk"], shift, rtol=1e-6, atol=1e-7)
    assert "layer.0.att.nu0" not in weights
    assert np.abs(weights["emb.E"]).max() <= 1e-4
    key = weights["layer.0.att.Wk"].astype(np.float64)
    np.testing.assert_allclose(key @ key.T, 0.01 * np.eye(D), atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6,), (3, 8, 5)])
def test_orthogonal_is_by_the_last_two_axes(shape: tuple[int, ...]) -> None:
    drawn = orthogonal(shape, 0.5, stream(0, "a")).reshape(-1, *((1, *shape) if len(shape) == 1 else shape)[-2:])
    for matrix in drawn:
        small = matrix.T @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.T
        np.testing.assert_allclose(small, 0.25 * np.eye(len(small)), atol=1e-12)
    assert len({m.tobytes() for m in drawn}) == len(drawn)


def test_a_tensor_depends_on_its_path_and_the_seed_alone() -> None:
    short, long = (load(SPECS / "rwkv7.cdr", SMALL | {"layers": n}) for n in ("2", "3"))
    a, b, other = initial_weights(short, 1), initial_weights(long, 1), initial_weights(short, 2)
    np.testing.assert_array_equal(a["layer.1.att.Wr"], b["layer.1.att.Wr"])
    assert not np.array_equal(a["layer.1.att.Wr"], a["layer.0.att.Wr"])
    assert not np.array_equal(a["layer.1.att.Wr"], other["layer.1.att.Wr"])


def test_instances_of_a_bank_are_drawn_each_by_itself() -> None:
    few, many = (initial_weights(load(SPECS / "1b.cdr", MOE | {"moe.experts": n})) for n in ("4", "6"))
    path = "layer.1.ffn.F.Wk"
    assert few[path].shape == (4, 32, 64) and many[path].shape == (6, 32, 64)
    np.testing.assert_array_equal(few[path], many[path][:4])
    for matrix in few[path].astype(np.float64):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(32), atol=1e-6)
    assert not np.array_equal(few[path][0], few[path][1])


def test_tied_paths_have_no_tensor_and_the_rest_are_all_there() -> None:
    model = load(SPECS / "hybrid.cdr", MOE | {"layers": "4", "attn.window": "8"})
    weights = initial_weights(model)
    assert model.ties == {"head.W": "emb.E"} and "head.W" not in weights
    assert set(weights) == {w.owner for w in layout.weights(model)}
    assert all(v.dtype == np.float32 and np.isfinite(v).all() for v in weights.values())


@pytest.mark.parametrize("spec", ["rwkv7", "rwkv4", "rwkv6", "hybrid"])
def test_random_weights_keep_a_model_sane(spec: str) -> None:
    model = load(SPECS / f"{spec}.cdr", MOE | {"attn.window": "8"} if spec == "hybrid" else SMALL)
    weights = random_weights(model, 3)
    moved = {p for p, v in weights.items() if not np.array_equal(v, initial_weights(model, 3)[p])}
    assert moved == set(weights)
    tokens = np.random.default_rng(0).integers(0, model.vocab, 200)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        run = Interpreter(model, weights).run(tokens)
    assert 0.01 < run.logits[-20:].std() < 100
    assert all(np.isfinite(v).all() for v in run.state.values())
