"""The emission rules of elementwise ops: what each row of the ops table is in C.

Input: the kind of number an op is computed in, and its operands as C expressions.  Output: a C expression.

Kinds: `f` a float; `d` a double, for what depends on no tensor (constants, indices, `pos`), so that angles and decays
lose nothing; `i` an int64_t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Node
from cdrmix.ir.ops import OPS as ROWS

Kind = Literal["f", "d", "i"]
TYPES: dict[Kind, str] = {"f": "float", "d": "double", "i": "int64_t"}

# How tightly a C expression binds.
ATOM, UNARY, PRODUCT, TOTAL, LOOSE = 5, 4, 3, 2, 1


@dataclass(frozen=True, slots=True)
class Text:
    """A C expression and how tightly it binds; `value` where it is a whole number that is known."""

    c: str
    binds: int = ATOM
    value: int | None = None

    def inside(self, least: int) -> str:
        """The expression where it must bind at least so tightly."""
        return self.c if self.binds >= least else f"({self.c})"


Rule = Callable[[Kind, Node, list[Text]], Text]


def _infix(sign: str, binds: int) -> Rule:
    # the right operand of - and / must bind tighter: they group to the left
    return lambda kind, n, args: Text(f"{args[0].inside(binds)} {sign} {args[1].inside(binds + 1)}", binds)


def _compare(sign: str) -> Rule:
    def rule(kind: Kind, n: Node, args: list[Text]) -> Text:
        # a truth value compared with a number: compilers warn of it unless it is made a number
        given = [Text(f"cdr_number({t.c})") if m.dtype == "bool" else t for m, t in zip(n.args, args, strict=True)]
        a, b = (text.inside(TOTAL) for text in given)
        if n.args[0] == n.args[1] and n.args[0].dtype not in FLOATS:  # compilers warn of `i < i`
            return Text("1" if n.op in ("eq", "le", "ge") else "0")
        return Text(f"{a} {sign} {b}", LOOSE)

    return rule


def _logic(sign: str) -> Rule:
    def rule(kind: Kind, n: Node, args: list[Text]) -> Text:
        a, b = (_truth(arg, text) for arg, text in zip(n.args, args, strict=True))
        return Text(f"{a} {sign} {b}", LOOSE)

    return rule


def _truth(n: Node, text: Text) -> str:
    """A condition: compilers warn of arithmetic that stands for one."""
    return text.inside(ATOM) if n.dtype == "bool" else f"({text.inside(TOTAL)} != 0)"


def _call(f: str, d: str, i: str | None = None) -> Rule:
    names = {"f": f, "d": d, "i": i}

    def rule(kind: Kind, n: Node, args: list[Text]) -> Text:
        if names[kind] is None:
            raise ValueError(f"`{n.op}` of whole numbers")
        return Text(f"{names[kind]}({', '.join(a.c for a in args)})")

    return rule


def _ours(name: str, i: str | None = None) -> Rule:
    return _call(f"cdr_{name}", f"cdr_{name}_d", i)


def _negate(kind: Kind, n: Node, args: list[Text]) -> Text:
    return Text(f"-{args[0].inside(ATOM)}", UNARY)


def _not(kind: Kind, n: Node, args: list[Text]) -> Text:
    return Text(f"!{_truth(n.args[0], args[0])}", UNARY)


def _select(kind: Kind, n: Node, args: list[Text]) -> Text:
    then, other = (a.inside(UNARY) for a in args[1:])
    return Text(f"{_truth(n.args[0], args[0])} ? {then} : {other}", 0)


_POWERS = {2: _ours("square"), 3: _ours("cube"), 0.5: _call("sqrtf", "sqrt")}


def _power(kind: Kind, n: Node, args: list[Text]) -> Text:
    exponent = n.args[1]
    if kind != "i" and exponent.op == "const" and exponent.arg in _POWERS:
        return _POWERS[exponent.arg](kind, n, args[:1])
    return _call("powf", "pow", "cdr_pow_i")(kind, n, args)


_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_LIBRARY = ("exp", "log", "sqrt", "sin", "cos", "tanh", "log1p", "expm1", "erf", "floor", "atan2")
_OURS = ("sigmoid", "silu", "relu", "softplus", "logaddexp")
_OURS_WHOLE = ("floordiv", "mod", "max", "min", "sign")

ELEMENTWISE: dict[str, Rule] = {
    "add": _infix("+", TOTAL),
    "sub": _infix("-", TOTAL),
    "mul": _infix("*", PRODUCT),
    "div": _infix("/", PRODUCT),
    "pow": _power,
    "neg": _negate,
    "and": _logic("&&"),
    "or": _logic("||"),
    "not": _not,
    "select": _select,
    "abs": _call("fabsf", "fabs", "cdr_abs_i"),
    "round": _call("rintf", "rint"),
    **{op: _compare(sign) for op, sign in _COMPARISONS.items()},
    **{op: _call(f"{op}f", op) for op in _LIBRARY},
    **{op: _ours(op) for op in _OURS},
    **{op: _ours(op, f"cdr_{op}_i") for op in _OURS_WHOLE},
}

LEAVES = ("const", "index", "context", "read")
REDUCTIONS = ("sum", "mean", "max_over", "min_over", "logsumexp", "softmax")

OPS: frozenset[str] = frozenset((*ELEMENTWISE, *LEAVES, *REDUCTIONS))
"""The rows of the ops table that this target has."""


def operand_kinds(n: Node, kind: Callable[[Node], Kind]) -> list[Kind]:
    """The kinds in which an elementwise op wants its operands."""
    own = kind(n)
    if n.op in ("and", "or", "not"):
        return [kind(a) for a in n.args]
    if n.op == "select":
        return [kind(n.args[0]), own, own]
    if ROWS[n.op].result == "bool":
        widest: Kind = max((kind(a) for a in n.args), key="idf".index)
        return [widest] * len(n.args)
    return [own] * len(n.args)
