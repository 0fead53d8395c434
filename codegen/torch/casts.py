"""Between the types of values, and across the border of a method.

Input: a `Value` and the scope it is in.
Output: the same value as data, as float64, or over all axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cdrmix.ir.nodes import Index

from .scope import Scope
from .value import ATOM, COMPARE, OR, Value, fit, listed, number, within


def _counted(v: Value) -> Value:
    """A Python truth value as 0 or 1; other numbers stay what they are."""
    if isinstance(v.const, bool):
        return number(int(v.const))
    if v.const is None and OR <= v.level <= COMPARE:
        return replace(v, code=f"int({v.code})", level=ATOM)
    return v


def to_float(v: Value, scope: Scope) -> Value:
    """As the model's data.  Numbers stay numbers."""
    if v.type == "number":
        return _counted(v)
    if v.type == "float" or scope.mode == "init":
        return v
    code = f"{within(v, ATOM)}.to({scope.data}.dtype)"
    if v.type == "exact":  # arithmetic on places is dear, and the same wherever it stands
        code = scope.shared("place", code)
    return replace(v, code=code, type="float", level=ATOM)


def to_exact(v: Value, scope: Scope) -> Value:
    """As float64; the model's data stays what it is."""
    if v.type == "number":
        return _counted(v)
    if v.type in ("float", "exact"):
        return v
    return replace(v, code=f"{within(v, ATOM)}.double()", type="exact", level=ATOM)


def alike(values: Sequence[Value], scope: Scope) -> list[Value]:
    """All as data if any is, else all as float64; numbers stay numbers."""
    if scope.mode != "init" and any(v.type in ("float", "bool") for v in values):
        return [to_float(v, scope) for v in values]
    return [to_exact(v, scope) for v in values]


def to_bool(v: Value) -> Value:
    """Where it is not zero."""
    if v.type == "bool":
        return v
    if v.type == "number":
        return replace(v, code=f"bool({v.code})", level=ATOM)
    return replace(v, code=f"{within(v, ATOM)}.bool()", type="bool", level=ATOM)


def to_int(v: Value) -> Value:
    """A truth value as 0 or 1."""
    if v.type == "number":
        return _counted(v)
    if v.type != "bool":
        return v
    return replace(v, code=f"{within(v, ATOM)}.long()", type="int", level=ATOM)


def tensor(v: Value, scope: Scope) -> Value:
    """A number as a tensor; tensors stay what they are."""
    if v.type != "number":
        return v
    if scope.mode == "init":
        code = f"torch.tensor(float({v.code}), dtype=torch.float64)"
        return replace(v, code=code, type="exact", level=ATOM, const=None)
    return replace(v, code=f"{scope.data}.new_full((), {v.code})", type="float", level=ATOM, const=None)


def full(v: Value, indices: Sequence[Index], scope: Scope, lead: bool = True, place: bool = False) -> str:
    """Code of the value over exactly `indices`, and the leading axes: what crosses the border of a method.

    It becomes data, unless it is a `place` on an axis.
    """
    shape = [*([f"*{scope.shape}"] if lead else []), *(str(i.axis.size) for i in indices)]
    if v.type == "number":
        kind = ", dtype=torch.int64" if place else ""
        return f"{scope.data}.new_full({listed(*shape) if shape else '()'}, {v.code}{kind})"
    complete = (v.lead or not lead) and all(i in v.dims for i in indices)
    v = fit(v if place else to_float(v, scope), indices)
    return v.code if complete else f"{within(v, ATOM)}.expand({', '.join(shape)})"
