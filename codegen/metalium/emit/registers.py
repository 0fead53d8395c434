"""An expression over the tiles of DST.

Input: an expression, and for each operand how its tile is filled: whole, or a vector in row 0 or column 0.
Output: calls of `elementwise.h`, one a line, and the register of the result.

The operand that needs more registers comes first (Sethi and Ullman), so eight suffice for every tree of up to 128
leaves.  Vectors stay vectors as long as they meet only their like, and are broadcast where they meet a whole tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from cdrmix.ir.nodes import Node
from cdrmix.ir.steps import Map

from ..plan import Program

Filling = Literal["whole", "row", "column", "number"]
"""`number`: the same everywhere, whatever it meets."""

REGISTERS = 8
"""Tiles of f32 in DST under `dst_full_sync_en`."""
_CALLS = {
    "neg": "negate", "exp": "exponential", "log": "logarithm", "sqrt": "square_root", "abs": "absolute", "sign": "sign",
    "sin": "sine", "cos": "cosine", "tanh": "tangent_hyperbolic", "sigmoid": "sigmoid", "relu": "relu",
    "log1p": "logarithm_plus_one", "expm1": "exponential_minus_one", "floor": "round_down", "not": "is_zero",
    "tf32": "keep_fpu_bits", "add": "add", "sub": "subtract", "mul": "multiply", "div": "divide", "pow": "power",
    "max": "maximum", "min": "minimum", "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal",
    "gt": "greater", "ge": "greater_equal", "or": "maximum", "and": "multiply", "floordiv": "divide",
    "select": "choose", "silu": "silu", "softplus": "softplus", "logaddexp": "log_add_exp", "mod": "modulo",
    "round": "round_to_even", "erf": "error_function", "atan2": "angle",
}  # fmt: skip
_SPARES = {"silu": 1, "softplus": 1, "logaddexp": 1, "mod": 1, "round": 3, "erf": 3, "atan2": 4}
"""How many registers functions need besides their operands', the last of which else takes the result."""
_BROADCAST = ("add", "sub", "mul")
_POWERS = {2.0: ("square",), 0.5: ("square_root",), -0.5: ("reciprocal_root",), -1.0: ("reciprocal",), 1.0: ()}
_TRUTH = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not"})
ELEMENTWISE = frozenset({*_CALLS, "const"})
"""The rows of `ir.ops` (and `tf32`) that compute kernels have."""


def bits(value: float) -> str:
    """A float's bits as a C++ number."""
    return f"0x{int(np.float32(value).view(np.uint32)):08x}"


def evaluate(value: Node, fillings: Sequence[Filling]) -> tuple[list[str], int]:
    """The calls that work out an expression into one register, and which it is."""
    work = _Registers(fillings)
    result = work.whole(value)
    return work.lines, result


def fillings(program: Program, step: Map) -> list[Filling]:
    """How the operands of a step fill their tiles.  Where a matrix in tiles meets a load without the row's index, it is
    a row that all rows share; without the column's, a column."""
    found: list[Filling] = ["whole" for _ in step.loads]
    if program.arrays[step.out].layout == "tiles":
        row, column = step.indices[-2:]
        for n, load in enumerate(step.loads):
            if row not in load.free:
                found[n] = "row"
            elif column not in load.free:
                found[n] = "column"
    return found


class _Registers:
    """The calls so far and the registers that are free."""

    def __init__(self, fillings: Sequence[Filling]):
        self.fillings = fillings
        self.lines: list[str] = []
        self.free = list(range(REGISTERS))
        self.needs: dict[int, int] = {}

    # --- what is known before any call -----------------------------------------------------------------------------
    def filling(self, e: Node) -> Filling:
        """How the tile of an expression's value is filled."""
        if e.op == "operand":
            number: int = e.arg
            return self.fillings[number]
        kinds = {self.filling(a) for a in e.args} - {"number"}
        return "number" if not kinds else kinds.pop() if len(kinds) == 1 else "whole"

    def need(self, e: Node) -> int:
        """Registers that an expression takes."""
        if not e.args:
            return 1
        if id(e) not in self.needs:
            own = self.filling(e)
            mixed = any(self.filling(a) not in (own, "number") for a in e.args)
            needs = sorted((self.need(a) for a in e.args), reverse=True)
            most = max(n + held for held, n in enumerate(needs))
            self.needs[id(e)] = max(most, len(e.args) + _SPARES.get(e.op, 0)) + mixed
        return self.needs[id(e)]

    # --- registers -------------------------------------------------------------------------------------------------
    def take(self) -> int:
        if not self.free:
            raise ValueError("an expression needs more tiles than DST has")
        return self.free.pop(0)

    def release(self, *registers: int) -> None:
        self.free = sorted({*self.free, *registers})

    def call(self, name: str, *args: object, number: float | None = None) -> None:
        shown = "" if number is None else f"  // {number:.9g}"
        given = [*map(str, args), *([] if number is None else [bits(number)])]
        self.lines.append(f"tile::{name}({', '.join(given)});{shown}")

    # --- expressions -----------------------------------------------------------------------------------------------
    def whole(self, e: Node) -> int:
        """The value as a whole tile: a vector on all rows or columns."""
        filling, register = self.filling(e), self.value(e)
        if filling in ("whole", "number"):
            return register
        out = self.take()
        self.call("fill", out, number=0.0)
        self.call(f"add_{filling}", out, register)
        self.release(register)
        return out

    def value(self, e: Node) -> int:
        """The value, filled as `filling` says."""
        if e.op == "operand":
            out = self.take()
            self.lines.append(f"load_operand(cb_in, {e.arg}, {out});")
            return out
        if e.op == "const":
            out = self.take()
            self.call("fill", out, number=e.arg)
            return out
        short = _with_number(e.op, *e.args) if len(e.args) == 2 else None
        if short is not None:
            operand, names, number = short
            out = self.value(operand)
            for name in names:
                self.call(name, out, number=number)
            return out
        own, kinds = self.filling(e), {self.filling(a) for a in e.args}
        if e.op in _BROADCAST and own == "whole" and "whole" in kinds and kinds & {"row", "column"}:
            return self.with_vector(e)
        first, *others = self.operands(e.args, own)
        if e.op in ("and", "or"):
            for register, operand in zip((first, *others), e.args, strict=True):
                if operand.op not in _TRUTH:
                    self.call("is_not_zero", register)
        spares = [self.take() for _ in range(_SPARES.get(e.op, 0))]
        self.call(_CALLS[e.op], first, *others, *(spares or [first] * bool(others)))
        if e.op == "floordiv":
            self.call("round_down", first)
        self.release(*others, *spares)
        return first

    def operands(self, args: Sequence[Node], own: Filling) -> list[int]:
        """The operands' registers in order, worked out in the order that takes fewest."""
        found: dict[int, int] = {}
        for place in sorted(range(len(args)), key=lambda p: -self.need(args[p])):
            found[place] = self.whole(args[place]) if own == "whole" else self.value(args[place])
        return [found[p] for p in range(len(args))]

    def with_vector(self, e: Node) -> int:
        """A whole tile and a vector: the SFPU broadcasts as it goes."""
        tile, vector = sorted(e.args, key=lambda a: self.filling(a) != "whole")
        filling = self.filling(vector)
        out, v = self.operands((tile, vector), filling)
        self.call(f"{_CALLS[e.op]}_{filling}", out, v)
        if tile is not e.args[0] and e.op == "sub":
            self.call("negate", out)
        self.release(v)
        return out


def _with_number(op: str, left: Node, right: Node) -> tuple[Node, tuple[str, ...], float | None] | None:
    """An operation with a literal that needs no tile for it: the operand, the calls, and the number that they take."""
    if right.op == "const":
        value: float = right.arg
        match op:
            case "add" | "sub":
                return left, ("add_number",), value if op == "add" else -value
            case "mul":
                return left, ("multiply_number",), value
            case "pow" if value in _POWERS:
                return left, _POWERS[value], None
            case "max" if value == 0:
                return left, ("relu",), None
    if left.op == "const":
        match op:
            case "add" | "mul":
                return _with_number(op, right, left)
            case "sub":
                return right, ("subtract_from_number",), left.arg
            case "div" if left.arg == 1:
                return right, ("reciprocal",), None
    return None
