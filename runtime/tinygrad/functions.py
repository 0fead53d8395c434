"""Functions that tinygrad computes with too few digits, near where they vanish or far out.

Input: lazy f32 tensors.  Output: f32, to a few units in the last place (of 1 for `cos`, of the largest operand for
`logaddexp` and `logsumexp`).
"""

from __future__ import annotations

from math import factorial, pi, sqrt

from tinygrad import Tensor, dtypes

_TANH = (62 / 2835, -17 / 315, 2 / 15, -1 / 3)  # its Taylor series after x, by falling powers of x^2
_SMALL = 0.25
_LN_2 = 0.693145751953125  # less the bits after the fifteenth, so that its whole multiples are exact
_MORE = 2.0610481040742e-6  # of it, what those bits are
_LOG_2_E = 1.4426950408889634
_QUARTER = (1.5703125, 0.0004837512969970703, 7.549789954891882e-08)  # of pi/2: eleven bits, eleven more, the rest
_TURNS = 1e4  # up to here the parts' whole multiples are exact
_EXP = tuple(1 / factorial(n) for n in range(9, 1, -1))  # the exponential's Taylor series less 1 + x, over x^2
_ERF = tuple(2 / sqrt(pi) * c for c in (1 / 9360, -1 / 1320, 1 / 216, -1 / 42, 1 / 10, -1 / 3, 1))  # by powers of x^2
_ERFC = (0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196,
         1.00002368, -1.26551223)  # fmt: skip
_ATAN = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)  # after x, below tan(pi/8)
_EIGHTH = 0.4142135623730951
_LEAST, _MOST = -87.33654, 88.72283  # where its result is the smallest normal f32, and the largest
_BITS = 6  # of an exponent: more than 31 fits no i32 but for bases of -1, 0 and 1


def exp(x: Tensor) -> Tensor:
    """The exponential; `exp2(x*log2(e))` has lost what rounding takes off the product, at 80 half a unit in 1e5.

    What is below f32's normal numbers is 0.  It is short, since a softmax may stand 256 times in a kernel.
    """
    if x.dtype == dtypes.float64:
        return x.exp()
    inside = (x < _LEAST).where(_LEAST, (x > _MOST).where(_MOST, x))
    whole = (inside * _LOG_2_E).floor()
    rest = (inside - whole * _LN_2) * (1 + _MORE) - inside * _MORE  # inside - whole*log(2), as tinygrad leaves it alone
    series = 1 + rest * (1 + rest * _series(rest, _EXP))
    found = series * ((whole.cast(dtypes.int32) + 127) * 2**23).bitcast(dtypes.float32)
    return (x < _LEAST).where(0.0, (x > _MOST).where(float("inf"), found))


def _series(x: Tensor, factors: tuple[float, ...]) -> Tensor:
    found = x * factors[0]
    for factor in factors[1:-1]:
        found = (found + factor) * x
    return found + factors[-1]


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return (1 + exp(-x)).reciprocal()


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x)."""
    return x * sigmoid(x)


def sin(x: Tensor, far: bool = True) -> Tensor:
    """The sine; tinygrad's own reduction is shortened by its simplifier, and wrong near multiples of pi.

    Without `far`, x is below 1e4 in size, and the kernel a fraction as long.
    """
    odd, second, near_sin, near_cos = _quarter_turns(x)
    found = odd.where(near_cos, near_sin) * second.where(-1.0, 1.0)
    return (x.abs() < _TURNS).where(found, x.sin()) if far else found


def cos(x: Tensor, far: bool = True) -> Tensor:
    """The cosine; `sin(pi/2 - x)` has lost what rounding takes off the difference."""
    odd, second, near_sin, near_cos = _quarter_turns(x)
    found = odd.where(near_sin, near_cos) * (odd ^ second).where(-1.0, 1.0)
    if not far:
        return found
    half = (0.5 * x).sin()
    return (x.abs() < _TURNS).where(found, 1 - 2 * half * half)


def _quarter_turns(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Whether the quarter turns taken off are odd, and in the second half; sine and cosine of what is left."""
    turns = (x * (2 / pi) + 0.5).floor()
    half = (0.5 * turns).floor()
    odd = turns - 2 * half > 0.5
    again, once_more = (
        2 * half + odd.where(1.0, 0.0),
        (turns + 0.25).floor(),
    )  # the same, lest tinygrad add up the parts
    rest = ((x - turns * _QUARTER[0]) - again * _QUARTER[1]) - once_more * _QUARTER[2]
    z = rest * rest
    near_sin = rest + rest * z * ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1)
    near_cos = 1 - 0.5 * z + z * z * ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2)
    return odd, half - 2 * (0.5 * half).floor() > 0.5, near_sin, near_cos


def softmax(x: Tensor, axis: int) -> Tensor:
    """Shares along an axis, by the size of their exponentials."""
    e = exp(x - x.max(axis, keepdim=True))
    return e / e.sum(axis, keepdim=True)


def logsumexp(x: Tensor, axes: int | tuple[int, ...]) -> Tensor:
    """log(sum(exp(x))) over some axes."""
    top = x.max(axes, keepdim=True)
    total = exp(x - top).sum(axes)
    return total.log() + top.reshape(total.shape)


def floor_divide(a: Tensor | float, b: Tensor | float) -> Tensor:
    """floor(a / b); tinygrad multiplies by 1/b, and 49 / 49 is below 1 so."""
    quotient: Tensor = a / b  # one of them is a tensor
    whole = quotient.floor()
    rest = (a - whole * b) / b
    return whole + (rest >= 1).where(1.0, (rest < 0).where(-1.0, 0.0))


def remainder(a: Tensor | float, b: Tensor | float) -> Tensor:
    """What `floor_divide` leaves, of the divisor's sign."""
    return a - floor_divide(a, b) * b


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent; `2*sigmoid(2x) - 1` has lost the digits of a small x."""
    square = x * x
    series = Tensor.zeros_like(x)
    for factor in _TANH:
        series = series * square + factor
    fall = exp(-2 * x.abs())
    far = (1 - fall) / (1 + fall)
    return (x.abs() < _SMALL).where(x + x * square * series, (x < 0).where(-far, far))


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    return x.maximum(0) + _log1p(exp(-x.abs()))


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) + exp(b)); minus infinity is no special case."""
    high, low = a.maximum(b), a.minimum(b)
    return high + (high.eq(low)).where(0.6931471805599453, _log1p(exp(low - high)))


def whole_power(base: Tensor | int, exponent: Tensor | int) -> Tensor:
    """A power of whole numbers, exact; an exponent below 1 gives 1.  tinygrad's goes through logarithms."""
    factor = base if isinstance(base, Tensor) else Tensor.full((), base, dtype=dtypes.int32, buffer=False)
    times = exponent if isinstance(exponent, Tensor) else Tensor.full((), exponent, dtype=dtypes.int32, buffer=False)
    times, result = times.maximum(0), Tensor.ones_like(factor * times)
    for bit in range(_BITS):
        is_set = (times // 2**bit) % 2 == 1 if bit < _BITS - 1 else times >= 2**bit
        result, factor = is_set.where(result * factor, result), factor * factor
    return result


def log1p(x: Tensor) -> Tensor:
    """log(1 + x); where x is below -1/2 or above 1, the sum has lost nothing that matters."""
    return ((x > -0.5) & (x < 1)).where(_log1p(x), (1 + x).log())


def expm1(x: Tensor) -> Tensor:
    """exp(x) - 1; near zero the difference has lost the digits."""
    return (x.abs() < 0.5).where(x * (1 + x * _series(x, _EXP)), exp(x) - 1)


def erf(x: Tensor) -> Tensor:
    """The error function: its Taylor series near zero, farther out 1 - erfc.

    erfc(|x|) = t exp(p(t) - x^2), t = 1 / (1 + |x|/2), to 1.2e-7 of itself (Numerical Recipes, erfcc).
    """
    size, square = x.abs(), x * x
    t = (1 + 0.5 * size).reciprocal()
    far = 1 - t * exp(_series(t, _ERFC) - square)
    return (size < 0.5).where(x * _series(square, _ERF), (x < 0).where(-far, far))


def round(x: Tensor) -> Tensor:
    """The nearest whole number, of a half the even one; tinygrad's adds a half, which rounds by itself."""
    whole = x.floor()
    above, odd = x - whole, whole - 2 * (0.5 * whole).floor() > 0.5
    return whole + ((above > 0.5) | (above.eq(0.5) & odd)).where(1.0, 0.0)


def atan2(y: Tensor, x: Tensor) -> Tensor:
    """The angle of (x, y), from that of the smaller over the larger."""
    height, width = y.abs(), x.abs()
    larger = height.maximum(width)
    ratio = height.minimum(width) / larger.eq(0).where(1.0, larger)
    steep = ratio > _EIGHTH
    small = steep.where((ratio - 1) / (ratio + 1), ratio)
    angle = small + small * small * small * _series(small * small, _ATAN) + steep.where(pi / 4, 0.0)
    angle = (height > width).where(pi / 2 - angle, angle)
    angle = _is_signed(x).where(pi - angle, angle)
    return _is_signed(y).where(-angle, angle)


def _is_signed(x: Tensor) -> Tensor:
    """Whether a number is below zero, or the zero that is."""
    return (x < 0) | (x.eq(0) & (x.eq(0).where(x, 1).reciprocal() < 0))


def _log1p(y: Tensor) -> Tensor:
    """log(1 + y) for y in [-1/2, 1], by 2 artanh(s) with s = y / (2 + y), at most a third."""
    s = y / (2 + y)
    square = s * s
    series = Tensor.zeros_like(s)
    for n in range(17, 2, -2):
        series = (series + 1 / n) * square
    return 2 * s * (1 + series)
