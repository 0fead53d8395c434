"""Every row of the ops table against mpmath and exact rationals, over the whole range of float64.

An error is counted in units in the last place of the exact result (of the smallest normal number below that), or,
where an op's conditioning lets no float64 do so, of what `ir/ops.py` names instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from math import floor, inf, isfinite
from typing import Any

import mpmath
import numpy as np
import pytest
from mpmath import mpf

from cdrmix.ir.ops import OPS

UNITS = 4.0
TINY = float(np.finfo(np.float64).smallest_normal)
RNG = np.random.default_rng(0)

SIZES = [0.0, 5e-324, 1e-320, TINY, 1e-300, 1e-200, 1e-100, 1e-30, 1e-16, 2.3e-16, 1e-12, 1e-8, 1e-3, 0.1, 0.25, 0.5,
         0.55, 0.7, 1.0, 1.0000001, 2.0, 3.0, 10.0, 19.06, 22.0, 30.0, 36.0, 37.0, 38.0, 80.0, 100.0, 300.0, 700.0,
         709.0, 709.7, 710.0, 744.0, 745.0, 746.0, 800.0, 1e4, 1e8, 1e16, 1e100, 1e300, 1.7e308]  # fmt: skip
EXTREMES = [sign * size for size in SIZES for sign in (1.0, -1.0)]
DENSE = [*RNG.normal(0, 1, 400), *RNG.uniform(-760, 760, 400), *RNG.uniform(-40, 40, 400),
         *RNG.choice([-1, 1], 400) * 10.0 ** RNG.uniform(-320, 308, 400)]  # fmt: skip
X = np.array([*EXTREMES, *DENSE])


@pytest.fixture(autouse=True)
def _precise() -> Iterator[None]:
    with mpmath.workprec(200), np.errstate(all="ignore"):
        yield


def exp(x: mpf) -> mpf:
    """The exponential; beyond any float64 at either end it need not be followed."""
    return mpmath.exp(max(min(x, mpf(2000)), mpf(-2000)))


def softplus(x: mpf) -> mpf:
    return max(x, mpf(0)) + mpmath.log1p(exp(-abs(x)))


FUNCTIONS: dict[str, Callable[[mpf], Any]] = {
    "neg": lambda x: -x,
    "exp": exp,
    "log": lambda x: mpmath.log(x) if x > 0 else None,
    "sqrt": lambda x: mpmath.sqrt(x) if x >= 0 else None,
    "abs": abs,
    "sign": mpmath.sign,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tanh": mpmath.tanh,
    "sigmoid": lambda x: 1 / (1 + exp(-x)),
    "silu": lambda x: x / (1 + exp(-x)),
    "relu": lambda x: max(x, mpf(0)),
    "softplus": softplus,
    "log1p": lambda x: mpmath.log1p(x) if x > -1 else None,
    "expm1": lambda x: mpmath.expm1(min(x, mpf(2000))),
    "erf": mpmath.erf,
    "floor": mpmath.floor,
    "round": mpmath.nint,
}


def units(found: float, wanted: mpf, of: float = 0.0) -> float:
    """The error in units in the last place of the exact value, or of `of` where that is larger."""
    nearest = float(wanted)
    if not isfinite(nearest) or not isfinite(found):
        return 0.0 if found == nearest else inf
    return float(abs(mpf(float(found)) - wanted) / mpf(float(np.spacing(max(abs(nearest), of, TINY)))))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    exact, found = FUNCTIONS[name], OPS[name].numpy(X)  # type: ignore[misc]
    wanted = [exact(mpf(float(x))) for x in X]
    errors = [(units(y, w), x, y) for x, y, w in zip(X, found, wanted, strict=True) if w is not None]
    assert max(errors)[0] <= UNITS, max(errors)
    assert all(np.isnan(y) or y == -inf for y, w in zip(found, wanted, strict=True) if w is None)


def test_functions_of_single_numbers_are_the_same() -> None:
    for name in FUNCTIONS:
        compute = OPS[name].numpy
        assert compute is not None
        for x in EXTREMES:
            one, many = compute(x), compute(np.array([x]))[0]
            assert isinstance(one, np.generic) and units(float(one), mpf(float(many))) <= 1 or not isfinite(many), (
                name,
                x,
            )


def test_functions_at_infinity() -> None:
    ends = np.array([-inf, inf])
    limits = {
        "exp": (0, inf),
        "tanh": (-1, 1),
        "sigmoid": (0, 1),
        "silu": (0, inf),
        "relu": (0, inf),
        "softplus": (0, inf),
        "expm1": (-1, inf),
        "erf": (-1, 1),
    }
    for name, wanted in limits.items():
        np.testing.assert_array_equal(OPS[name].numpy(ends), wanted, name)  # type: ignore[misc]


# --- two operands --------------------------------------------------------------------------------------------------
PAIRS = np.array([(a, b) for a in EXTREMES[::3] for b in EXTREMES[1::4]]
                 + list(zip(DENSE, RNG.permutation(DENSE), strict=True)))  # fmt: skip
RATIONAL: dict[str, Callable[[Fraction, Fraction], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b if b else None,
    "floordiv": lambda a, b: Fraction(floor(a / b)) if b else None,
    "mod": lambda a, b: a - b * floor(a / b) if b else None,
    "max": max,
    "min": min,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "and": lambda a, b: bool(a) and bool(b),
    "or": lambda a, b: bool(a) or bool(b),
}


@pytest.mark.parametrize("name", RATIONAL)
def test_arithmetic(name: str) -> None:
    compute = OPS[name].numpy
    assert compute is not None
    for a, b, found in zip(*PAIRS.T, compute(*PAIRS.T), strict=True):
        wanted = RATIONAL[name](Fraction(a), Fraction(b))
        if wanted is not None:
            wanted = mpf(wanted.numerator) / mpf(wanted.denominator) if isinstance(wanted, Fraction) else mpf(wanted)
            assert units(float(found), wanted) <= 1, (a, b, found)


def test_powers() -> None:
    whole = [(a, float(n)) for a in EXTREMES for n in range(-8, 9)]
    real = [(abs(a), b) for a, b in PAIRS]
    for a, b in whole + real:
        if a == 0 and b < 0:
            continue
        exact = mpf(a) ** int(b) if abs(b) <= 8 and b == int(b) else _power(a, b)
        found = float(np.asarray(OPS["pow"].numpy(np.array([a]), np.array([b])))[0])  # type: ignore[misc]
        assert units(found, exact) <= UNITS, (a, b, found)
    assert np.isnan(OPS["pow"].numpy(np.array(-8.0), 1 / 3))  # type: ignore[misc]


def _power(a: float, b: float) -> mpf:
    return mpf(int(b == 0)) if a == 0 else exp(mpf(b) * mpmath.log(mpf(a)))


def test_logaddexp() -> None:
    near = [(a, a + d) for a in (*EXTREMES[::2], *DENSE[:200]) for d in (0.0, 1e-9, 0.3, 40.0, 700.0)]
    pairs = [*map(tuple, PAIRS), *near]
    found = OPS["logaddexp"].numpy(*np.array(pairs).T)  # type: ignore[misc]
    for (a, b), y in zip(pairs, found, strict=True):
        top, low = mpf(float(max(a, b))), mpf(float(min(a, b)))
        assert units(float(y), top + mpmath.log1p(exp(low - top)), abs(float(top))) <= UNITS, (a, b, y)


def test_atan2() -> None:
    found = OPS["atan2"].numpy(*PAIRS.T)  # type: ignore[misc]
    for (y, x), angle in zip(PAIRS, found, strict=True):
        at_zero = mpf(0) if np.copysign(1.0, x) > 0 else mpmath.pi  # mpmath's zero has no sign
        wanted = np.copysign(1.0, y) * at_zero if y == 0 and x == 0 else mpmath.atan2(mpf(float(y)), mpf(float(x)))
        wanted = -wanted if y == 0 and np.copysign(1.0, y) < 0 < wanted else wanted
        assert units(float(angle), wanted) <= UNITS, (y, x, angle)


def test_select_and_not() -> None:
    found = OPS["select"].numpy(X > 0, X, 1.0)  # type: ignore[misc]
    np.testing.assert_array_equal(found, [x if x > 0 else 1.0 for x in X])
    np.testing.assert_array_equal(OPS["not"].numpy(X), [x == 0 for x in X])  # type: ignore[misc]


# --- along indices -------------------------------------------------------------------------------------------------
ROWS = [
    [0.0, -40.0, -700.3],
    [0.1, -700.3, -744.7],
    [-1e-320, 1e-16, -745.0],
    [1e300, -1e300, 1e4],
    [5.0] * 7,
    [-1e4] * 4,
    [-0.3, -1.4, -40.0, 1e-300],
    [709.0, 709.5, 710.0],
    [1e16, 1.0, -1e16, 1e-16],
    *RNG.normal(0, 1, (20, 9)).tolist(),
    *RNG.uniform(-760, 760, (20, 9)).tolist(),
    *(RNG.choice([-1, 1], (20, 9)) * 10.0 ** RNG.uniform(-320, 300, (20, 9))).tolist(),
]


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_reductions(row: list[float]) -> None:
    x, exact = np.array(row), [mpf(v) for v in row]
    total = mpmath.fsum(exact)
    sizes = float(mpmath.fsum(map(abs, exact)))
    found = {name: float(op.numpy(x, axis=(0,))) for name, op in OPS.items() if op.kind == "reduce" and op.numpy}
    assert found.keys() == {"sum", "mean", "max_over", "min_over", "logsumexp"}
    assert units(found["sum"], total, sizes) <= UNITS
    assert units(found["mean"], total / len(row), sizes / len(row)) <= UNITS
    assert (found["max_over"], found["min_over"]) == (max(row), min(row))
    top = max(exact)
    rest = mpmath.fsum(exp(v - top) for v in exact)
    log_sum = top + mpmath.log(rest)
    assert units(found["logsumexp"], log_sum, abs(float(top))) <= UNITS
    for y, v in zip(OPS["softmax"].numpy(x, axis=0), exact, strict=True):  # type: ignore[misc]
        assert units(float(y), exp(v - top) / rest) <= UNITS, (row, v)


def test_reductions_over_several_axes() -> None:
    x = RNG.uniform(-50, 50, (3, 4, 5, 6))
    for name in ("sum", "mean", "max_over", "min_over", "logsumexp"):
        compute = OPS[name].numpy
        assert compute is not None
        for axes in ((0,), (3,), (1, 2), (0, 3), (0, 1, 2, 3)):
            kept = [a for a in range(4) if a not in axes]
            flat = x.transpose(*kept, *axes).reshape(*(x.shape[a] for a in kept), -1)
            np.testing.assert_allclose(compute(x, axis=axes), compute(flat, axis=(len(kept),)), rtol=1e-14)


def test_logsumexp_of_infinities() -> None:
    x = np.array([[-inf, -inf], [-inf, 1.0], [inf, 1.0], [inf, inf]])
    np.testing.assert_array_equal(OPS["logsumexp"].numpy(x, axis=(1,)), [-inf, 1.0, inf, inf])  # type: ignore[misc]


def test_every_row_is_tested() -> None:
    elsewhere = {
        "pow",
        "logaddexp",
        "atan2",
        "select",
        "not",
        "sum",
        "mean",
        "max_over",
        "min_over",
        "logsumexp",
        "softmax",
    }
    assert {name for name, op in OPS.items() if op.kind != "leaf"} == {*FUNCTIONS, *RATIONAL, *elsewhere}


# --- the other columns ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.kind != "leaf" and op.result != "bool"])
def test_zero_and_whole_are_what_the_meaning_says(name: str) -> None:
    row = OPS[name]
    assert row.numpy is not None
    if row.kind == "elementwise":
        others = [np.array([-7, -1, 1, 2, 9])] * (row.arity - 1)
        at_zero = row.numpy(np.zeros(5), *others)
        of_whole = row.numpy(np.array([1, 2, 3, 0, 5]), *map(abs, others))
    else:
        axes: Any = 0 if row.kind == "normalise" else (0,)
        at_zero, of_whole = row.numpy(np.zeros(5), axis=axes), row.numpy(np.arange(5), axis=axes)
    if row.arity == 1 or row.zero:
        assert row.zero == bool(np.all(at_zero == 0)), at_zero
    if row.whole:
        assert of_whole.dtype == np.int64


NUMBERS = [n for n, op in OPS.items() if op.kind == "elementwise" and op.result != "bool" and n != "select"]


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_monotone_never_turns(name: str) -> None:
    row, x = OPS[name], np.linspace(-5, 5, 201)
    assert row.numpy is not None
    turns = False
    for at in range(row.arity):
        for others in (-1.5, 0.0, 2.0):
            y = row.numpy(*(x if p == at else np.full_like(x, others) for p in range(row.arity)))
            steps = np.diff(y[np.isfinite(y)])
            turns = turns or bool((steps > 1e-12).any() and (steps < -1e-12).any())
    assert turns != row.monotone


STEPS = ("sign", "floor", "round")
"""Their slope at a step is taken as zero."""


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.kind == "elementwise" and op.result != "bool"])
def test_what_is_singular_is_said_and_avoided(name: str) -> None:
    """A value or a slope that is not finite, looked for along each operand with the others at a half, or at zero."""
    row, places, step = OPS[name], np.array([0.0, 1.0, -1.0, 1e3, -1e3]), 1e-18
    assert row.numpy is not None
    for at in range(row.arity):

        def along(x: Any, others: float, at: int = at) -> Any:
            return row.numpy(*(x if p == at else np.full_like(x, others) for p in range(row.arity)))  # type: ignore[misc]

        def is_wrong(others: float) -> bool:
            found = along(places, others)
            slopes = np.abs(along(places + step, others) - found) / step
            return not np.isfinite(found).all() or slopes.max() > 1e6 and name not in STEPS

        wrong, safe = row.singular or (None, 0.0)
        if at != wrong:
            assert not is_wrong(0.5), at
        else:
            assert is_wrong(0.5) or is_wrong(0.0)
            assert all(np.isfinite(along(np.array([safe]), others)).all() for others in (0.5, 0.0))
