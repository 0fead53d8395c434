"""How arrays are written in tinygrad.

Input: an `Array` of a function being written.  Output: code over the tensors of a `Frame`, `here.weight("W")`; every
tensor has the axes [B, T] in front, one long where it does not vary along them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Self

from cdrmix.ir.arrays import Array
from cdrmix.ir.code import Code, call, infix, item, listed, method, name, number
from cdrmix.ir.nodes import Index
from cdrmix.ir.python import text
from cdrmix.ir.spelling import Spelling, rules_of

FUNCTIONS = (
    "exp", "sigmoid", "silu", "tanh", "softplus", "logaddexp", "sin", "cos", "softmax", "logsumexp", "log1p", "expm1",
    "erf", "round", "atan2",
)  # fmt: skip
"""Functions of the runtime, exact to f32."""

METHODS = {m: m for m in ("log", "sqrt", "abs", "sign", "relu", "floor")} | {"max": "maximum", "min": "minimum"}
TYPES = {"float": "float", "exact": "double", "int": "int"}


def quoted(of: str) -> Code:
    """A text."""
    return name(text(of))


def slot(state: str) -> Code:
    """A state before the block."""
    return call("here.state", quoted(state))


def viewed(code: Code, old: Sequence[int], new: Sequence[int]) -> Code:
    """A tensor [B, T, *old] seen as [B, T, *new], row-major."""
    return code if [*old] == [*new] else call("view", code, *new)


@dataclass(slots=True)
class Tinygrad(Spelling):
    """`sizes` are those of B and T, `pos` the tokens' places."""

    sizes: tuple[str, str] = ("b", "t")

    functions: ClassVar[dict[str, str]] = {f: f for f in FUNCTIONS} | METHODS
    leading: ClassVar[bool] = True

    def of_token(self) -> tuple[Code, Self]:
        b, t = self.sizes
        return name(t), replace(self, sizes=(b, "1"))

    # --- leaves ----------------------------------------------------------------------------------------------------
    def number_(self, x: Array) -> Code:
        value = int(x.arg) if isinstance(x.arg, bool) else x.arg
        return name(f'float("{value}")') if abs(value) == float("inf") or value != value else number(value)

    def constant(self, x: Array, axes: int = 0) -> Code:
        """A number as a tensor, one long along every axis."""
        value = self.number_(x) if x.type == "int" or isinstance(x.arg, float) else number(float(x.arg))
        return call("constant", value, *[1] * axes)

    def stored_(self, x: Array) -> Code:
        return call("here.weight", quoted(x.arg.name), *(x.arg.sizes or ()))

    def places_(self, x: Array) -> Code:
        return call("places", x.arg.axis.size)

    def context_(self, x: Array) -> Code:
        return name("here.pos")

    def token_(self, x: Array) -> Code:
        t = self.given[x.args[1].arg]
        return item(self.of(x.args[0]), ":", f"{t} : {t} + 1")

    # --- between types ---------------------------------------------------------------------------------------------
    def cast_(self, x: Array) -> Code:
        (given,) = x.args
        if given.type == "number":
            return call("constant", str(bool(given.const))) if x.type == "bool" else self.constant(given)
        if given.op in ("sin", "cos") and given.args[0].type == "turn":
            return self.of(given)  # f32 as it is
        code = self.of(given)
        return method(code, "ne", 0) if x.type == "bool" else method(code, TYPES[x.type])

    def expand_(self, x: Array) -> Code:
        (given,) = x.args
        sizes: list[str | int] = [*(self.sizes if x.arg else ("1", "1")), *(i.axis.size for i in x.dims)]
        if given.type == "number":
            value = call("constant", str(given.const), *[1] * len(x.dims)) if x.type == "int" else None
            code = value or self.constant(given, len(x.dims))
        else:
            code = self.fit(given, x.dims)
        return method(code, "expand", *sizes)

    def spread_(self, x: Array) -> Code:
        has, sizes = x.arg
        pattern = [":" if there else "None" for there in has]
        return method(item(self.of(x.args[0]), ":", ":", *pattern), "expand", -1, -1, *sizes)

    def turn_(self, x: Array) -> Code:
        return call("within_a_turn", self.of(x.args[0]))

    # --- elementwise -----------------------------------------------------------------------------------------------
    def elementwise(self, x: Array) -> Code:
        if x.op in METHODS:
            first, *rest = sorted(x.args, key=lambda a: a.type == "number") if len(x.args) > 1 else x.args
            return method(self.fit(first, x.dims), METHODS[x.op], *(self.fit(a, x.dims) for a in rest))
        return Spelling.elementwise(self, x)

    def operator(self, x: Array, args: Sequence[Code]) -> Code:
        match x.op:
            case "pow" if x.type == "int":
                return call("whole_power", *args)
            case "floordiv" | "mod" if x.type != "int":
                return call("floor_divide" if x.op == "floordiv" else "remainder", *args)
            case "eq" | "ne" | "lt" | "le" | "gt" | "ge" if x.args[0].type == "number":
                first = x.args[0]  # Python would compare it the other way round
                made = self.constant(first) if x.args[1].type == "float" else call("constant", args[0])
                args = [made, args[1]]
        return Spelling.operator(self, x, args)

    def sin_(self, x: Array) -> Code:
        near = {"far": name("False")} if x.args[0].type == "turn" else {}
        return call(x.op, self.fit(x.args[0], x.dims), **near)

    cos_ = sin_

    def not_(self, x: Array) -> Code:
        return method(self.fit(x.args[0], x.dims), "logical_not")

    def select_(self, x: Array) -> Code:
        cond, then, other = (self.fit(a, x.dims) for a in x.args)
        return method(cond, "where", then, other)

    def masked_(self, x: Array) -> Code:
        there, given = x.args
        fill = name(f'float("{x.arg}")')
        return method(self.fit(there, x.dims), "where", self.fit(given, x.dims), fill)

    def count_(self, x: Array) -> Code:
        return method(method(self.of(x.args[0]), "float"), "sum", -1)

    # --- axes ------------------------------------------------------------------------------------------------------
    def reshaped(self, code: Code, old: Sequence[int], new: Sequence[int]) -> Code:
        return viewed(code, old, new)

    def permuted(self, x: Array, dims: tuple[Index, ...]) -> Code:
        return self.ordered(self.of(x), x.dims, dims)

    def rows_(self, x: Array) -> Code:
        of, *places = x.args
        return call("here.row", quoted(of.arg.name), self.of(places[0])) if x.arg[2] else self.index_(x)

    def index_(self, x: Array) -> Code:
        code, flat, rest, found = self.flattened(x)
        return self.ordered(call("take", code, flat), [*rest, *found], x.dims)

    pick_ = index_

    def place(self, x: Array, found: Sequence[Index]) -> Code:
        if x.type == "number":
            return call("constant", self.of(x))
        code = self.fit(x, found)
        return method(code, "int") if x.type == "bool" else code

    # --- along axes ------------------------------------------------------------------------------------------------
    def mean_(self, x: Array) -> Code:
        """Of a named tensor, or of its square, along its last axis: a kernel for long rows."""
        (given,) = x.args
        square = given.op == "pow" and given.args[1].const == 2
        row = given.args[0] if square else given
        if row.op == "local" and row.type == "float" and row.lead and x.arg == row.dims[-1:] == given.dims[-1:]:
            return call("mean_square" if square else "mean", self.of(row))
        return self.sum_(x)

    def contract_(self, x: Array) -> Code:
        how = x.arg
        if how.weight is not None:
            return self._product(x)
        dims = (*x.dims, *how.bound)
        code = self.fit(x.args[0], dims)
        for a in x.args[1:]:
            code = infix("*", code, self.fit(a, dims))
        last = [*range(-len(how.bound), 0)]
        return method(code, "sum", number(-1) if len(last) == 1 else listed(*last))

    def _product(self, x: Array) -> Code:
        how, (weight, given) = x.arg, x.args
        more: dict[str, Code] = {}
        if how.groups:
            more["groups"] = listed(*(i.axis.size for i in how.groups))
        if len(how.along) > 1:
            more["along"] = number(len(how.along))
        code = call("here.product", quoted(weight.arg.name), self.of(given), **more)
        sizes = [i.axis.size for i in x.dims]
        kept = sizes[: len(sizes) - len(how.outs)]
        return viewed(code, [*kept, prod(i.axis.size for i in how.outs)], sizes)


OPS = rules_of(Tinygrad)
