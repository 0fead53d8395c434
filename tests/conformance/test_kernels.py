"""The CPU kernels against the float64 loop: every decay, shape and count; the same bits whatever the threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from cdrmix.runtime.torch import chunk_scan, convolve, coupled_scan, linear_scan, maxplus_scan, native
from torch import Tensor

from tests.conformance.loops import DECAYS, correlated, element_loop, gradients, matrix_loop, operands, worst

TOLERANCE = 1e-5

needs_compiler = pytest.mark.skipif(native.kernels() is None, reason="the CPU kernels cannot be built here")


@needs_compiler
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("decay", DECAYS)
def test_decays(decay: str, rank: int) -> None:
    given = operands(200, 64, 64, rank=rank, decay=decay, batch=(1, 2)).all()
    found = gradients(native.chunk_scan, given[:7], torch.float32)
    assert worst(found, gradients(matrix_loop, given[:7], torch.float64)) <= TOLERANCE


@needs_compiler
@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_correlated_keys(strength: float) -> None:
    given = correlated(strength)
    found = gradients(native.chunk_scan, given, torch.float32)
    assert worst(found, gradients(matrix_loop, given, torch.float64)) <= TOLERANCE


@needs_compiler
@pytest.mark.parametrize("T", [1, 2, 15, 16, 17, 63, 64, 65])
def test_lengths(T: int) -> None:
    given = operands(T, 24, 20, rank=1, queries=2).all()[:7]
    assert (
        worst(gradients(native.chunk_scan, given, torch.float32), gradients(matrix_loop, given, torch.float64))
        <= TOLERANCE
    )


@needs_compiler
@pytest.mark.parametrize(("K", "V"), [(1, 1), (5, 3), (16, 16), (33, 70), (64, 64), (48, 96), (128, 128), (256, 256)])
@pytest.mark.parametrize("rank", [0, 1])
def test_head_sizes(K: int, V: int, rank: int) -> None:
    given = operands(21, K, V, rank=rank).all()[:7]
    assert (
        worst(gradients(native.chunk_scan, given, torch.float32), gradients(matrix_loop, given, torch.float64))
        <= TOLERANCE
    )


@needs_compiler
@pytest.mark.parametrize("rank", [0, 1, 2, 3])
@pytest.mark.parametrize("addends", [0, 1, 2, 3])
@pytest.mark.parametrize("queries", [1, 2, 3])
@pytest.mark.parametrize("width", [None, 1, 24])
def test_counts(rank: int, addends: int, queries: int, width: int | None) -> None:
    decay = None if width is None else "-1 to 1"
    given = operands(19, 24, 20, queries, rank, addends, decay, width).all()[:7]
    true = gradients(matrix_loop, given, torch.float64)
    assert worst(gradients(native.chunk_scan, given, torch.float32), true) <= TOLERANCE
    assert worst(gradients(native.chunk_scan, given, torch.float64), true) <= 1e-13


@needs_compiler
def test_refuses_more_than_it_counts() -> None:
    given = operands(3, 8, 8, queries=native.MOST + 1).all()
    with pytest.raises(RuntimeError, match="too many"):
        native.chunk_scan(*given[:7])  # type: ignore[arg-type]
    y, S = chunk_scan(*given)  # type: ignore[arg-type]  # the torch form takes over
    true = matrix_loop(*given)  # type: ignore[arg-type]
    assert worst([y, S], true) <= TOLERANCE


KINDS = ["none", "scalar", "key", "mix", "values", "delta", "values delta", "mix delta", "mix values delta"]
RESET = torch.zeros(2, 41, dtype=torch.bool)
RESET[0, [0, 5, 31, 32]] = RESET[1, [7, 40]] = True


@needs_compiler
@pytest.mark.parametrize("start", [None, "zero", "given"])
@pytest.mark.parametrize("kind", KINDS)
def test_classes_and_documents(kind: str, start: str | None) -> None:
    """Every way in which the old state is carried on, and what it is at a document's start, 16-token chunks or not."""
    width = {"none": None, "scalar": 1}.get(kind, 24)
    decay = None if width is None else "-1 to 1"
    q, w, k, v, S0, a, b, wv = operands(41, 24, 20, 2, int("delta" in kind), 2, decay, width).all()
    w = 0.5 * torch.randn(2, 41, 2, 3, 3, 8) if "mix" in kind else w
    wv = torch.tanh(torch.randn(2, 41, 2, 20)) if "values" in kind else wv
    reset, initial = (None if start is None else RESET), (torch.randn(20, 24) if start == "given" else None)
    given = [q, w, k, v, S0, a, b, wv, initial]

    def loop(*xs: Tensor | None) -> tuple[Tensor, Tensor]:
        return matrix_loop(*xs[:8], reset=reset, initial=xs[8])  # type: ignore[arg-type]

    def kernel(*xs: Tensor | None) -> tuple[Tensor, Tensor]:
        return native.chunk_scan(*xs[:8], reset, xs[8])  # type: ignore[arg-type]

    true = gradients(loop, given, torch.float64)
    assert worst(gradients(kernel, given, torch.float32), true) <= TOLERANCE
    assert worst(gradients(kernel, given, torch.float64), true) <= 1e-13


@needs_compiler
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("decay", DECAYS)
def test_decays_along_the_values(decay: str, rank: int) -> None:
    given = operands(200, 64, 64, rank=rank, batch=(1, 2)).all()
    given[7] = DECAYS[decay](torch.randn(1, 200, 2, 64)).float()
    found = gradients(native.chunk_scan, given, torch.float32)
    assert worst(found, gradients(matrix_loop, given, torch.float64)) <= TOLERANCE


@needs_compiler
@pytest.mark.parametrize(("K", "V"), [(1, 1), (5, 3), (33, 70), (128, 128)])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("states", [0, 2])
def test_head_sizes_of_the_rarer_classes(K: int, V: int, rank: int, states: int) -> None:
    """A decay along the values, with as many mixed states of K keys each, or none."""
    q, w, k, v, S0, a, b, _ = operands(21, K * max(states, 1), V, rank=rank).all()
    w = 0.5 * torch.randn(2, 21, 2, states, states, K) if states else w
    given = [q, w, k, v, S0, a, b, torch.tanh(torch.randn(2, 21, 2, V))]
    found = gradients(native.chunk_scan, given, torch.float32)
    assert worst(found, gradients(matrix_loop, given, torch.float64)) <= TOLERANCE


@needs_compiler
def test_gradients_by_differences() -> None:
    given = [x.double().requires_grad_() for x in operands(18, 3, 2, rank=1, batch=(1, 1)).all()[:7] if x is not None]
    assert torch.autograd.gradcheck(native.chunk_scan, given)


@needs_compiler
def test_same_bits_for_any_threads() -> None:
    given = operands(70, 64, 64, rank=1, batch=(3, 3)).all()
    given[7] = torch.rand(3, 70, 3, 64)
    reset, initial = torch.rand(3, 70) < 0.1, torch.randn(64, 64)
    scans: list[Callable[..., Tensor | tuple[Tensor, ...]]] = [
        native.chunk_scan,
        lambda *xs: native.chunk_scan(*xs, reset, initial),
        lambda q, w, *_: coupled_scan(w.unsqueeze(3) / 3, q[..., 0, :], w[:, 0], reset),
        lambda q, w, *_: convolve(q[..., 0, :], w[0, :4], w[:, :3], None, reset),
        lambda q, w, *_: maxplus_scan(w, q[..., 0, :], w[:, 0], "logaddexp", reset),
    ]
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            runs.append([x for scan in scans for x in gradients(scan, given, torch.float32)])
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(x, y) for x, y in zip(run, runs[0], strict=True))


@needs_compiler
def test_strided_operands_and_expanded_gradients() -> None:
    q, w, k, v, S0, a, b, _ = operands(20, 16, 16, rank=1).all()
    assert q is not None and w is not None and k is not None and v is not None and S0 is not None
    plain = native.chunk_scan(q, w, k, v, S0, a, b)

    def strided(x: Tensor) -> Tensor:
        return torch.stack([x, x], -1)[..., 0].requires_grad_()

    q2 = strided(q)
    y, S = native.chunk_scan(q2, strided(w), strided(k), strided(v), strided(S0), a, b)
    assert torch.equal(y, plain[0]) and torch.equal(S, plain[1])
    y.sum().backward()  # type: ignore[no-untyped-call]  # the gradient is one number, expanded
    assert q2.grad is not None and torch.isfinite(q2.grad).all()


@needs_compiler
def test_denormals_are_kept() -> None:
    a, b, h0 = torch.full((1, 2, 1), 0.5), torch.zeros(1, 2, 1), torch.full((1, 1), 4e-38)
    assert float(linear_scan(a, b, h0)[0, 1, 0]) == pytest.approx(1e-38, rel=1e-5)
    q, k, S0 = torch.ones(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1), torch.full((1, 1, 1, 1), 1e-38)
    _, S = native.chunk_scan(q, torch.full((1, 1, 1, 1), 0.1), k, k, S0)
    assert float(S) == pytest.approx(1e-39, rel=1e-5)


@needs_compiler
def test_operators_are_well_formed() -> None:
    ops = native.kernels()
    assert ops is not None
    q, w, k, v, S0, a, b, _ = operands(20, 16, 12, rank=1).all()
    reset, initial, wv = torch.rand(2, 20) < 0.1, torch.randn_like(S0), torch.rand(2, 20, 2, 12)  # type: ignore[arg-type]
    line, first = torch.rand(2, 20, 2, 5), torch.rand(2, 2, 5)
    mix, flat = torch.rand(2, 20, 2, 2, 5), (line.flatten(2), line.flatten(2), first.flatten(1))

    def check(name: str, *given: object) -> None:
        op = getattr(ops, name).default
        torch.library.opcheck(op, given, test_utils=("test_schema", "test_faketensor"))

    for more in [(None, None, None), (wv, reset, initial)]:
        value, *documents = more
        check("chunk_scan", q, w, k, v, a, b, value, S0, *documents, True)
        y, S, x, kept = ops.chunk_scan(q, w, k, v, a, b, value, S0, *documents, True)
        check("chunk_scan_backward", q, w, k, v, a, b, *more, x, kept, torch.ones_like(y), S)
        begin = None if more[1] is None else first
        check("linear_scan", mix, line, first, documents[0], begin)
        check("linear_scan_backward", mix, line, first, documents[0], begin, line)
        begin = begin if begin is None else begin.flatten(1)
        check("maxplus_scan", *flat, documents[0], begin, True)
        before = None if more[0] is None else flat[0][:, :3]
        age = None if more[0] is None else torch.arange(20).expand(2, 20).contiguous()
        check("convolve", flat[0], flat[0][0, :4], before, age)
        check("convolve_backward", flat[0], flat[0][0, :4], before, age, flat[0])
        check("maxplus_scan_backward", flat[0], flat[1], flat[1], flat[2], documents[0], begin, True, flat[0])


# --- elementwise states (with documents: test_scans, which runs them with the kernels and without) -----------------
@needs_compiler
@pytest.mark.parametrize("decay", DECAYS)
def test_linear_scan(decay: str) -> None:
    torch.manual_seed(0)
    given = [DECAYS[decay](torch.randn(2, 65, 7, 100)).float(), torch.randn(2, 65, 7, 100), torch.randn(2, 7, 100)]
    true = gradients(lambda a, b, h: element_loop(lambda x, t: a[:, t] * x + b[:, t], h, 65), given, torch.float64)
    assert native.usable(given[2])
    assert worst(gradients(linear_scan, given, torch.float32), true) <= TOLERANCE


@needs_compiler
@pytest.mark.parametrize("states", [1, 2, 3])
@pytest.mark.parametrize("decay", DECAYS)
def test_coupled_scan(decay: str, states: int) -> None:
    torch.manual_seed(0)
    A = DECAYS[decay](torch.randn(2, 65, states, states, 700)).float() / states
    given = [A, torch.randn(2, 65, states, 700), torch.randn(2, states, 700)]

    def loop(A: Tensor, b: Tensor, h: Tensor) -> Tensor:
        return element_loop(lambda x, t: torch.einsum("bfgs,bgs->bfs", A[:, t], x) + b[:, t], h, 65)

    found = gradients(coupled_scan, given, torch.float32)
    assert worst(found, gradients(loop, given, torch.float64)) <= TOLERANCE


@needs_compiler
@pytest.mark.parametrize("combine", ["max", "logaddexp"])
def test_maxplus_scan(combine: Literal["max", "logaddexp"]) -> None:
    """Ties, which share the gradient, -1e30, infinities and NaN as torch has them."""
    torch.manual_seed(0)
    join = torch.maximum if combine == "max" else torch.logaddexp
    d, b, p0 = -torch.rand(2, 65, 600), torch.randn(2, 65, 600), torch.full((2, 600), -1e30)
    d[:, ::3], b[:, ::3] = 0.0, -1e30
    given = [d.round(decimals=1), b.round(decimals=1), p0]

    def loop(d: Tensor, b: Tensor, p: Tensor) -> Tensor:
        return element_loop(lambda x, t: join(x + d[:, t], b[:, t]), p, 65)

    def scan(d: Tensor, b: Tensor, p: Tensor) -> Tensor:
        return maxplus_scan(d, b, p, combine)

    found = gradients(scan, given, torch.float32)
    assert worst(found, gradients(loop, given, torch.float32)) <= TOLERANCE  # the same dtype: it decides what is a tie
    far = torch.tensor([[[torch.inf, -torch.inf, torch.nan, 1.0]]])
    for other in (far, far.flip(-1), torch.zeros_like(far)):
        want = join(torch.zeros(1, 1, 4) + far, other)
        torch.testing.assert_close(maxplus_scan(far, other, torch.zeros(1, 4), combine), want, equal_nan=True)


# --- the build -----------------------------------------------------------------------------------------------------
def _run(code: str, cache: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A process of its own with an empty cache."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), **env}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


SCAN = """
import torch, warnings
from cdrmix.runtime.torch import linear_scan
one = torch.ones(1, 3, 1)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for _ in range(2):
        h = linear_scan(one, one, torch.zeros(1, 1))
print(h.flatten().tolist(), len(told), *[w.message for w in told])
"""


def test_no_compiler_warns_once_and_runs_the_torch_form(tmp_path: Path) -> None:
    run = _run(SCAN, tmp_path, CXX="/nonexistent/c++", CDRMIX_KERNELS="auto")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("[1.0, 2.0, 3.0] 1 ") and "no C++ compiler (/nonexistent/c++)" in run.stdout


def test_a_failing_build_tells_what_the_compiler_said(tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\ncase "$1" in --version) echo 1;; *) echo out of luck; exit 1;; esac\n')
    compiler.chmod(0o755)
    run = _run(SCAN, tmp_path, CXX=str(compiler), CDRMIX_KERNELS="auto")
    assert run.stdout.startswith("[1.0, 2.0, 3.0] 1 ") and "out of luck" in run.stdout
    assert not list(tmp_path.rglob("*.so"))


def test_kernels_can_be_forced(tmp_path: Path) -> None:
    run = _run(SCAN, tmp_path, CXX="/nonexistent/c++", CDRMIX_KERNELS="torch")
    assert run.stdout.strip() == "[1.0, 2.0, 3.0] 0"
    run = _run(SCAN, tmp_path, CXX="/nonexistent/c++", CDRMIX_KERNELS="native")
    assert run.returncode != 0 and "CannotBuild" in run.stderr
    run = _run(SCAN, tmp_path, CDRMIX_KERNELS="both")
    assert run.returncode != 0 and "CDRMIX_KERNELS is `both`" in run.stderr
    run = _run(SCAN, tmp_path, CXX='g++ "', CDRMIX_KERNELS="")
    assert run.stdout.startswith("[1.0, 2.0, 3.0] 1 ") and "which is no command" in run.stdout
