"""A piece of generated Python: an expression, and which tensor it makes.

A tensor's axes are leading ones ([B, T] in `forward`, [B] in `step`, [rows] in an expert; none for parameters and
places) and then one for each of `dims`, in their order.  No code here knows how many leading axes there are.

`type`: `number` is a Python number; `int` and `bool` are tensors; `exact` is float64 arithmetic on places (an angle of
a far position keeps its digits); `float` is the model's data.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cdrmix.ir.nodes import Index

Type = Literal["number", "bool", "int", "exact", "float"]

# How tightly Python binds, loosest first.
CHOICE, OR, AND, NOT, COMPARE, BITOR, BITAND, ADD, MUL, NEG, POW, ATOM = range(12)


@dataclass(frozen=True, slots=True)
class Value:
    """See the module.  `lead`: it has the leading axes.  `const`: the number, when it is known here.

    `absent_is_zero`: it is zero wherever a token of a window is not there.
    """

    code: str
    type: Type
    dims: tuple[Index, ...] = ()
    lead: bool = False
    level: int = ATOM
    const: int | float | None = None
    absent_is_zero: bool = False


def within(v: Value, level: int) -> str:
    """The code, in brackets if it binds looser than `level`."""
    return v.code if v.level >= level else f"({v.code})"


def atom(code: str) -> str:
    """The code, in brackets unless it is one name, literal, call or look-up."""
    whole = ast.parse(code, mode="eval").body
    return code if isinstance(whole, ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.List) else f"({code})"


def listed(*parts: str) -> str:
    """A tuple."""
    return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"


def number(value: int | float | bool) -> Value:
    """A literal."""
    if isinstance(value, float) and value != value:
        return Value("math.nan", "number", const=value)
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return Value("math.inf" if value > 0 else "-math.inf", "number", level=ATOM if value > 0 else NEG, const=value)
    code = repr(value)
    return Value(code, "number", level=NEG if code.startswith("-") else ATOM, const=value)


def union(values: Iterable[Value], order: Sequence[Index]) -> tuple[Index, ...]:
    """The axes of all the values, in `order`."""
    found = {d for v in values for d in v.dims}
    return tuple(i for i in order if i in found)


def permuted(v: Value, dims: tuple[Index, ...]) -> Value:
    """The value with its axes in another order."""
    if v.dims == dims:
        return v
    n = len(dims)
    moved = [v.dims.index(d) for d in dims]
    if n == 2:
        code = f"{within(v, ATOM)}.mT"
    elif v.lead:
        source = ", ".join(str(p - n) for p in moved)
        code = f"{within(v, ATOM)}.movedim(({source}), ({', '.join(str(p - n) for p in range(n))}))"
    else:
        code = f"{within(v, ATOM)}.permute({', '.join(map(str, moved))})"
    return replace(v, code=code, dims=dims, level=ATOM)


def fit(v: Value, dims: Sequence[Index]) -> Value:
    """The value brought to broadcast over `dims`: its axes in that order, length one where it lacks some."""
    if v.type == "number":
        return v
    v = permuted(v, tuple(d for d in dims if d in v.dims))
    pattern = [":" if d in v.dims else "None" for d in dims]
    if not v.lead:
        while pattern and pattern[0] == "None":
            pattern.pop(0)
    if "None" not in pattern:
        return v
    while pattern[0] == ":":
        pattern.pop(0)
    return replace(v, code=f"{within(v, ATOM)}[..., {', '.join(pattern)}]", level=ATOM)


def position(v: Value, d: Index) -> int:
    """Where an axis is, from the end."""
    return v.dims.index(d) - len(v.dims)


def reshaped(code: str, old: Sequence[int], new: Sequence[int]) -> str:
    """The last axes `old` of `code` (an atom) seen as `new`, row-major."""
    old, new, after = list(old), list(new), 0
    while old and new and old[-1] == new[-1]:
        old.pop()
        new.pop()
        after += 1
    while old and new and old[0] == new[0]:
        old.pop(0)
        new.pop(0)
    if not old and new:
        return f"{code}[{', '.join(['...', *['None'] * len(new), *[':'] * after])}]"
    if old and not new:
        return f"{code}.squeeze(({', '.join(str(-p - after) for p in range(len(old), 0, -1))},))"
    if len(old) > 1:
        code = f"{code}.flatten({-len(old) - after}, {-1 - after})" if after else f"{code}.flatten({-len(old)})"
    return f"{code}.unflatten({-1 - after}, ({', '.join(map(str, new))}))" if len(new) > 1 else code
