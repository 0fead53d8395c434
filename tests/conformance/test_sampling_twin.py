"""Python's sampler and C's choose the same token from the same numbers; what cannot be chosen from is refused."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_uint64
from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.sampling import Sampler, Sampling, draw

from .c_program import CC, STRICT, compile_c, needs_compiler

pytestmark = needs_compiler
SOURCE = Path(__file__).parents[2] / "runtime" / "c" / "sample.c"
TEMPERATURES = (0.0, 5e-324, 1e-310, 1e-45, 1e-3, 0.5, 1.0, 3.0, 1e30, 1.7e308)
TOP_PS = (1e-320, 1e-7, 0.3, 0.9, 0.95, 1.0)
TOP_KS = (0, 1, 2, 7, 1000)


class Settings(ctypes.Structure):
    _fields_ = [
        ("temperature", c_double), ("top_p", c_double), ("top_k", c_int32), ("random", c_uint64), ("known", c_char_p)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def lib(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    out = tmp_path_factory.mktemp("sample") / "libsample.so"
    compile_c([str(CC), *STRICT, "-O1", "-fPIC", "-shared", "-o", str(out), str(SOURCE), "-lm"])
    found = ctypes.CDLL(str(out))
    found.cdr_sample.argtypes = [POINTER(Settings), POINTER(c_float), c_int32, ctypes.c_void_p]
    found.cdr_random_at.argtypes, found.cdr_random_at.restype = [c_uint64, c_uint64], c_uint64
    found.cdr_draw.argtypes, found.cdr_draw.restype = [POINTER(c_uint64)], c_double
    return found


def in_c(lib: ctypes.CDLL, how: Sampling, logits: np.ndarray, place: int, known: list[int] | None) -> int:
    flags = None if known is None else bytes(i in known for i in range(len(logits)))
    settings = Settings(how.temperature, how.top_p, how.top_k, lib.cdr_random_at(how.seed, place), flags)
    room = ctypes.create_string_buffer(16 * len(logits))
    given = np.ascontiguousarray(logits, np.float32)
    chosen: int = lib.cdr_sample(byref(settings), given.ctypes.data_as(POINTER(c_float)), len(given), room)
    return chosen


def in_python(how: Sampling, logits: np.ndarray, place: int, known: list[int] | None) -> int:
    sampler = Sampler(how, known)
    sampler.place = place
    try:
        return sampler(logits)
    except ArtifactError:
        return -1


def test_the_random_numbers(lib: ctypes.CDLL) -> None:
    for seed in (0, 1, 2**32, 2**64 - 1):
        for place in (0, 1, 7, 10**12):
            state = c_uint64(lib.cdr_random_at(seed, place))
            found = [lib.cdr_draw(byref(state)) for _ in range(3)]
            assert found == [draw(seed, place + n) for n in range(3)]
            assert all(0 <= u < 1 for u in found)


def test_the_same_choices(lib: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for n in range(4000):
        size = int(rng.choice([1, 2, 5, 40]))
        logits = (rng.standard_normal(size) * rng.choice([0, 1e-6, 1, 30, 1e37])).astype(np.float32)
        if n % 3 == 0:
            logits = logits.round()  # ties
        if n % 5 == 0:
            logits[rng.random(size) < 0.4] = -np.inf
        if n % 7 == 0:
            logits[rng.integers(size)] = rng.choice([np.nan, np.inf, -np.inf])
        known = sorted(rng.choice(size, rng.integers(1, size + 1), replace=False).tolist()) if n % 2 else None
        how = Sampling(
            float(rng.choice(TEMPERATURES)),
            float(rng.choice(TOP_PS)),
            int(rng.choice(TOP_KS)),
            seed=int(rng.integers(99)),
        )
        found = in_c(lib, how, logits, n, known)
        assert found == in_python(how, logits, n, known), (how, logits, known)
        seen.add(found)
        if found >= 0:
            assert np.isfinite(logits[found]) and (known is None or found in known)
    assert seen >= {-1, *range(30)}


@pytest.mark.parametrize("temperature", TEMPERATURES[:5])
def test_a_tiny_temperature_takes_the_likeliest(lib: ctypes.CDLL, temperature: float) -> None:
    logits = np.array([1.0, -3.0, 5.0, 4.5, -np.inf], np.float32)
    for place in range(20):
        assert in_c(lib, Sampling(temperature), logits, place, None) == 2
        assert in_python(Sampling(temperature), logits, place, None) == 2
        assert in_python(Sampling(temperature, 0.95), logits, place, [0, 1, 3]) == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_is_chosen_of_what_is_not_finite(lib: ctypes.CDLL, bad: float, temperature: float) -> None:
    for at in range(3):
        logits = np.zeros(3, np.float32)
        logits[at] = bad
        assert in_c(lib, Sampling(temperature), logits, 0, None) == -1
        with pytest.raises(ArtifactError, match="NaN or infinity"):
            Sampler(Sampling(temperature))(logits)
    nothing = np.full(3, -np.inf, np.float32)
    assert (
        in_c(lib, Sampling(temperature), nothing, 0, None) == in_python(Sampling(temperature), nothing, 0, None) == -1
    )
