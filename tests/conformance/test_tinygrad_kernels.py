"""The hand-written kernels of the tinygrad targets against numpy in float64, on three devices.

- tinygrad's CPU device, where loops stand for blocks and threads;
- tinygrad's PYTHON device, which runs the kernels as GPUs get them and checks every index;
- their CUDA source on a CPU, threads as fibers, which a missing barrier would break.
And what the generated source says about bytes: the state is read once and written once, weights come 16 bytes at once.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from . import tinygrad_device  # noqa: F401  # it chooses the device

# isort: split
from cdrmix.codegen.tinygrad import internals
from cdrmix.runtime.tinygrad import chunk, picks, products
from cdrmix.runtime.tinygrad.experts import back, group_by_expert, rows
from cdrmix.runtime.tinygrad.inline import Forms, expressions
from cdrmix.runtime.tinygrad.picks import argmax, sample, top
from cdrmix.runtime.tinygrad.products import row_product
from cdrmix.runtime.tinygrad.scans import chunk_scan, linear_scan
from cdrmix.runtime.tinygrad.weights import widen
from tinygrad import Tensor
from tinygrad.uop.ops import UOp

from .tinygrad_fibers import fibers, rendered, renderer
from .tinygrad_kernels import Case, check, coupled, distance, linear, matrix_state, product, stored

KINDS = ("f32", "f16", "bf16", "i8")
READS = ((1, True), (2, False))
PRODUCTS = [
    *(product(kind, 1, 7, 5) for kind in KINDS),  # no two weights in one load
    *(product(kind, 3, 10, 48) for kind in KINDS),
    product("bf16", 1, 3, 1026),
    product("f16", 16, 17, 68),  # a few tokens at a time
    product("f32", 2, 5, 64, matrices=3),
    product("i8", 1, 6, 32, matrices=5, pick=(4, 0, -1, 9, 2)),
    product("i8", 9, 20, 72, matrices=3, pick=(2, -1)),
]
SCANS = [
    linear(1, 1, (5,), (1, 1, 5)),
    linear(2, 3, (4, 7), (2, 3, 4, 7)),
    linear(2, 3, (130,), ()),
    linear(1, 4, (2, 3), (1, 4, 1, 1), "max"),
    linear(2, 2, (5,), (1, 1, 5), "logaddexp"),
    coupled(2, 3, (5,), 3),
]
STEPS, BLOCKS = (
    [
        matrix_state(1, T, 2, 4, 8),
        matrix_state(2, T, 3, 5, 7, reads=READS),
        matrix_state(1, T, 2, 5, 12, "mix", states=2, reads=((1, True), (1, False))),
        matrix_state(2, T, 2, 6, 36, axes="hkv", reads=READS),
        matrix_state(2, T, 2, 5, 20, "head", reads=((2, True), (1, False))),
        matrix_state(1, T, 2, 3, 24, "none", rank=2, outer=2, reads=((1, False),)),
        matrix_state(1, T, 2, 6, 16, rank=0, value_decay=True, reads=((1, True), (1, False))),
        matrix_state(1, T, 2, 6, 16, rank=0, outer=0, reads=()),
        matrix_state(1, T, 3, 6, 16, axes="vkh"),
    ]
    for T in (1, 3)
)
LARGE = [
    *(product(kind, 1, 130, 520) for kind in KINDS),
    product("f32", 8, 258, 256),
    product("bf16", 64, 65, 200),
    product("i8", 40, 33, 128),
    linear(2, 64, (300,), (1, 1, 300)),
    matrix_state(1, 64, 2, 9, 64),
    matrix_state(2, 8, 3, 16, 64, "head", rank=0, reads=((3, True),)),
]
ON_FIBERS = [PRODUCTS[5], PRODUCTS[9], PRODUCTS[11], *LARGE[4:6], *STEPS[1:3], *BLOCKS[:2], LARGE[-2]]


@pytest.mark.parametrize("case", [*PRODUCTS, *SCANS, *STEPS, *BLOCKS, *LARGE], ids=str)
def test_on_the_cpu(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", [*PRODUCTS, *SCANS, *STEPS[:4], *BLOCKS[:7]], ids=str)
def test_as_gpus_get_it_with_every_index_checked(case: Case) -> None:
    check(case, "PYTHON")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize("case", ON_FIBERS, ids=str)
def test_the_cuda_source_with_threads_as_fibers(case: Case, tmp_path: Path) -> None:
    with fibers(tmp_path) as built:
        check(case)
    assert built


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_the_cuda_source_of_choices_with_threads_as_fibers(tmp_path: Path) -> None:
    logits = np.random.default_rng(5).standard_normal((4, 30)).astype(np.float32)
    logits[2, 7], logits[3] = np.nan, -np.inf
    pick = np.array([[0, 3], [3, 1], [1, 3]], np.int32)
    with fibers(tmp_path) as built:
        heat, top_p, u = Tensor([1.0, 0.0, 1.0, 1.0]), Tensor([0.9, 1.0, 0.9, 0.9]), Tensor([0.7, 0.5, 0.5, 0.5])
        token = sample(Tensor(logits), heat, top_p, 8, u).numpy()
        tiles = group_by_expert(Tensor(pick), 4, 2)
    assert token.tolist() == [drawn(logits[0], 1.0, 0.9, 8, 0.7), int(logits[1].argmax()), -1, -1]
    assert tiles.expert.numpy().tolist() == [0, 1, 3, 3, -1, -1]
    assert tiles.pair.numpy()[:4].tolist() == [[0, 6], [3, 4], [1, 2], [5, 6]]
    assert len(built) == 3


# --- expressions computed where they are read ------------------------------------------------------------------------
def _f32(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def _mixed(x: Any, s: Any, m: Any, w: Any, b: Any, mu: Any, var: Any) -> Any:
    """A token shift of a layer norm: the norm is used twice."""
    y = (x - mu) / (var + 1e-5) ** 0.5 * w + b
    return y + (s - y) * m


@pytest.mark.parametrize("device", [None, "PYTHON"])
def test_an_expression_given_to_a_product(device: str | None) -> None:
    given = [_f32(1, 1, 40), _f32(1, 40), *(_f32(40) for _ in range(3))]
    x, s, m, w, b = (Tensor(a, device=device).realize() for a in given)
    wide = [a.astype(np.float64) for a in given]
    want = _mixed(*wide, wide[0].mean(-1, keepdims=True), wide[0].var(-1, keepdims=True))
    mixed = _mixed(x, s, m, w, b, x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0))
    forms, leaves = expressions([mixed.reshape(1, 40)], 3)
    assert len(forms.leaves) == len(leaves) == 3 and s.uop.base in [leaf.uop for leaf in leaves]
    matrix = _f32(12, 40)
    y = row_product(Tensor(matrix, device=device).realize(), mixed.reshape(1, 40)).numpy()
    assert distance(y, want.reshape(1, 40) @ matrix.T) < 3e-6
    folded = mixed.reshape(1, 40).relu() ** 2
    y = row_product(Tensor(matrix, device=device).realize(), folded).numpy()
    assert distance(y, np.maximum(want.reshape(1, 40), 0) ** 2 @ matrix.T) < 3e-6


@pytest.mark.parametrize("device", [None, "PYTHON"])
def test_expressions_given_to_a_step_and_to_a_scan(device: str | None) -> None:
    q, k, v, S = _f32(1, 1, 10), _f32(2, 5), _f32(1, 1, 2, 3), _f32(1, 2, 3, 5)
    slot = Tensor(S, device=device).contiguous().realize()
    tq, tk, tv = (Tensor(a, device=device).realize() for a in (q, k, v))
    y, _ = chunk_scan(
        [(tq * 2).reshape(1, 1, 2, 5)], [True], (-tk.exp()).exp().reshape(1, 1, 2, 5),
        (tk * tq.reshape(1, 1, 2, 5)).reshape(1, 1, 2, 1, 5), tv.permute(0, 1, 2, 3).reshape(1, 1, 2, 1, 3) + 1, [slot],
    )  # fmt: skip
    new = S * np.exp(-np.exp(k.astype(np.float64)))[:, None] + np.einsum("hv,hk->hvk", v[0, 0] + 1, k * q.reshape(2, 5))
    assert distance(y[0].numpy(), np.einsum("bhvk,hk->bhv", new, 2 * q.reshape(2, 5))[:, None]) < 3e-6
    assert distance(slot.numpy(), new) < 3e-6
    s = Tensor(S[:, 0], device=device).contiguous().realize()
    after, _ = linear_scan(tk[1].sigmoid(), tv[:, :, 1:].reshape(1, 1, 3, 1) * tq[..., :5].reshape(1, 1, 1, 5), s)
    want = S[:, 0] / (1 + np.exp(-k[1].astype(np.float64))) + v[:, 0, 1, :, None] * q[:, 0, None, :5]
    assert distance(after.numpy(), want[:, None]) < 3e-6


def test_a_long_expression_has_a_kernel_of_its_own() -> None:
    x = Tensor(_f32(4)).realize()
    for n in range(60):
        x = x * 0.99 + n
    forms, leaves = expressions([x, (x + 1) * 2], 4)
    assert len(leaves) == len(forms.leaves) == 1


# --- what the source says ------------------------------------------------------------------------------------------
STEP = chunk.Size(1, 1, (16, 64, 64), "hvk", 1, ((1, True),), "key", 1, 1, False)
MATVEC = products.Size(1, 1, 1024, 1024, 1, "bf16", False, False)
FEW = products.Size(1, 8, 4096, 1024, 1, "f32", False, False)
TILES = products.Size(1, 64, 4096, 1024, 1, "bf16", False, False)


def _forms(*shapes: tuple[int, ...]) -> Forms:
    """Operands that are buffers."""
    return expressions([Tensor.empty(*shape) for shape in shapes], 1)[0]


def _step() -> UOp:
    vector, one = (1, 1, 16, 64), (1, 1, 16, 1, 64)
    return chunk._written(STEP, _forms(vector, vector, one, one, one, one), True)


def _product(size: products.Size) -> UOp:
    return products._written(size, _forms((size.N, size.K)), True)


def test_a_step_reads_the_state_once_and_writes_it_once() -> None:
    kernel = rendered(_step(), renderer())
    threads = int(np.prod(kernel.grid) * np.prod(kernel.block))
    state = re.escape("data1_65536")
    loads = re.findall(rf"float4 val\d+ = \(\*\(\(float4\*\)\(\({state}", kernel.source)
    stores = re.findall(rf"^  \*\(\(float4\*\)\(\({state}\S*\)\) = ", kernel.source, re.M)
    assert len(re.findall(rf"\b{state}\+", kernel.source)) == len(loads) + len(stores)
    assert threads * len(loads) * 4 == threads * len(stores) * 4 == 16 * 64 * 64
    assert "for (" not in kernel.source


@pytest.mark.parametrize(("size", "vector"), [(MATVEC, "uint4"), (FEW, "float4")], ids=("one token", "eight tokens"))
def test_a_product_reads_each_weight_once_16_bytes_at_a_time(size: products.Size, vector: str) -> None:
    kernel = rendered(_product(size), renderer())
    words = size.M * size.K // (2 if vector == "uint4" else 1)
    weights = f"data1_{words}"
    loads = re.findall(rf"{vector} val\d+ = \(\*\(\({vector}\*\)\(\({weights}", kernel.source)
    assert len(re.findall(rf"\b{weights}\+", kernel.source)) == len(loads)
    turns = int(found[1]) if (found := re.search(r"< (\d+); Lidx4", kernel.source)) else 1
    assert int(np.prod(kernel.grid) * np.prod(kernel.block)) * turns * len(loads) * 4 == words
    assert "(lidx0<<2)" in kernel.source  # neighbouring threads, neighbouring pieces
    assert kernel.source.count("__syncthreads") <= 2


def test_a_tiled_product_reads_each_weight_once_for_64_tokens() -> None:
    assert products._tile(TILES)[0] == 64
    kernel = rendered(_product(TILES), renderer())
    assert kernel.grid[1] == 1  # one block of tokens: rows are not read again for others


@pytest.mark.parametrize("arch", ["gfx1100"])
def test_the_source_for_amd_moves_the_same(arch: str) -> None:
    from tinygrad.helpers import Target
    from tinygrad.renderer.llvmir import AMDLLVMRenderer

    internals.render_without_llvm()
    how = AMDLLVMRenderer(Target("NULL", "AMDLLVM", arch))
    step = rendered(_step(), how).source
    places = set(re.findall(r"(%\w+) = getelementptr inbounds float, float\* %data1,", step))
    loads = [p for p in re.findall(r"= load <4 x float>, <4 x float>\* (%\w+)", step) if p in places]
    stores = [p for p in re.findall(r"store <4 x float> %\w+, <4 x float>\* (%\w+)", step) if p in places]
    assert sorted(loads) == sorted(stores) == sorted(places)
    for size in (MATVEC, TILES):
        assert "load <4 x i32>" in rendered(_product(size), how).source or size is TILES


# --- picks and experts ---------------------------------------------------------------------------------------------
def ranked(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-np.where(np.isnan(x), -np.inf, x), axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(x, order, -1), order


@pytest.mark.parametrize("device", [None, "PYTHON"])
@pytest.mark.parametrize(("shape", "k"), [((3, 8), 2), ((2, 3, 5), 5), ((1, 70), 7), ((2, 80), 3), ((2, 1), 1)])
def test_top_is_exact_with_ties_and_nan(
    shape: tuple[int, ...], k: int, device: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picks, "WIDE", 72)
    monkeypatch.setattr(picks, "PIECE", 16)
    rng = np.random.default_rng(k)
    x = rng.standard_normal(shape).round(1).astype(np.float32)
    x.reshape(-1)[::13], x.reshape(-1)[1::17], x.reshape(-1)[2::19] = np.nan, -np.inf, np.inf
    for given in (x, np.full(shape, np.nan, np.float32)):
        values, places = top(Tensor(given, device=device), k)
        want, order = ranked(given, k)
        np.testing.assert_array_equal(values.numpy(), want)
        np.testing.assert_array_equal(places.numpy(), order)


def test_the_largest_64_of_a_vocabulary() -> None:
    x = np.random.default_rng(0).standard_normal((1, 65536)).astype(np.float32)
    np.testing.assert_array_equal(top(Tensor(x), 64)[1].numpy(), ranked(x, 64)[1])
    assert argmax(Tensor(x)).numpy().tolist() == [int(x.argmax())]


def drawn(logits: np.ndarray, temperature: float, top_p: float, k: int, u: float) -> int:
    """As `runtime.sampling` draws."""
    order = np.argsort(-logits, kind="stable")[:k]
    if temperature <= 0:
        return int(order[0])
    p = np.exp((logits[order] - logits[order[0]]) / np.float64(temperature))
    p /= p.sum()
    p = p[: int(np.searchsorted(np.cumsum(p), top_p)) + 1]
    return int(order[min(int(np.searchsorted(np.cumsum(p / p.sum()), u, side="right")), len(p) - 1)])


@pytest.mark.parametrize(("k", "device"), [(1, None), (64, None), (6, "PYTHON")])
def test_a_sample_is_the_token_whose_share_holds_u(k: int, device: str | None) -> None:
    rng = np.random.default_rng(k)
    B, V = (64, 300) if device is None else (24, 40)
    logits = 3 * rng.standard_normal((B, V)).astype(np.float32)
    temperature = rng.choice([0.0, 0.5, 1.0, 2.0], B).astype(np.float32)
    top_p, u = rng.choice([0.1, 0.5, 0.9, 1.0], B).astype(np.float32), rng.random(B).astype(np.float32)
    x, heat, p, v = (Tensor(a, device=device).realize() for a in (logits, temperature, top_p, u))
    found = sample(x, heat, p, k, v).numpy()
    assert found.tolist() == [drawn(logits[b], temperature[b], top_p[b], k, u[b]) for b in range(B)]


@pytest.mark.parametrize("device", [None, "PYTHON"])
def test_settings_that_are_nan_choose_a_token(device: str | None) -> None:
    bad = [np.zeros((2, 9)), [1.0, np.nan], [0.5, np.nan], [0.5, 1.0]]
    x, heat, p, u = (Tensor(np.array(a, np.float32), device=device).realize() for a in bad)
    assert all(0 <= t < 9 for t in sample(x, heat, p, 4, u).numpy())


@pytest.mark.parametrize("device", [None, "PYTHON"])
@pytest.mark.parametrize("k", [1, 4, 200])
def test_nothing_is_chosen_of_what_is_not_finite(device: str | None, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """-1 for a NaN anywhere, for infinity, and where there is nothing else than minus infinity."""
    monkeypatch.setattr(picks, "WIDE", 8)
    monkeypatch.setattr(picks, "PIECE", 4)
    x = np.zeros((6, 9), np.float32)
    x[0, 8] = x[1, 0] = np.nan
    x[2, 3], x[3], x[4, 2:], x[5, 1] = np.inf, -np.inf, -np.inf, 1
    heat, p, u = (Tensor(np.full(6, a, np.float32), device=device).realize() for a in (1.0, 0.2, 0.5))
    assert sample(Tensor(x, device=device), heat, p, k, u).numpy().tolist()[:5] == [-1, -1, -1, -1, 0]
    assert argmax(Tensor(x, device=device)).numpy().tolist() == [-1, -1, -1, -1, 0, 1]


@pytest.mark.parametrize("device", [None, "PYTHON"])
@pytest.mark.parametrize(("N", "k", "experts", "tile"), [(5, 2, 4, 2), (1, 2, 8, 4), (20, 1, 2, 16)])
def test_tokens_grouped_by_expert(N: int, k: int, experts: int, tile: int, device: str | None) -> None:
    rng = np.random.default_rng(N)
    pick = np.stack([rng.permutation(experts)[:k] for _ in range(N)]).astype(np.int32)
    x, each = (rng.standard_normal(s).astype(np.float32) for s in ((N, 12), (N, k, 3)))
    w = rng.standard_normal((experts, 10, 12)).astype(np.float32)
    a, b, c, d = (Tensor(given, device=device).realize() for given in (pick, x, w, each))
    tiles = group_by_expert(a, experts, tile)
    y = back(row_product(c, rows(b, tiles), pick=tiles.expert), tiles)
    assert distance(y.numpy(), np.einsum("nkmd,nd->nkm", w[pick].astype(np.float64), x)) < 2e-7
    np.testing.assert_array_equal(back(rows(d, tiles, each=True), tiles).numpy(), each)
    used = tiles.expert.numpy()
    counts = np.bincount(pick.flatten(), minlength=experts)
    assert [int((used == e).sum()) for e in range(experts)] == [-(-int(c) // tile) for c in counts]


@pytest.mark.parametrize("kind", KINDS)
def test_widened(kind: str) -> None:
    w, scale, value = stored(np.random.default_rng(1), (3, 5), kind)
    found = widen(Tensor(w), None if scale is None else Tensor(scale)).numpy()
    assert distance(found, value) < 1e-7


def test_what_folds_to_a_constant_may_be_given_to_a_kernel() -> None:
    zero = Tensor.rand(1, 8) * 0
    assert picks.top(zero, 3)[1].numpy().tolist() == [[0, 1, 2]]
    assert picks.top((Tensor.arange(5) * 3) % 4, 2)[0].numpy().tolist() == [3.0, 2.0]
