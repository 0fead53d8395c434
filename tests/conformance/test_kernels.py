"""The CPU kernels against the float64 loop: every decay, shape and count; the same bits whatever the threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cdrmix.runtime.torch import chunk_scan, linear_scan, native
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


@needs_compiler
def test_gradients_by_differences() -> None:
    given = [x.double().requires_grad_() for x in operands(18, 3, 2, rank=1, batch=(1, 1)).all()[:7] if x is not None]
    assert torch.autograd.gradcheck(native.chunk_scan, given)


@needs_compiler
def test_same_bits_for_any_threads() -> None:
    given = operands(70, 64, 64, rank=1, batch=(3, 3)).all()[:7]
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            runs.append(gradients(native.chunk_scan, given, torch.float32))
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
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(ops.chunk_scan.default, (q, w, k, v, a, b, S0, True), test_utils=tests)
    y, S, x, kept = ops.chunk_scan(q, w, k, v, a, b, S0, True)
    torch.library.opcheck(
        ops.chunk_scan_backward.default, (q, w, k, v, a, b, x, kept, torch.ones_like(y), S), test_utils=tests
    )
    line, first = torch.rand(2, 9, 5), torch.rand(2, 5)
    torch.library.opcheck(ops.linear_scan.default, (line, line, first), test_utils=tests)
    torch.library.opcheck(ops.linear_scan_backward.default, (line, line, first, line), test_utils=tests)


@needs_compiler
@pytest.mark.parametrize("decay", DECAYS)
def test_linear_scan(decay: str) -> None:
    torch.manual_seed(0)
    given = [DECAYS[decay](torch.randn(2, 65, 7, 100)).float(), torch.randn(2, 65, 7, 100), torch.randn(2, 7, 100)]
    true = gradients(lambda a, b, h: element_loop(lambda x, t: a[:, t] * x + b[:, t], h, 65), given, torch.float64)
    assert native.usable(given[2])
    assert worst(gradients(linear_scan, given, torch.float32), true) <= TOLERANCE


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
