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

from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.steps import Load, Map

from ..plan import Program

Filling = Literal["whole", "row", "column", "number"]
"""`number`: the same everywhere, whatever it meets."""

REGISTERS = 8
"""Tiles of f32 in DST under `dst_full_sync_en`."""
_UNARY = {
    "neg": "negate",
    "exp": "exponential",
    "log": "logarithm",
    "sqrt": "square_root",
    "abs": "absolute",
    "sign": "sign",
    "sin": "sine",
    "cos": "cosine",
    "tanh": "tangent_hyperbolic",
    "sigmoid": "sigmoid",
    "relu": "relu",
    "log1p": "logarithm_plus_one",
    "expm1": "exponential_minus_one",
    "floor": "round_down",
    "not": "is_zero",
    "tf32": "keep_fpu_bits",
}
_BINARY = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "div": "divide",
    "pow": "power",
    "max": "maximum",
    "min": "minimum",
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "or": "maximum",
    "and": "multiply",
    "floordiv": "divide",
}
_SPARE = {
    "silu": ("silu", 1),
    "softplus": ("softplus", 1),
    "logaddexp": ("log_add_exp", 1),
    "mod": ("modulo", 1),
    "round": ("round_to_even", 3),
    "erf": ("error_function", 3),
    "atan2": ("angle", 4),
}
"""Functions that need registers besides their operands', and how many."""
_BROADCAST = {"add": "add", "sub": "subtract", "mul": "multiply"}
_POWERS = {2.0: ("square",), 0.5: ("square_root",), -0.5: ("reciprocal_root",), -1.0: ("reciprocal",), 1.0: ()}
_TRUTH = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not"})
ELEMENTWISE = frozenset({*_UNARY, *_BINARY, *_SPARE, "select", "const"})
"""The rows of `ir.ops` (and `tf32`) that compute kernels have."""


def bits(value: float) -> str:
    """A float's bits as a C++ number."""
    return f"0x{int(np.float32(value).view(np.uint32)):08x}"


def evaluate(value: Node, fillings: Sequence[Filling]) -> tuple[list[str], int]:
    """The calls that work out an expression into one register, and which it is."""
    work = _Registers(fillings)
    result = work.whole(value)
    return work.lines, result


def fillings(program: Program, step: Map) -> tuple[Filling, ...]:
    """How the operands of a step fill their tiles: as vectors where a matrix in tiles meets one, else whole."""
    if program.arrays[step.out].layout == "flat":
        return tuple("whole" for _ in step.loads)
    row, column = step.indices[-2:]
    return tuple(filling(load, row, column) for load in step.loads)


def filling(load: Load, row: Index, column: Index) -> Filling:
    """A load without the row's index is a row that all rows share; without the column's, a column."""
    if row not in load.free:
        return "row"
    return "whole" if column in load.free else "column"


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
        if id(e) not in self.needs:
            self.needs[id(e)] = self._need(e)
        return self.needs[id(e)]

    def _need(self, e: Node) -> int:
        if not e.args:
            return 1
        own = self.filling(e)
        mixed = any(self.filling(a) not in (own, "number") for a in e.args)
        needs = sorted((self.need(a) for a in e.args), reverse=True)
        most = max(n + held for held, n in enumerate(needs))
        return max(most, len(e.args) + _SPARE.get(e.op, ("", 0))[1]) + mixed

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
        """The value as a whole tile."""
        filling = self.filling(e)
        register = self.value(e)
        return register if filling in ("whole", "number") else self.broadcast(register, filling)

    def broadcast(self, vector: int, filling: Filling) -> int:
        """A vector on all rows or columns."""
        out = self.take()
        self.call("fill", out, number=0.0)
        self.call(f"add_{filling}", out, vector)
        self.release(vector)
        return out

    def value(self, e: Node) -> int:
        """The value, filled as `filling` says."""
        if e.op == "operand":
            out = self.take()
            self.lines.append(f"load_operand(cb_in, {e.arg}, {out});")
            return out
        match e.op:
            case "const":
                out = self.take()
                self.call("fill", out, number=e.arg)
                return out
            case "select":
                return self.select(e)
            case _ if len(e.args) == 1:
                return self.unary(e)
            case _:
                return self.binary(e)

    def unary(self, e: Node) -> int:
        out = self.value(e.args[0])
        if e.op in _SPARE:
            self.with_spares(e.op, out)
        else:
            self.call(_UNARY[e.op], out)
        return out

    def with_spares(self, op: str, *operands: int) -> None:
        name, count = _SPARE[op]
        spares = [self.take() for _ in range(count)]
        self.call(name, *operands, *spares)
        self.release(*spares)

    def binary(self, e: Node) -> int:
        left, right = e.args
        short = self.with_number(e.op, left, right)
        if short is not None:
            return short
        own, kinds = self.filling(e), (self.filling(left), self.filling(right))
        if e.op in _BROADCAST and own == "whole" and "whole" in kinds and {*kinds} & {"row", "column"}:
            return self.with_vector(e)
        a, b = self.operands(e.args, own)
        if e.op in ("and", "or"):
            for register, operand in ((a, left), (b, right)):
                if operand.op not in _TRUTH:
                    self.call("is_not_zero", register)
        if e.op in _SPARE:
            self.with_spares(e.op, a, b)
        else:
            self.call(_BINARY[e.op], a, b, a)
        if e.op == "floordiv":
            self.call("round_down", a)
        self.release(b)
        return a

    def operands(self, args: Sequence[Node], own: Filling) -> list[int]:
        """The operands' registers in order, worked out in the order that takes fewest."""
        found: dict[int, int] = {}
        for place in sorted(range(len(args)), key=lambda p: -self.need(args[p])):
            found[place] = self.whole(args[place]) if own == "whole" else self.value(args[place])
        return [found[p] for p in range(len(args))]

    def with_number(self, op: str, left: Node, right: Node) -> int | None:
        """Operations with a literal that need no tile for it."""
        if right.op == "const":
            match op:
                case "add" | "sub":
                    return self.scalar("add_number", left, right.arg if op == "add" else -right.arg)
                case "mul":
                    return self.scalar("multiply_number", left, right.arg)
                case "pow" if right.arg in _POWERS:
                    out = self.value(left)
                    for name in _POWERS[right.arg]:
                        self.call(name, out)
                    return out
                case "max" if right.arg == 0:
                    out = self.value(left)
                    self.call("relu", out)
                    return out
        if left.op == "const":
            match op:
                case "add" | "mul":
                    return self.with_number(op, right, left)
                case "sub":
                    return self.scalar("subtract_from_number", right, left.arg)
                case "div" if left.arg == 1:
                    out = self.value(right)
                    self.call("reciprocal", out)
                    return out
        return None

    def scalar(self, name: str, operand: Node, value: float) -> int:
        out = self.value(operand)
        self.call(name, out, number=value)
        return out

    def with_vector(self, e: Node) -> int:
        """A whole tile and a vector: the SFPU broadcasts as it goes."""
        left, right = e.args
        turned = self.filling(left) != "whole"
        tile, vector = (right, left) if turned else (left, right)
        filling = self.filling(vector)
        order = sorted((tile, vector), key=lambda a: -self.need(a))
        found = {id(a): self.value(a) for a in order}
        out, v = found[id(tile)], found[id(vector)]
        self.call(f"{_BROADCAST[e.op]}_{filling}", out, v)
        if turned and e.op == "sub":
            self.call("negate", out)
        self.release(v)
        return out

    def select(self, e: Node) -> int:
        condition, yes, no = self.operands(e.args, self.filling(e))
        self.call("choose", condition, yes, no, condition)
        self.release(yes, no)
        return condition
