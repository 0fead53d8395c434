"""The table of primitive ops.  A new primitive is one row here and one emission rule a backend.

Rows carry their numpy meaning, which the interpreter runs in float64, constants are folded with and settings are
computed with: it *is* the semantics.  It is right to 4 units in the last place for every finite operand
(`tests/good/test_ops_exact.py`); `logaddexp` and `logsumexp` to as many of their largest operand, sums and means of the
sum of their terms' sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["leaf", "elementwise", "reduce", "normalise"]
Effort = Literal["none", "light", "simple", "function"]


@dataclass(frozen=True, slots=True)
class Op:
    """One primitive, and the facts about it: what a pass or a backend asks of an op is a column here.

    `surface` is how the language writes it: an operator, a function's name, or None when only passes make it.
    `numpy` takes arrays: the operands of an elementwise op; the body and the reduced axes of a reduction.
    `result` is the dtype rule: `widest` operand, `bool`, or `arg` (leaves set it themselves).
    `effort` is what an element takes: nothing (a leaf, a sign), an addition or a product, an instruction or two, or a
    function: a division, a call.
    `whole`: of whole numbers it is a whole number.
    `zero`: where its first operand is zero, so is it.
    `singular` is an operand for some values of which the op or its gradient is not finite, and a value for which both
    are.
    `monotone`: along each operand it only rises or only falls, so that it is least and largest at ends of its operands.
    `flops` are those of an element, of all that it runs over.
    """

    name: str
    kind: Kind
    arity: int
    surface: str | None = None
    numpy: Callable[..., Any] | None = None
    result: Literal["widest", "bool", "arg"] = "widest"
    effort: Effort = "function"
    whole: bool = False
    zero: bool = False
    singular: tuple[int, float] | None = None
    monotone: bool = False
    flops: int = 1


def _sigmoid(x: Any) -> Any:
    fall = np.exp(-np.abs(x))  # never overflows, and keeps a small result's digits
    return np.where(x < 0, fall, 1.0) / (1.0 + fall)


def _silu(x: Any) -> Any:
    root = np.exp(0.5 * np.minimum(x, 0.0))  # its square is below what float64 has digits for before the product is
    far = np.maximum(x, -2000.0) * root * root
    return np.where(x < -700.0, far, x * _sigmoid(x))[()]


def _exp_below(x: Any, top: Any) -> Any:
    """exp(x - top) with the digits that rounding takes off the difference: of -700, 500 units of the result's last."""
    below = x - top
    taken = below - x
    lost = (x - (below - taken)) - (top + taken)
    return np.exp(below) * (1.0 + np.where(np.isfinite(lost), lost, 0.0))


def _erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[np.float64])(x)[()]


def _finite(x: Any) -> Any:
    return np.where(np.isfinite(x), x, 0.0)


def _softmax(x: Any, axis: int) -> Any:
    e = _exp_below(x, np.max(x, axis=axis, keepdims=True))
    return e / np.sum(e, axis=axis, keepdims=True)


def _logaddexp(a: Any, b: Any) -> Any:
    top = np.maximum(a, b)
    return top + np.log1p(_exp_below(np.minimum(a, b), _finite(top)))


def _logsumexp(x: Any, axis: tuple[int, ...]) -> Any:
    x = np.moveaxis(x, axis, range(-len(axis), 0))
    x = x.reshape(*x.shape[: -len(axis)], -1)
    at = np.argmax(x, axis=-1, keepdims=True)
    top = np.take_along_axis(x, at, -1)
    e = _exp_below(x, _finite(top))
    np.put_along_axis(e, at, 0.0, -1)  # the largest one's 1 would swallow the others' digits
    return top[..., 0] + np.log1p(np.sum(e, axis=-1))


def _leaf(name: str, arity: int = 0) -> Op:
    return Op(name, "leaf", arity, result="arg", effort="none", whole=True, flops=0)


def _elementwise(name: str, arity: int, surface: str, numpy: Callable[..., Any], **facts: Any) -> Op:
    return Op(name, "elementwise", arity, surface, numpy, **facts)


def _truth(name: str, arity: int, surface: str, numpy: Callable[..., Any]) -> Op:
    return _elementwise(name, arity, surface, numpy, result="bool", effort="simple", whole=True)


_ROWS = [
    _leaf("const"),
    _leaf("index"),
    _leaf("context"),
    _leaf("read", -1),
    # arithmetic
    _elementwise("add", 2, "+", np.add, effort="light", whole=True, monotone=True),
    _elementwise("sub", 2, "-", np.subtract, effort="light", whole=True, monotone=True),
    _elementwise("mul", 2, "*", np.multiply, effort="light", whole=True, zero=True, monotone=True),
    _elementwise("div", 2, "/", np.true_divide, zero=True, singular=(1, 1.0)),
    _elementwise("floordiv", 2, "//", np.floor_divide, whole=True, zero=True, singular=(1, 1.0)),
    _elementwise("mod", 2, "%", np.mod, whole=True, zero=True, singular=(1, 1.0)),
    _elementwise("pow", 2, "^", np.power, whole=True, singular=(0, 1.0)),
    _elementwise("neg", 1, "-", np.negative, effort="none", whole=True, zero=True, monotone=True),
    _elementwise("max", 2, "max", np.maximum, effort="simple", whole=True, monotone=True),
    _elementwise("min", 2, "min", np.minimum, effort="simple", whole=True, monotone=True),
    # comparison and choice
    _truth("eq", 2, "==", np.equal),
    _truth("ne", 2, "!=", np.not_equal),
    _truth("lt", 2, "<", np.less),
    _truth("le", 2, "<=", np.less_equal),
    _truth("gt", 2, ">", np.greater),
    _truth("ge", 2, ">=", np.greater_equal),
    _truth("and", 2, "and", np.logical_and),
    _truth("or", 2, "or", np.logical_or),
    _truth("not", 1, "not", np.logical_not),
    _elementwise("select", 3, "if", np.where, effort="simple", whole=True),  # condition, then, other
    # functions
    _elementwise("exp", 1, "exp", np.exp, singular=(0, 0.0), monotone=True),
    _elementwise("log", 1, "log", np.log, singular=(0, 1.0), monotone=True),
    _elementwise("sqrt", 1, "sqrt", np.sqrt, zero=True, singular=(0, 1.0), monotone=True),
    _elementwise("abs", 1, "abs", np.abs, effort="simple", whole=True, zero=True),
    _elementwise("sign", 1, "sign", np.sign, effort="simple", whole=True, zero=True, monotone=True),
    _elementwise("sin", 1, "sin", np.sin, zero=True),
    _elementwise("cos", 1, "cos", np.cos),
    _elementwise("tanh", 1, "tanh", np.tanh, zero=True, monotone=True),
    _elementwise("sigmoid", 1, "sigmoid", _sigmoid, monotone=True),
    _elementwise("silu", 1, "silu", _silu, zero=True),
    _elementwise("relu", 1, "relu", lambda x: np.maximum(x, 0.0), effort="simple", zero=True, monotone=True),
    _elementwise("softplus", 1, "softplus", lambda x: _logaddexp(x, 0.0), monotone=True),
    _elementwise("logaddexp", 2, "logaddexp", _logaddexp, monotone=True),
    _elementwise("log1p", 1, "log1p", np.log1p, zero=True, singular=(0, 0.0), monotone=True),
    _elementwise("expm1", 1, "expm1", np.expm1, zero=True, singular=(0, 0.0), monotone=True),
    _elementwise("erf", 1, "erf", _erf, zero=True, monotone=True),
    _elementwise("floor", 1, "floor", np.floor, effort="simple", zero=True, monotone=True),
    _elementwise("round", 1, "round", np.rint, effort="simple", zero=True, monotone=True),  # a half to the even number
    _elementwise("atan2", 2, "atan2", np.arctan2, singular=(0, 1.0)),
    # reductions over the bound indices; `numpy(body, axis=tuple)`
    Op("sum", "reduce", 1, "sum", np.sum, whole=True, zero=True),
    Op("mean", "reduce", 1, "mean", np.mean, zero=True),
    Op("max_over", "reduce", 1, "max", np.max, whole=True, zero=True),
    Op("min_over", "reduce", 1, "min", np.min, whole=True, zero=True),
    Op("logsumexp", "reduce", 1, "logsumexp", _logsumexp),
    # along one index, which stays free
    Op("softmax", "normalise", 1, "softmax", _softmax, flops=3),  # the exponential, its sum, the quotient
]

OPS: dict[str, Op] = {row.name: row for row in _ROWS}

FUNCTIONS: dict[str, Op] = {
    row.surface: row for row in _ROWS if row.kind == "elementwise" and row.surface and row.surface.isidentifier()
}
"""Elementwise functions called as `name(…)`; `max` and `min` take two numbers here and reduce as `max[i](…)`."""

REDUCTIONS: dict[str, Op] = {row.surface: row for row in _ROWS if row.kind == "reduce" and row.surface}

INITS: dict[str, tuple[tuple[str, float | None], ...]] = {
    "orthogonal": (("gain", 1.0),),
    "uniform": (("low", None), ("high", None)),
    "normal": (("std", None),),
}
"""Init rules that draw random numbers: their arguments and defaults (None: required)."""
