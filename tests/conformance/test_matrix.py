"""Products of packed matrices, by the kernels of every instruction set that this processor has.

Against float64; the same bits for a vector by itself and among others; whole sums the same in all of them.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping
from ctypes import c_int, c_size_t, c_void_p
from itertools import product
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from cdrmix.codegen.c.program import KERNELS as KERNEL_FILES
from cdrmix.runtime.encodings import ENCODINGS

from .c_program import CC, STRICT, Array, compile_c, needs_compiler, rms

pytestmark = needs_compiler

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "runtime" / "c" / name for name in (*KERNEL_FILES, "weights.c", "json.c", "errors.c")]
NAMES = ("f32", "f16", "bf16", "i8", "i8g32", "i4")
"""The encodings in the order of matrix.h."""
KERNELS = ("plain", "avx2", "avx2_vnni", "avx512", "avx512_bf16")
SHAPES = [(8, 1), (16, 32), (37, 53), (5, 3), (130, 300), (64, 768)]
ROUNDED = {"i8": 8e-3, "i8g32": 8e-3, "i4": 8e-3}
"""Relative RMS errors where the vectors are rounded; bf16 where pairs are multiplied."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels as a library."""
    out = tmp_path_factory.mktemp("matrix") / "matrix.so"
    compile_c([str(CC), *STRICT, "-O2", "-fPIC", "-shared", "-o", str(out), *map(str, SOURCES), "-lm"])
    return out


class Products(Protocol):
    """The kernels under one choice of them; `name` is what it chose."""

    name: str

    def product(self, encoding: str, planes: Mapping[str, Array], rows: int, x: Array) -> Array:
        """x @ Wᵀ of a matrix that is held as these planes; x: float32 [n, cols]."""


class Packed(ctypes.Structure):
    """`cdr_packed`."""

    _fields_ = (("blocks", c_void_p), ("scales", c_void_p))


class Library:
    """As a library of this machine."""

    def __init__(self, path: Path):
        lib = self.lib = ctypes.CDLL(str(path))
        for size in (lib.cdr_packed_size, lib.cdr_packed_scales):
            size.restype, size.argtypes = c_size_t, [c_int, c_size_t, c_size_t]
        lib.cdr_pack.argtypes = [c_int, *[c_void_p] * 4, c_size_t, c_size_t]
        lib.cdr_product.argtypes = [c_void_p, c_int, c_void_p, Packed, c_void_p, *[c_size_t] * 3, c_void_p]
        lib.cdr_kernels_name.restype = ctypes.c_char_p
        self.name = lib.cdr_kernels_name().decode()

    def product(self, encoding: str, planes: Mapping[str, Array], rows: int, x: Array) -> Array:
        """See `Products`."""
        (n, cols), e = x.shape, NAMES.index(encoding)
        packed, of_rows = (
            np.zeros(size(e, rows, cols) + 1, np.uint8)
            for size in (self.lib.cdr_packed_size, self.lib.cdr_packed_scales)
        )
        numbers, scales = planes[""], planes.get(".scale")
        by = None if scales is None else scales.ctypes.data
        both = packed.ctypes.data, of_rows.ctypes.data
        self.lib.cdr_pack(e, *both, numbers.ctypes.data, by, rows, cols)
        y, scratch = np.full((n, rows), np.nan, np.float32), np.zeros(n * (cols + 64) * 5, np.uint8)
        given = y.ctypes.data, Packed(*both), x.ctypes.data
        self.lib.cdr_product(None, e, *given, rows, cols, n, scratch.ctypes.data)
        return y


def check(lib: Products, kernels: str, rounds_bf16: bool = False) -> dict[str, Array]:
    """Everything that one choice of kernels is tested for; the products by encoding and shape."""
    found = {}
    assert lib.name == kernels, lib.name

    def multiply(name: str, W: Array, x: Array) -> tuple[Array, Array]:
        """The product, and W as it is held."""
        planes = {k: np.ascontiguousarray(v) for k, v in ENCODINGS[name].narrow(W).items()}
        y = lib.product(name, planes, len(W), np.ascontiguousarray(x, np.float32))
        return y, ENCODINGS[name].widen(planes, W.shape).astype(np.float64)

    for name, (rows, cols) in product(NAMES, SHAPES):
        random = np.random.default_rng(rows * cols)
        W, x = random.normal(size=(rows, cols)).astype(np.float32), random.normal(size=(13, cols))
        y, held = multiply(name, W, x)
        pairs = {"bf16": 8e-3} if rounds_bf16 else {}
        assert rms(y, x @ held.T) <= (ROUNDED | pairs).get(name, 2e-6), (name, rows, cols)
        for n in (1, 2, 3, 5, 6, 7):
            assert np.array_equal(multiply(name, W, x[3 : 3 + n])[0], y[3 : 3 + n]), (name, n)
        found[f"{name} {rows} {cols}"] = y
        for bad in (np.nan, np.inf):
            x[2, cols // 2] = bad
            z = multiply(name, W, x)[0]
            assert not np.isfinite(z[2]).any() and np.array_equal(np.delete(z, 2, 0), np.delete(y, 2, 0)), (name, bad)
    zero = multiply("i8", np.zeros((8, 40), np.float32), np.zeros((2, 40)))[0]
    assert not zero.any()
    tiny = multiply("i8", np.ones((8, 40), np.float32), np.full((1, 40), 1e-42))[0]
    assert np.isfinite(tiny).all()
    return found


@pytest.mark.parametrize("kernels", KERNELS)
def test_products_are_those_of_float64(kernels: str, program: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.npz"
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(program), kernels, str(out)],
        cwd=ROOT, env=os.environ | {"CDRMIX_KERNELS": kernels}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if f"AssertionError: {KERNELS[0]}" in done.stderr:
        pytest.skip(f"this processor has no {kernels}")
    assert done.returncode == 0, done.stderr
    with np.load(out) as found:
        plain = check_plain(program, tmp_path)
        for key in found.files:
            rounded = key.startswith("bf16") and kernels == "avx512_bf16"
            assert rms(found[key], plain[key]) <= (8e-3 if rounded else 2e-6), key


def check_plain(program: Path, folder: Path) -> dict[str, Array]:
    """The products in plain C, in a process of their own: a library chooses its kernels once."""
    out = folder / "plain.npz"
    command = [sys.executable, "-c", ALONE, str(program), "plain", str(out)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"CDRMIX_KERNELS": "plain"}, check=True)
    with np.load(out) as found:
        return dict(found)


ALONE = """
import sys
from pathlib import Path
import numpy as np
from tests.conformance.test_matrix import Library, check
name = sys.argv[2]
np.savez(sys.argv[3], **check(Library(Path(sys.argv[1])), name, rounds_bf16=name == "avx512_bf16"))
"""
