"""Between the types of values, and across the border of a function.

Input: a `Value`.
Output: the same value as data, as float64, as a truth value, or over all axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cdrmix.ir.nodes import Index

from .scope import Scope
from .value import ATOM, Value, fit, within


def to_float(v: Value) -> Value:
    """As the model's data.  Numbers stay numbers."""
    if v.type in ("number", "float"):
        return v
    return replace(v, code=f"{within(v, ATOM)}.float()", type="float", level=ATOM)


def to_exact(v: Value) -> Value:
    """As float64; the model's data stays what it is."""
    if v.type in ("number", "float", "exact"):
        return v
    return replace(v, code=f"{within(v, ATOM)}.double()", type="exact", level=ATOM)


def to_bool(v: Value) -> Value:
    """Where it is not zero."""
    if v.type == "bool":
        return v
    if v.type == "number":
        return replace(v, code=f"constant({bool(v.const)})", type="bool", const=None, level=ATOM)
    return replace(v, code=f"{within(v, ATOM)}.ne(0)", type="bool", level=ATOM)


def to_int(v: Value) -> Value:
    """A truth value as 0 or 1."""
    if v.type != "bool":
        return v
    return replace(v, code=f"{within(v, ATOM)}.int()", type="int", level=ATOM)


def alike(values: Sequence[Value]) -> list[Value]:
    """All as data if any is, else all as float64; numbers stay numbers."""
    if any(v.type in ("float", "bool") for v in values):
        return [to_float(v) for v in values]
    return [to_exact(v) for v in values]


def tensor(v: Value) -> Value:
    """A number as a tensor [1, 1]; tensors stay what they are."""
    if v.type != "number":
        return v
    return replace(v, code=f"constant({float(v.const or 0)!r})", type="float", level=ATOM, const=None)


def spread(v: Value, indices: Sequence[Index]) -> str:
    """Code of the value as data that broadcasts over [B, T, *indices]."""
    if v.type == "number":
        return f"constant({', '.join([number_code(v), *['1'] * len(indices)])})"
    return fit(to_float(v), indices).code


def full(v: Value, indices: Sequence[Index], scope: Scope, place: bool = False, lead: str = "") -> str:
    """Code of the value over exactly [B, T, *indices].  It becomes data, unless it is a `place` on an axis.

    `lead`: the sizes wanted in front, where they are not those of the tokens.
    """
    sizes = [str(i.axis.size) for i in indices]
    expanded = f".expand({', '.join([lead or scope.lead, *sizes])})"
    if v.type == "number":
        number = str(v.const) if place else number_code(v)
        return f"constant({', '.join([number, *['1'] * len(indices)])}){expanded}"
    complete = (v.lead or lead) and all(i in v.dims for i in indices)
    v = fit(v if place else to_float(v), indices)
    return v.code if complete else f"{within(v, ATOM)}{expanded}"


def number_code(v: Value) -> str:
    """A number as a f32 literal."""
    return v.code if isinstance(v.const, float) else repr(float(v.const or 0))
