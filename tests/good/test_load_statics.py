"""Static expressions: values by the numbered rules, and a coded mistake for everything that has none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cdrmix.check.names.modules import ModuleEnv
from cdrmix.check.names.scope import OpDecl, OpValue, Scope, Static
from cdrmix.check.names.statics import evaluate
from cdrmix.check.names.values import Failed, show
from cdrmix.diagnose import Report
from cdrmix.ir.ops import FUNCTIONS
from cdrmix.ir.ops import OPS as OPS_TABLE
from cdrmix.syntax import ast, parse

OPS = """
op f(x: [D], n: int, rate: float = 0.5, on: bool = false, how: string = "a", g: op = h) -> [D] { return x }
op h(x: [D]) -> [D] { return x }
let two = 2
let ring_a = ring_b + 1
let ring_b = ring_a
"""


def value(text: str) -> tuple[Static | None, Report]:
    module, report, scope = parse(f"{OPS}\nlet it = {text}\n", "t.cdr"), Report(), Scope("t.cdr")
    for item in module.items:
        match item:
            case ast.OpDef():
                made = OpDecl(item.name, scope, item.formals, item.type, item.body, "", item.span)
                scope.ops[item.name] = made
            case ast.Let():
                scope.lets[item.name] = item, scope
    let = module.items[-1]
    assert isinstance(let, ast.Let)
    try:
        return evaluate(let.value, ModuleEnv(scope, report), report), report
    except Failed:
        return None, report


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7 / 2", 3.5),
        ("6 / 2", 3.0),
        ("-7 // 2", -4),
        ("-7 % 4", 1),
        ("2^10", 1024),
        ("2^-1", 0.5),
        ("-2^2", -4),
        ("2^3^2", 512),
        ("two + 1", 3),
        ("max(two, 3) - min(1, 2)", 2),
        ("sqrt(9)", 3.0),
        ("floor(2.7) + ceil(2.1)", 5),
        ("round(2.5) + 10*round(3.5) + 100*round(-0.4)", 42),
        ("abs(-3)", 3),
        ("exp(0) + log(1)", 1.0),
        ("1 < 2", True),
        ("not (1 < 2 and 2 < 1)", True),
        ("1 if two == 2 else 1 / 0", 1),
        ("two == 2 or 1 / 0 > 1", True),
        ('"a" == "b"', False),
        ("h == h", True),
        ("h == f", False),
        ("1 + (2 > 1)", 2),
        ("9_223_372_036 * 2", 18446744072),
    ],
)
def test_values(text: str, expected: Static) -> None:
    found, report = value(text)
    assert not report.diagnostics
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("1 / 0", "E0215", "division by zero"),
        ("1 // 0", "E0215", "division by zero"),
        ("(-8)^(1/3)", "E0215", "a broken power"),
        ("1 % 0", "E0215", "division by zero"),
        ("0^-1", "E0215", "division by zero"),
        ("10^10^10", "E0215", "too large"),
        ("2^63", "E0215", "too large"),
        ("10.0^400", "E0215", "no finite value"),
        ("(-8)^0.5", "E0215", "negative"),
        ("log(0)", "E0215", "no finite value"),
        ("sqrt(-1)", "E0215", "no finite value"),
        ("exp(1000)", "E0215", "no finite value"),
        ("floor(1e300)", "E0215", "too large"),
        ('1 + "a"', "E0216", "wants numbers"),
        ('"a" < "b"', "E0216", "wants numbers"),
        ("not 1", "E0216", "true or false"),
        ("1 if two else 2", "E0216", "true or false"),
        ("two(3)", "E0216", "cannot be called"),
        ("h >> h", "E0216", "`>>`"),
        ("tow", "E0201", "no name `tow`"),
        ("a.b", "E0201", "no name `a.b`"),
        ("sqrt", "E0201", "is a function"),
        ("sqrt(1, 2)", "E0209", "takes one number"),
        ("max(a=1, b=2)", "E0209", "takes 2 numbers"),
        ("pos", "E0213", "`pos`"),
        ("x'", "E0213", "`x'`"),
        ("x[1]", "E0213", "not known"),
        ("h @ h", "E0213", "`@`"),
        ("ring_a", "E0206", "ring_a → ring_b → ring_a"),
        ("f(m=2)", "E0209", "no argument `m`"),
        ("f(x=2)", "E0209", "its input"),
        ("h(1)", "E0209", "no more arguments"),
        ("f(1, n=1, n=2)", "E0218", "given twice"),
        ("f(2.5)", "E0214", "2.5 is a float"),
        ("f(4 / 2)", "E0214", "2.0 is a float"),
        ("f(true)", "E0214", "true is a bool"),
        ("f(1, on=1)", "E0214", "1 is an int"),
        ('f(1, g="h")', "E0214", '"h" is a string'),
        ("f(1, how=1)", "E0214", "1 is an int"),
    ],
)
def test_mistakes(text: str, code: str, words: str) -> None:
    found, report = value(text)
    assert found is None
    assert [d.code for d in report.diagnostics] == [code]
    assert words in report.diagnostics[0].message
    assert report.diagnostics[0].span.line > 0


def test_every_operand_is_looked_at() -> None:
    _, report = value("tow + f(m=1)")
    assert [d.code for d in report.diagnostics] == ["E0201", "E0209"]
    assert report.diagnostics[0].help == "did you mean `two`?"


def test_arguments_are_bound_in_the_order_of_the_formals() -> None:
    found, _ = value("f(rate=1, 3)")
    assert isinstance(found, OpValue)
    assert found.args == (("n", 3), ("rate", 1.0))
    assert type(dict(found.args)["rate"]) is float
    again, _ = value("f(3)(1, n=4, g=h)")
    assert show(again) == "f(n=4, rate=1.0, g=h)"  # type: ignore[arg-type]


def test_op_values_cannot_double_without_end() -> None:
    doubled = "h"
    for _ in range(12):
        doubled = f"f(1, g={doubled})"
    found, _ = value(doubled)
    assert found is not None
    chain = "\n".join(f"let g{i} = p(g{i - 1}, g{i - 1})" for i in range(1, 40))
    _, report = value(f"g39\nop p(x: [D], a: op, b: op) -> [D] {{ return x }}\nlet g0 = h\n{chain}\nlet last_ = g39")
    assert "E0219" in [d.code for d in report.diagnostics]


def test_strings_are_shown_without_control_characters() -> None:
    assert show("a\x1b[31m") == '"a\\x1b[31m"'
    assert len(show("a" * 1000)) < 70


def test_numbers_stay_finite_through_functions() -> None:
    found, _ = value("log(2)")
    assert isinstance(found, float) and math.isclose(found, math.log(2))


@pytest.mark.parametrize("x", [-745.0, -80.0, -37.5, -30.0, -1e-16, 1e-300, 0.3, 37.0])
def test_functions_and_operators_are_the_tables(x: float) -> None:
    """A setting, a folded constant and the running program compute the same number."""
    for name, op in FUNCTIONS.items():
        defined = {"log": x > 0, "sqrt": x >= 0, "log1p": x > -1}.get(name, name != "not")
        if op.arity == 1 and defined:
            found, report = value(f"{name}({x!r})")
            assert not report.diagnostics and op.numpy is not None
            assert found == float(op.numpy(np.array([x]))[0])
    for name in ("add", "sub", "mul", "div", "floordiv", "mod", "pow"):
        op = OPS_TABLE[name]
        found, report = value(f"({abs(x)!r}) {op.surface} 1.7")
        assert not report.diagnostics and op.numpy is not None
        assert found == float(op.numpy(np.array([abs(x)]), np.array([1.7]))[0])
