"""Functions that tinygrad computes with too few digits near where they vanish.

Input: lazy f32 tensors.  Output: the same, elementwise, to a few units in the last place.
"""

from __future__ import annotations

from tinygrad import Tensor, dtypes

_TANH = (62 / 2835, -17 / 315, 2 / 15, -1 / 3)  # its Taylor series after x, by falling powers of x^2
_SMALL = 0.25
_BITS = 6  # of an exponent: more than 31 fits no i32 but for bases of -1, 0 and 1


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent; `2*sigmoid(2x) - 1` has lost the digits of a small x."""
    square = x * x
    series = Tensor.zeros_like(x)
    for factor in _TANH:
        series = series * square + factor
    fall = (-2 * x.abs()).exp()
    far = (1 - fall) / (1 + fall)
    return (x.abs() < _SMALL).where(x + x * square * series, (x < 0).where(-far, far))


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    return x.maximum(0) + _log1p((-x.abs()).exp())


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) + exp(b)); minus infinity is no special case."""
    high, low = a.maximum(b), a.minimum(b)
    return high + (high.eq(low)).where(0.6931471805599453, _log1p((low - high).exp()))


def whole_power(base: Tensor | int, exponent: Tensor | int) -> Tensor:
    """A power of whole numbers, exact; an exponent below 1 gives 1.  tinygrad's goes through logarithms."""
    factor = base if isinstance(base, Tensor) else Tensor.full((), base, dtype=dtypes.int32, buffer=False)
    times = exponent if isinstance(exponent, Tensor) else Tensor.full((), exponent, dtype=dtypes.int32, buffer=False)
    times, result = times.maximum(0), Tensor.ones_like(factor * times)
    for bit in range(_BITS):
        is_set = (times // 2**bit) % 2 == 1 if bit < _BITS - 1 else times >= 2**bit
        result, factor = is_set.where(result * factor, result), factor * factor
    return result


def _log1p(y: Tensor) -> Tensor:
    """log(1 + y) for y in [0, 1], by 2 artanh(s) with s = y / (2 + y), at most a third."""
    s = y / (2 + y)
    square = s * s
    series = Tensor.zeros_like(s)
    for n in range(17, 2, -2):
        series = (series + 1 / n) * square
    return 2 * s * (1 + series)
