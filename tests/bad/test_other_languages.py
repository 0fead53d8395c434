"""The table of functions of other languages: what a help line says to write is right, and means what it meant there.

Each form is called in a program, the remedy is applied as text, and the program that comes of it is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cdrmix.check.help.other_languages import Form, as_op, forms, in_general, knows
from cdrmix.check.names.catalogue import squashed
from cdrmix.check.names.statics import RESERVED
from tests.bad.test_remedies import mended
from tests.good.elaborated import Elaborated, elaborate, tokens

PAIRS = [(name, form) for name, found in forms().items() for form in found]
ARGUMENTS = {
    "arange": ["4"], "eye": ["4"], "zeros": ["4"], "ones": ["4"], "full": ["4", "0.5"], "onehot": ["pos", "4"],
    "transpose": ["W"], "swapaxes": ["W"], "matmul": ["W", "x"], "mm": ["W", "x"], "mv": ["W", "x"], "bmm": ["W", "x"],
    "clamp": ["x", "-0.5", "0.5"], "clip": ["x", "-0.5", "0.5"], "pow": ["x", "2"], "power": ["x", "2"],
    "leakyrelu": ["x", "0.2"], "where": ["x > 0", "x", "y"], "select": ["x > 0", "x", "y"],
}  # fmt: skip
RETURNS = ("v", "v*x", "x*sum[i](v[i])", "x*sum[i,j](v[i,j])")


def _erf_free_gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max())
    return e / e.sum()


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


MEANINGS: dict[tuple[str, int], Callable[..., Any]] = {
    ("gelu", 1): _erf_free_gelu, ("swish", 1): lambda x: x * _sigmoid(x), ("elu", 1): lambda x:
    np.where(x > 0, x, np.exp(x) - 1), ("leakyrelu", 1): lambda x: np.where(x > 0, x, 0.01 * x),
    ("leakyrelu", 2): lambda x, a: np.where(x > 0, x, 0.2 * x), ("relu6", 1): lambda x: np.clip(x, 0, 6),
    ("hardtanh", 1): lambda x: np.clip(x, -1, 1), ("hardswish", 1): lambda x: x * np.clip(x + 3, 0, 6) / 6,
    ("hardsigmoid", 1): lambda x: np.clip(x + 3, 0, 6) / 6, ("mish", 1): lambda x: x * np.tanh(np.log1p(np.exp(x))),
    ("softsign", 1): lambda x: x / (1 + np.abs(x)), ("logsigmoid", 1): lambda x: np.log(_sigmoid(x)),
    ("clamp", 3): lambda x, a, b: np.clip(x, -0.5, 0.5), ("maximum", 2): np.maximum, ("minimum", 2): np.minimum,
    ("where", 3): lambda x, y, z: np.where(x > 0, x, y), ("lerp", 3): lambda a, b, c: a + c * (b - a),
    ("square", 1): np.square, ("pow", 2): lambda x, p: x**2, ("reciprocal", 1): np.reciprocal, ("exp2", 1): np.exp2,
    ("tan", 1): np.tan, ("sinh", 1): np.sinh, ("cosh", 1): np.cosh,
    ("ceil", 1): np.ceil, ("trunc", 1): np.trunc, ("sum", 1): np.sum, ("mean", 1): np.mean, ("max", 1): np.max,
    ("min", 1): np.min, ("norm", 1): np.linalg.norm, ("var", 1): np.var, ("std", 1): np.std, ("dot", 2): np.dot,
    ("logsoftmax", 1): lambda x: np.log(_softmax(x)), ("softmin", 1): lambda x: _softmax(-x), ("cumsum", 1): np.cumsum,
    ("flip", 1): np.flip, ("normalize", 1): lambda x: x / np.linalg.norm(x), ("logsumexp", 1): lambda x:
    np.log(np.sum(np.exp(x))), ("zeroslike", 1): np.zeros_like, ("oneslike", 1): np.ones_like,
    ("max", 3): lambda x, y, z: np.maximum(np.maximum(x, y), z), ("remainder", 2): np.mod,
}  # fmt: skip
"""What numpy and torch compute, for x, 2 - x and x*x."""


def _written(name: str, form: Form, returns: str) -> str:
    args = ARGUMENTS.get(name, ["x", "y", "x*x", "3*x"])[: len(form.formals)]
    if name == "linear":
        args = ["x", "W", "y"][: len(form.formals)]
    body = f"  param W: [D, D] ~ 0\n  y = 2 - x\n  v = {name}({', '.join(args)})\n  w = 0*(W @ y)\n"
    return f"op f(x: [D]) -> [D] {{\n{body}  return {returns} + w\n}}\n"


def _mended(name: str, form: Form) -> tuple[Elaborated, str]:
    """The op with the remedy applied, under the first `return` that its value fits."""
    found = elaborate(_written(name, form, "x"))
    told = [d for d in found.said if d.span.line == 4 and d.code != "E0507"]
    text = _written(name, form, "x")
    if told:
        text = mended(text, told[0])
        assert re.search(r"add `|write `", told[0].help), told[0].help
    for returns in RETURNS:
        right = elaborate(text.replace("return x", f"return {returns}"))
        if not right.said:
            return right, returns
    raise AssertionError([d.message for d in right.said] + [text])


@pytest.mark.parametrize("name, form", PAIRS, ids=[f"{name}_{len(form.formals)}" for name, form in PAIRS])
def test_a_form_is_right(name: str, form: Form) -> None:
    right, returns = _mended(name, form)
    meaning = MEANINGS.get((name, len(form.formals)))
    if meaning is None or returns not in ("v", "v*x"):
        return
    fed = tokens((8,), 3)
    outputs, _ = right.run(fed)
    for x, out in zip(fed, outputs, strict=True):
        wanted = meaning(*[x, 2 - x, x * x][: len(form.formals)])
        np.testing.assert_allclose(out, wanted * x if returns == "v*x" else wanted, rtol=1e-5, atol=1e-6)


def test_every_meaning_has_its_form() -> None:
    assert {(name, len(form.formals)) for name, form in PAIRS} >= set(MEANINGS)


@pytest.mark.parametrize("name", ["tril", "TopK", "view", "LSTM", "Conv1d", "True"])
def test_words_are_said_however_they_are_cased(name: str) -> None:
    assert knows(name) and in_general(name)


def test_a_function_of_one_vector_is_given_as_an_op() -> None:
    for name, form in PAIRS:
        if (said := as_op(name)).startswith("add") and name not in RESERVED:
            text = re.findall("`([^`]+)`", said)[0]
            assert not elaborate(text, op=name).said, text
            assert form is not None and squashed(name) == name


def test_nothing_is_said_of_what_nobody_knows() -> None:
    assert not knows("frobnicate") and not in_general("frobnicate") and not as_op("frobnicate")
