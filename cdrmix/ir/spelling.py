"""Array expressions as Python code: what libraries of tensors have in common, and a table of what they call things.

Input: an `Array` (`ir/arrays.py`) and the names of its locals.  Output: `Code`.  A library is a subclass: its
`functions` name the elementwise operations that are no operators, and a method with an operation's name says how it is
written where that differs.  Operands are brought to broadcast here: permuted, with axes of length one where they lack
some.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import dropwhile
from math import prod
from typing import ClassVar, Self

from cdrmix.ir.arrays import Array, Local, union
from cdrmix.ir.code import Code, call, choice, infix, item, listed, method, name, number, prefix
from cdrmix.ir.nodes import Index
from cdrmix.ir.ops import OPS
from cdrmix.ir.python import Names, text

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "pow": "**", "eq": "==", "ne": "!=",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "and": "&", "or": "|",
}  # fmt: skip
OF_NUMBERS = {f: f"math.{f}" for f in ("exp", "log", "sqrt", "sin", "cos", "tanh")} | {"abs": "abs"}
"""Functions of Python's own numbers."""
LEAVES = ("const", "index", "context", "read")


@dataclass(slots=True)
class Spelling:
    """Code of the arrays of one function; `given` holds the names of its locals."""

    names: Names
    given: dict[Local, str] = field(default_factory=dict)

    functions: ClassVar[Mapping[str, str]] = {}
    reductions: ClassVar[Mapping[str, str]] = {"sum": "sum", "mean": "mean", "max_over": "max", "min_over": "min"}
    leading: ClassVar[bool] = False
    """Whether every tensor has the leading axes, one long where it does not vary."""
    infinity: ClassVar[str] = "math.inf"

    def fresh(self, local: Local) -> Code:
        """The name of a local that is being defined."""
        self.given[local] = self.names.fresh(local.hint)
        return name(self.given[local])

    def of(self, x: Array) -> Code:
        """The code of an array."""
        if x.type == "number" and x.args and x.op in OPS:
            return self._of_numbers(x)
        rule: Callable[[Array], Code] = getattr(self, f"{x.op}_", self.elementwise)
        return rule(x)

    def of_token(self) -> tuple[Code, Self]:
        """How many tokens there are, and the spelling of one of them, with the same names."""
        raise NotImplementedError

    # --- leaves ----------------------------------------------------------------------------------------------------
    def number_(self, x: Array) -> Code:
        return number(x.arg)

    def local_(self, x: Array) -> Code:
        return name(self.given[x.arg])

    def rename_(self, x: Array) -> Code:
        return self.of(x.args[0])

    turn_ = rename_

    def whole_(self, x: Array) -> Code:
        return call("int", self.of(x.args[0]))

    # --- elementwise -----------------------------------------------------------------------------------------------
    def elementwise(self, x: Array) -> Code:
        """An operator, or a function of the table."""
        args = [self.fit(a, x.dims) for a in x.args]
        if x.op in INFIX:
            return self.operator(x, args)
        return call(self.functions[x.op], *args)

    def operator(self, x: Array, args: Sequence[Code]) -> Code:
        """An operator between two operands."""
        return infix(INFIX[x.op], *args)

    def _of_numbers(self, x: Array) -> Code:
        args = [self.of(a) for a in x.args]
        match x.op:
            case "and" | "or":
                return infix(x.op, *args)
            case "neg" | "not":
                return prefix("-" if x.op == "neg" else "not ", args[0])
            case "select":
                return choice(args[1], args[0], args[2])
            case "max" | "min":
                return call(x.op, *args)
        return infix(INFIX[x.op], *args) if x.op in INFIX else call(OF_NUMBERS[x.op], *args)

    def neg_(self, x: Array) -> Code:
        return prefix("-", self.fit(x.args[0], x.dims))

    # --- axes ------------------------------------------------------------------------------------------------------
    def fit(self, x: Array, dims: Sequence[Index]) -> Code:
        """The array brought to broadcast over `dims`: its axes in that order, length one where it lacks some."""
        if x.type == "number":
            return self.of(x)
        code = self.in_order(x, tuple(d for d in dims if d in x.dims))
        pattern = [":" if d in x.dims else "None" for d in dims]
        if not x.lead and not self.leading:
            pattern = [*dropwhile(lambda there: there == "None", pattern)]
        return item(code, "...", *pattern[pattern.index("None") :]) if "None" in pattern else code

    def permute_(self, x: Array) -> Code:
        return self.permuted(x.args[0], x.dims)

    def in_order(self, x: Array, dims: tuple[Index, ...]) -> Code:
        """The array with its axes in this order."""
        return self.of(x) if x.dims == dims else self.permuted(x, dims)

    def permuted(self, x: Array, dims: tuple[Index, ...]) -> Code:
        """The array with its axes in another order."""
        raise NotImplementedError

    def ordered(self, code: Code, old: Sequence[Index], new: Sequence[Index]) -> Code:
        """A tensor [B, T, *old] with its axes in the order of `new`."""
        return reordered(code, [old.index(d) for d in new])

    def reshaped(self, code: Code, old: Sequence[int], new: Sequence[int]) -> Code:
        """The last axes `old` seen as `new`, row-major."""
        raise NotImplementedError

    def view_(self, x: Array) -> Code:
        return self.reshaped(self.of(x.args[0]), *x.arg)

    def flattened(self, x: Array) -> tuple[Code, Code, list[Index], tuple[Index, ...]]:
        """Of computed places: the array, the axes they stand at made its last one; the places there; the other axes of
        the array, and those of the places.
        """
        of, *places = x.args
        at, sizes = x.arg[:2]
        rest = [d for p, d in enumerate(of.dims) if p not in at]
        code = self.in_order(of, (*rest, *(of.dims[p] for p in at)))
        found = union(places, x.dims)
        terms = []
        for k, place in enumerate(places):
            stride, term = prod(sizes[p] for p in at[k + 1 :]), self.place(place, found)
            terms.append(infix("*", term, number(stride)) if stride > 1 else term)
        flat = reduce(partial(infix, "+"), terms)
        return method(code, "flatten", -len(at)) if len(at) > 1 else code, flat, rest, found

    def place(self, x: Array, found: Sequence[Index]) -> Code:
        """Places on an axis, as whole numbers over `found`."""
        return self.fit(x, found)

    def at_(self, x: Array) -> Code:
        (of,), places = x.args, dict(x.arg)
        pattern = [places.get(p, ":") for p in range(len(of.dims))]
        if of.lead or self.leading:
            return item(self.of(of), "...", *pattern[min(places) :])
        return item(self.of(of), *pattern[: max(places) + 1])

    def slice_(self, x: Array) -> Code:
        p, start, size = x.arg
        end = start + x.dims[p].axis.size
        there = f"{start or ''}:{'' if end == size else end}"
        return item(self.of(x.args[0]), "...", there, *[":"] * (len(x.dims) - p - 1))

    def flip_(self, x: Array) -> Code:
        return method(self.of(x.args[0]), "flip", x.arg - len(x.dims))

    # --- along axes ------------------------------------------------------------------------------------------------
    def axes(self, x: Array, indices: Sequence[Index]) -> Code:
        """Where axes are, as an argument."""
        found = [x.position(i) for i in indices]
        return number(found[0]) if len(found) == 1 else listed(*found)

    def sum_(self, x: Array) -> Code:
        return method(self.of(x.args[0]), self.reductions[x.op], self.axes(x.args[0], x.arg))

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


def reordered(code: Code, order: Sequence[int], lead: int = 2) -> Code:
    """A tensor with its axes behind the `lead` first ones in this order."""
    return code if [*order] == sorted(order) else method(code, "permute", *range(lead), *(p + lead for p in order))


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
