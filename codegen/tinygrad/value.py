"""A piece of generated Python: an expression, and which tensor it makes.

A tensor's axes are [B, T] (one long where it does not vary along them) and then one for each of `dims`, in order.

`type`: `number` is a Python number, always known here; `int` and `bool` are tensors; `exact` is float64 arithmetic on
places (an angle of a far position keeps its digits); `float` is the model's data, f32.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cdrmix.ir.nodes import Index

Type = Literal["number", "bool", "int", "exact", "float"]

# How tightly Python binds, loosest first.
COMPARE, BITOR, BITAND, ADD, MUL, NEG, POW, ATOM = range(8)


@dataclass(frozen=True, slots=True)
class Value:
    """See the module.  `lead`: it surely has all of B and T.  `const`: the number, when it is one."""

    code: str
    type: Type
    dims: tuple[Index, ...] = ()
    lead: bool = False
    level: int = ATOM
    const: int | float | None = None


def within(v: Value, level: int) -> str:
    """The code, in brackets if it binds looser than `level`."""
    return v.code if v.level >= level else f"({v.code})"


def atom(code: str) -> str:
    """The code, in brackets unless it is one name, literal, call or look-up."""
    whole = ast.parse(code, mode="eval").body
    return code if isinstance(whole, ast.Name | ast.Attribute | ast.Call | ast.Subscript) else f"({code})"


def number(value: int | float | bool) -> Value:
    """A literal; a truth value counts as 0 or 1."""
    value = int(value) if isinstance(value, bool) else value
    if value != value or value in (float("inf"), float("-inf")):
        return Value(f'float("{value}")', "number", const=value)
    code = repr(value)
    return Value(code, "number", level=NEG if code.startswith("-") else ATOM, const=value)


def union(values: Iterable[Value], order: Sequence[Index]) -> tuple[Index, ...]:
    """The axes of all the values, in `order`."""
    found = {d for v in values for d in v.dims}
    return tuple(i for i in order if i in found)


def permuted(v: Value, dims: Sequence[Index]) -> Value:
    """The value with its axes in another order."""
    if v.dims == tuple(dims):
        return v
    order = ", ".join(str(2 + v.dims.index(d)) for d in dims)
    return replace(v, code=f"{within(v, ATOM)}.permute(0, 1, {order})", dims=tuple(dims), level=ATOM)


def fit(v: Value, dims: Sequence[Index]) -> Value:
    """The value brought to broadcast over `dims`: its axes in that order, length one where it lacks some."""
    if v.type == "number":
        return v
    v = permuted(v, [d for d in dims if d in v.dims])
    pattern = [":" if d in v.dims else "None" for d in dims]
    if "None" not in pattern:
        return v
    while pattern[0] == ":":
        pattern.pop(0)
    return replace(v, code=f"{within(v, ATOM)}[..., {', '.join(pattern)}]", dims=tuple(dims), level=ATOM)


def position(v: Value, d: Index) -> int:
    """Where an axis is, from the end."""
    return v.dims.index(d) - len(v.dims)


def positions(v: Value, along: Sequence[Index]) -> str:
    """Where axes are, as an argument."""
    found = ", ".join(str(position(v, i)) for i in along)
    return found if len(along) == 1 else f"({found})"


def viewed(code: str, old: Sequence[int], new: Sequence[int]) -> str:
    """A tensor [B, T, *old] seen as [B, T, *new], row-major."""
    return code if [*old] == [*new] else f"view({', '.join([code, *map(str, new)])})"
