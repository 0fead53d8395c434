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


_ARITHMETIC = {"add": ("+", TOTAL), "sub": ("-", TOTAL), "mul": ("*", PRODUCT), "div": ("/", PRODUCT)}
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_LOGIC = {"and": "&&", "or": "||"}
_EXACT = ("sqrt", "floor")
_LIBRARY = ("log", "sin", "cos", "tanh", "log1p", "expm1", "erf", "atan2", "pow")
_OURS = ("exp", "sigmoid", "silu", "relu", "softplus", "logaddexp")
_OURS_WHOLE = ("floordiv", "mod", "max", "min", "sign")
_CALLS: dict[str, tuple[str, ...]] = {
    "abs": ("fabsf", "fabs", "cdr_abs_i"),
    "round": ("rintf", "rint"),
    **{op: (f"{op}f", op) for op in _EXACT},
    **{op: (f"cdr_{op}", op) for op in _LIBRARY},
    "pow": ("cdr_pow", "pow", "cdr_pow_i"),
    **{op: (f"cdr_{op}", f"cdr_{op}_d") for op in _OURS},
    **{op: (f"cdr_{op}", f"cdr_{op}_d", f"cdr_{op}_i") for op in _OURS_WHOLE},
}
"""Functions of floats, of doubles and of whole numbers."""
_POWERS = {2: ("cdr_square", "cdr_square_d"), 3: ("cdr_cube", "cdr_cube_d"), 0.5: ("sqrtf", "sqrt")}

ELEMENTWISE = frozenset({*_ARITHMETIC, *_COMPARISONS, *_LOGIC, *_CALLS, "neg", "not", "select"})


def elementwise(n: Node, kind: Kind, args: list[Text], wants: list[Kind]) -> Text:
    """An elementwise op in C; its operands are of the kinds `wants`."""
    match n.op:
        case op if op in _ARITHMETIC:
            sign, binds = _ARITHMETIC[op]
            # the right operand of - and / must bind tighter: they group to the left
            return Text(f"{args[0].inside(binds)} {sign} {args[1].inside(binds + 1)}", binds)
        case op if op in _COMPARISONS:
            if n.args[0] == n.args[1] and n.args[0].dtype not in FLOATS:  # compilers warn of `i < i`
                return Text("1" if op in ("eq", "le", "ge") else "0")
            # a truth value compared with a number: compilers warn of it unless it is made a number
            a, b = (
                f"cdr_number({t.c})" if m.dtype == "bool" and want == "i" else t.inside(TOTAL)
                for m, t, want in zip(n.args, args, wants, strict=True)
            )
            return Text(f"{a} {_COMPARISONS[op]} {b}", LOOSE)
        case op if op in _LOGIC:
            return Text(f" {_LOGIC[op]} ".join(map(_truth, n.args, args)), LOOSE)
        case "neg":
            return Text(f"-{args[0].inside(ATOM)}", UNARY)
        case "not":
            return Text(f"!{_truth(n.args[0], args[0])}", UNARY)
        case "select":
            then, other = (a.inside(UNARY) for a in args[1:])
            return Text(f"{_truth(n.args[0], args[0])} ? {then} : {other}", 0)
    names = _CALLS[n.op]
    if n.op == "pow" and kind != "i" and n.args[1].op == "const" and n.args[1].arg in _POWERS:
        names, args = _POWERS[n.args[1].arg], args[:1]
    place = ("f", "d", "i").index(kind)
    if place == len(names):
        raise ValueError(f"`{n.op}` of whole numbers")
    return Text(f"{names[place]}({', '.join(a.c for a in args)})")


def _truth(n: Node, text: Text) -> str:
    """A condition: compilers warn of arithmetic that stands for one."""
    return text.inside(ATOM) if n.dtype == "bool" else f"({text.inside(TOTAL)} != 0)"


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
