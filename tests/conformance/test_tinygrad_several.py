"""Products in one launch, rows of a table, means of rows: their CUDA source on a CPU, threads as fibers, and the plain
kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tinygrad")

from tests.conformance import tinygrad_device as tinygrad_device  # before tinygrad

# isort: split
from cdrmix.runtime.encodings import ENCODINGS
from cdrmix.runtime.tinygrad import lookup, means, several
from tinygrad import Tensor

from cdrmix.ir.nodes import Stored
from tests.conformance import tinygrad_fibers
from tests.gpu.build import needs_compilers

MATRICES = {
    "of a layer": (1, [(32, 32), (4, 32), (70, 32)]),
    "of several widths": (2, [(16, 24), (33, 40)]),
    "of odd sizes": (1, [(5, 3), (7, 9)]),
    "of eight tokens": (8, [(64, 64), (32, 64)]),
    "that are long": (1, [(2048, 64), (300, 128)]),
}


@pytest.fixture
def as_fibers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinygrad_fibers, "MODULES", (*tinygrad_fibers.MODULES, lookup, means, several))


def _stored(shape: tuple[int, ...], stored: Stored) -> tuple[np.ndarray, Tensor, Tensor | None]:
    """Values, and the tensors that hold them."""
    found = ENCODINGS[stored].narrow(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    scale = found.get(".scale")
    return (
        ENCODINGS[stored].widen(found, shape),
        Tensor(found[""]).realize(),
        None if scale is None else Tensor(scale).realize(),
    )


def _check_products(tokens: int, matrices: list[tuple[int, int]], stored: Stored) -> None:
    rng = np.random.default_rng(1)
    values, W, scale = zip(*(_stored(shape, stored) for shape in matrices), strict=True)
    x = [rng.standard_normal((tokens, k)).astype(np.float32) for _, k in matrices]
    found = several.row_products(W, [Tensor(v).realize() for v in x], scale)
    for y, v, w in zip(found, x, values, strict=True):
        assert np.abs(y.numpy() - v @ w.T).max() < 2e-5 * np.abs(w).sum(-1).max()


@needs_compilers
@pytest.mark.parametrize("stored", ["f32", "f16", "bf16", "i8"])
@pytest.mark.parametrize("case", MATRICES)
def test_products_of_one_launch(case: str, stored: Stored, as_fibers: None, tmp_path: Path) -> None:
    with tinygrad_fibers.fibers(tmp_path) as built:
        _check_products(*MATRICES[case], stored)
        assert len(built) == 1 and built[0].source.count("__syncthreads") >= 1


@needs_compilers
def test_products_that_share_no_launch(as_fibers: None, tmp_path: Path) -> None:
    with tinygrad_fibers.fibers(tmp_path) as built:
        _check_products(9, [(16, 24), (24, 24)], "f32")
        assert len(built) == 2


def test_products_on_a_cpu() -> None:
    _check_products(*MATRICES["of a layer"], "bf16")


@pytest.mark.parametrize("stored", ["f32", "f16", "bf16", "i8"])
@pytest.mark.parametrize("width", [1, 200])
def test_rows_of_a_table_on_a_cpu(stored: Stored, width: int) -> None:
    _check_rows(width, stored)


@needs_compilers
@pytest.mark.parametrize("stored", ["bf16", "i8"])
@pytest.mark.parametrize("width", [1, 128, 200])
def test_rows_of_a_table(width: int, stored: Stored, as_fibers: None, tmp_path: Path) -> None:
    with tinygrad_fibers.fibers(tmp_path):
        _check_rows(width, stored)


def _check_rows(width: int, stored: Stored) -> None:
    values, W, scale = _stored((50, width), stored)
    at = np.asarray([3, 49, 0, -4, 77, 3], np.int32)
    found = lookup.table_rows(W, Tensor(at).realize(), scale)
    assert np.array_equal(found.numpy(), values[at.clip(0, 49)])


ROWS = [(1, 1, 2048), (2, 3, 5, 64), (1, 1, 1), (1, 2, 7), (1, 1, 300), (2, 1, 16, 16), (1, 1, 33)]


@needs_compilers
@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_means_of_rows(shape: tuple[int, ...], as_fibers: None, tmp_path: Path) -> None:
    with tinygrad_fibers.fibers(tmp_path) as built:
        _check_means(shape)
        assert len(built) == 3


def test_means_on_a_cpu() -> None:
    _check_means((2, 3, 5, 64))


def _check_means(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32) + 3
    given, wide = Tensor(x).realize(), x.astype(np.float64)
    middle, spread = means.moments(given)
    for found, wanted in (
        (middle, wide.mean(-1)),
        (spread, wide.var(-1)),
        (means.mean(given), wide.mean(-1)),
        (means.mean_square(given), (wide**2).mean(-1)),
    ):
        assert np.allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-6)
