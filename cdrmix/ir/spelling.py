"""Array expressions as Python code: what libraries of tensors have in common, and a table of what they call things.

Input: an `Array` (`ir/arrays.py`) and the names of its locals.  Output: `Code`.  A library is a subclass: its
`functions` name the elementwise operations that are no operators, and a method with an operation's name says how it is
written where that differs.  Operands are brought to broadcast here: permuted, with axes of length one where they lack
some.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from cdrmix.ir.arrays import Array, Local
from cdrmix.ir.code import (
    ADD,
    AND,
    BITAND,
    BITOR,
    COMPARE,
    MUL,
    NEG,
    NOT,
    OR,
    POW,
    Choice,
    Code,
    Infix,
    Prefix,
    call,
    item,
    listed,
    method,
    name,
    number,
)
from cdrmix.ir.nodes import Index
from cdrmix.ir.ops import OPS
from cdrmix.ir.python import Names, text

INFIX = {
    "add": ("+", ADD), "sub": ("-", ADD), "mul": ("*", MUL), "div": ("/", MUL), "floordiv": ("//", MUL),
    "mod": ("%", MUL), "pow": ("**", POW), "eq": ("==", COMPARE), "ne": ("!=", COMPARE), "lt": ("<", COMPARE),
    "le": ("<=", COMPARE), "gt": (">", COMPARE), "ge": (">=", COMPARE), "and": ("&", BITAND), "or": ("|", BITOR),
}  # fmt: skip
OF_NUMBERS = {f: f"math.{f}" for f in ("exp", "log", "sqrt", "sin", "cos", "tanh")} | {"abs": "abs"}
"""Functions of Python's own numbers."""
REDUCTIONS = {"sum": "sum", "mean": "mean", "max_over": "max", "min_over": "min"}
LEAVES = ("const", "index", "context", "read")


@dataclass(slots=True)
class Spelling:
    """Code of the arrays of one function; `given` holds the names of its locals."""

    names: Names
    given: dict[Local, str] = field(default_factory=dict)

    functions: ClassVar[Mapping[str, str]] = {}
    leading: ClassVar[bool] = False
    """Whether every tensor has the leading axes, one long where it does not vary."""
    infinity: ClassVar[str] = "math.inf"

    def fresh(self, local: Local) -> Code:
        """The name of a local that is being defined."""
        self.given[local] = self.names.fresh(local.hint)
        return name(self.given[local])

    def of(self, x: Array) -> Code:
        """The code of an array."""
        rule: Callable[[Array], Code] | None = getattr(self, f"{x.op}_", None)
        return rule(x) if rule is not None else self.elementwise(x)

    def enter_loop(self) -> Code:
        """Turn to one token at a time; how many there are."""
        raise NotImplementedError

    def leave_loop(self) -> None:
        """Turn back to whole sequences."""

    # --- leaves ----------------------------------------------------------------------------------------------------
    def number_(self, x: Array) -> Code:
        return number(x.arg)

    def local_(self, x: Array) -> Code:
        return name(self.given[x.arg])

    def rename_(self, x: Array) -> Code:
        return self.of(x.args[0])

    def turn_(self, x: Array) -> Code:
        return self.of(x.args[0])

    def whole_(self, x: Array) -> Code:
        return call("int", self.of(x.args[0]))

    # --- elementwise -----------------------------------------------------------------------------------------------
    def elementwise(self, x: Array) -> Code:
        """An operator, or a function of the table."""
        if x.type == "number":
            return self._of_numbers(x)
        args = [self.fit(a, x.dims) for a in x.args]
        if x.op in INFIX:
            return self.operator(x, args)
        return call(self.functions[x.op], *args)

    def operator(self, x: Array, args: Sequence[Code]) -> Code:
        """An operator between two operands."""
        sign, binds = INFIX[x.op]
        return Infix(sign, binds, args[0], args[1])

    def _of_numbers(self, x: Array) -> Code:
        args = [self.of(a) for a in x.args]
        match x.op:
            case "and" | "or":
                return Infix(x.op, AND if x.op == "and" else OR, args[0], args[1])
            case "not":
                return Prefix("not ", NOT, args[0])
            case "select":
                return Choice(args[1], args[0], args[2])
            case "max" | "min":
                return call(x.op, *args)
        return self.operator(x, args) if x.op in INFIX else call(OF_NUMBERS[x.op], *args)

    def neg_(self, x: Array) -> Code:
        return Prefix("-", NEG, self.fit(x.args[0], x.dims))

    # --- axes ------------------------------------------------------------------------------------------------------
    def fit(self, x: Array, dims: Sequence[Index]) -> Code:
        """The array brought to broadcast over `dims`: its axes in that order, length one where it lacks some."""
        if x.type == "number":
            return self.of(x)
        wanted = tuple(d for d in dims if d in x.dims)
        code = self.of(x) if x.dims == wanted else self.permuted(x, wanted)
        pattern = [":" if d in x.dims else "None" for d in dims]
        if not x.lead and not self.leading:
            while pattern and pattern[0] == "None":
                pattern.pop(0)
        if "None" not in pattern:
            return code
        while pattern[0] == ":":
            pattern.pop(0)
        return item(code, "...", *pattern)

    def permute_(self, x: Array) -> Code:
        return self.permuted(x.args[0], x.dims)

    def permuted(self, x: Array, dims: tuple[Index, ...]) -> Code:
        """The array with its axes in another order."""
        raise NotImplementedError

    def at_(self, x: Array) -> Code:
        (of,), places = x.args, dict(x.arg)
        pattern = [str(places[p]) if p in places else ":" for p in range(len(of.dims))]
        if of.lead or self.leading:
            while pattern[0] == ":":
                pattern.pop(0)
            return item(self.of(of), "...", *pattern)
        while pattern[-1] == ":":
            pattern.pop()
        return item(self.of(of), *pattern)

    def slice_(self, x: Array) -> Code:
        p, start, size = x.arg
        end = start + x.dims[p].axis.size
        whole = end == size
        return item(self.of(x.args[0]), "...", f"{start or ''}:{'' if whole else end}", *[":"] * (len(x.dims) - p - 1))

    def flip_(self, x: Array) -> Code:
        return method(self.of(x.args[0]), "flip", x.arg - len(x.dims))

    def stored_(self, x: Array) -> Code:
        raise NotImplementedError

    # --- along axes ------------------------------------------------------------------------------------------------
    def axes(self, x: Array, indices: Sequence[Index]) -> Code:
        """Where axes are, as an argument."""
        found = [x.position(i) for i in indices]
        return number(found[0]) if len(found) == 1 else listed(*found)

    def sum_(self, x: Array) -> Code:
        return method(self.of(x.args[0]), REDUCTIONS[x.op], self.axes(x.args[0], x.arg))

    mean_ = max_over_ = min_over_ = sum_

    def contract_(self, x: Array) -> Code:
        """A product of several tensors, summed: an einsum."""
        letters = _letters_of(list(dict.fromkeys((*x.dims, *(d for a in x.args for d in a.dims)))))
        *terms, result = ("..." * a.lead + "".join(letters[d] for d in a.dims) for a in (*x.args, x))
        return call(self.functions["einsum"], text(f"{','.join(terms)}->{result}"), *map(self.of, x.args))

    def masked_(self, x: Array) -> Code:
        there, given = (self.fit(a, x.dims) for a in x.args)
        return call(self.functions["select"], there, given, number(x.arg, self.infinity))

    def count_(self, x: Array) -> Code:
        return method(self.of(x.args[0]), "sum", -1)

    def softmax_(self, x: Array) -> Code:
        return call(self.functions["softmax"], self.of(x.args[0]), x.position(x.arg))

    def logsumexp_(self, x: Array) -> Code:
        return call(self.functions["logsumexp"], self.of(x.args[0]), self.axes(x.args[0], x.arg))


def _letters_of(dims: Sequence[Index]) -> dict[Index, str]:
    """A letter for each axis, its own first one where that is free."""
    found: dict[Index, str] = {}
    free = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    for d in dims:
        found[d] = d.name[:1] if d.name[:1] in free else free[0]
        free.remove(found[d])
    return found


def rules_of(spelling: type[Spelling]) -> frozenset[str]:
    """The primitives that a library's spelling has."""
    own = {m.removesuffix("_") for m in dir(spelling) if m.endswith("_") and not m.startswith("_")}
    return frozenset({*LEAVES, *INFIX, *spelling.functions, *own}) & OPS.keys()
