"""Functions near where they vanish: relative error against float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from . import tinygrad_device  # noqa: F401  isort: skip  (chooses the device before tinygrad is imported)
from cdrmix.runtime.tinygrad import functions
from tinygrad import Tensor

from cdrmix.ir.ops import OPS

SMALL = 10.0 ** np.linspace(-30, 1.2, 2001)
X = np.concatenate([np.linspace(-20, 20, 8001), SMALL, -SMALL, [0, -80, 88]]).astype(np.float32)


@pytest.mark.parametrize(
    ("ours", "meant"),
    [
        (functions.tanh, np.tanh),
        (functions.softplus, lambda x: np.logaddexp(x, 0.0)),
        (functions.expm1, np.expm1),
        (functions.erf, OPS["erf"].numpy),
        (lambda x: functions.log1p(x.abs()), lambda x: np.log1p(np.abs(x))),
        (lambda x: functions.log1p(x.minimum(0).maximum(-0.99)), lambda x: np.log1p(np.clip(x, -0.99, 0))),
    ],
)
def test_all_digits_are_right(ours: Callable[[Tensor], Tensor], meant: Callable[[np.ndarray], np.ndarray]) -> None:
    found, wanted = ours(Tensor(X)).numpy(), meant(X.astype(np.float64))
    assert np.max(np.abs(found - wanted) / np.maximum(np.abs(wanted), 1e-36)) < 1.5e-6


def test_logaddexp() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(-50, 50, 4000).astype(np.float32) for _ in range(2))
    wanted = np.logaddexp(a.astype(np.float64), b.astype(np.float64))
    found = functions.logaddexp(Tensor(a), Tensor(b)).numpy()
    assert np.max(np.abs(found - wanted) / np.maximum(np.abs(wanted), 1)) < 3e-7
    edges = functions.logaddexp(Tensor([-np.inf, -np.inf, 1.0]), Tensor([-np.inf, 2.0, -np.inf])).numpy()
    np.testing.assert_array_equal(edges, [-np.inf, 2.0, 1.0])


def test_round_takes_a_half_to_the_even_number() -> None:
    x = np.array([0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, -0.49999997, 1e-30, -1e-30, 8388609, -8388609, 3e9])
    x = np.concatenate([x, X]).astype(np.float32)
    np.testing.assert_array_equal(functions.round(Tensor(x)).numpy(), np.rint(x))


def test_atan2_in_all_quarters_and_on_the_axes() -> None:
    rng = np.random.default_rng(0)
    y, x = (rng.choice([-1, 1], 4000) * 10.0 ** rng.uniform(-20, 20, 4000) for _ in range(2))
    edges = np.array([(a, b) for a in (0.0, -0.0, 1.0, -1.0) for b in (0.0, -0.0, 1.0, -1.0)])
    y, x = (
        np.concatenate([of, of * rng.normal(size=4000), e]).astype(np.float32)
        for of, e in ((y, edges[:, 0]), (x, edges[:, 1]))
    )
    wanted = np.arctan2(y.astype(np.float64), x.astype(np.float64))
    found = functions.atan2(Tensor(y), Tensor(x)).numpy()
    assert np.max(np.abs(found - wanted) / np.maximum(np.abs(wanted), 1e-36)) < 1e-6


def test_powers_of_whole_numbers() -> None:
    exponents = Tensor.arange(13)
    for base in (-3, -1, 0, 1, 2, 5):
        np.testing.assert_array_equal(functions.whole_power(base, exponents).numpy(), [base**n for n in range(13)])
    bases = Tensor.arange(7) - 3
    np.testing.assert_array_equal(functions.whole_power(bases, 5).numpy(), [(n - 3) ** 5 for n in range(7)])
    assert functions.whole_power(Tensor([-1, 0, 1]), 33).numpy().tolist() == [-1, 0, 1]
