"""Checks that a function of the array form is well formed, once it is made; `ir/verify.py` does so for the cells.

Input: a `Function`.
Output: nothing; `InvalidIR` naming the cell, the operation and the broken rule: a fault of the lowering.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import compress
from math import prod
from typing import Any, Literal, get_args, get_origin

from cdrmix.ir.array_statements import Function, Let, Loop, Measure, Statement, arrays, defined
from cdrmix.ir.arrays import ROWS, Array, Local, Row, Sizes, nodes
from cdrmix.ir.ops import OPS
from cdrmix.ir.types import NARROW
from cdrmix.ir.verify import InvalidIR
from cdrmix.ir.walk import size, sizes

Known = dict[Local, Array | None]
"""The names that are defined, with their values where those are arrays."""


def verify_function(function: Function) -> None:
    """Raise `InvalidIR` for the first broken rule of a function."""
    for message in faults(function):
        raise InvalidIR(f"{function.cell.name}, {function.mode}: {message}")


def faults(function: Function) -> Iterator[str]:
    """Every broken rule of a function."""
    known: Known = dict.fromkeys((*function.inputs, *(name for _, name in function.above)))
    yield from _block(function.body, known)
    yield from _arrays((function.result, function.gives, function.values), known)


def _block(body: tuple[Statement, ...], known: Known) -> Iterator[str]:
    """Statements in their order: what each reads is defined before it, and nothing twice."""
    for stmt in body:
        match stmt:
            case Measure():
                yield from _block(stmt.body, {**known})
            case Loop():
                inside = known | dict.fromkeys((stmt.token, *stmt.now))
                yield from _arrays(stmt.begin, known)
                yield from _block(stmt.body, inside)
                yield from _arrays(stmt.after, inside)
                known |= dict.fromkeys(stmt.all)
            case _:
                yield from _arrays(stmt, known)
                yield from (f"{name.hint} is defined twice" for name in defined(stmt) if name in known)
                known |= {stmt.name: stmt.value} if isinstance(stmt, Let) else dict.fromkeys(defined(stmt))


def _arrays(stmt: object, known: Mapping[Local, Array | None]) -> Iterator[str]:
    """What is wrong with the arrays of a statement."""
    for x in (n for found in arrays(stmt) for n in nodes(found)):
        row = ROWS.get(x.op)
        if row is None and x.op in OPS and OPS[x.op].kind == "elementwise":
            row = Row(OPS[x.op].arity, None, "")
        if row is None:
            yield f"`{x.op}` is no operation on arrays"
        elif len(x.args) < row.operands or (len(x.args) > row.operands and not row.more):
            yield f"`{x.op}` of {len(x.args)} operands"
        elif not _is(x.arg, row.arg):
            yield f"`{x.op}` with {x.arg!r}"
        elif len({*x.dims}) < len(x.dims):
            yield f"`{x.op}` has an axis twice"
        elif x.op == "local" and x.arg not in known:
            yield f"{x.arg.hint} is read before it is defined"
        elif x.op == "local" and (value := known[x.arg]) is not None and _seen(x) != _seen(value):
            yield f"{x.arg.hint} is read as what it is not"
        elif not _typed(x):
            yield f"`{x.op}` is {x.type}, of {', '.join(a.type for a in x.args)}"
        elif not _agree(x):
            yield f"the axes of `{x.op}` do not fit: {sizes(x.dims)} of {[sizes(a.dims) for a in x.args]}"


def _seen(x: Array) -> tuple[object, ...]:
    return x.type, sizes(x.dims), x.lead


def _is(x: object, kind: Any) -> bool:
    """Whether a value is of a type, and what is in a tuple too."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return x in parts
    if get_origin(kind) is tuple:
        if not isinstance(x, tuple):
            return False
        wanted = parts[:1] * len(x) if parts[-1] is ... else parts
        return len(x) == len(wanted) and all(map(_is, x, wanted))
    return x is None if kind is None else isinstance(x, kind)


def _typed(x: Array) -> bool:
    """Whether its type is one that the operation makes of its operands'."""
    given = {a.type for a in x.args}
    match x.op:
        case "number" | "whole":
            return x.type == "number"
        case "cast" | "expand":
            return x.type != "number"
        case "turn":
            return x.type == "turn" and given == {"exact"}
        case "contract":
            return x.type in ("float", "exact") or given == {x.type}
        case "masked" | "count":
            return x.type in ("float", "int", "exact")
        case _ if x.op in ROWS:
            return not x.args or x.type == x.args[0].type
        case _ if OPS[x.op].result == "bool":
            return x.type == ("number" if given == {"number"} else "bool")
    return not {x.type, *given} & NARROW and (x.type != "number" or given == {"number"})


def _agree(x: Array) -> bool:
    """Whether its axes are those that the operation makes of its operands'."""
    of, dims, own = x.args[0] if x.args else x, {*x.dims}, sizes(x.dims)
    met = {i for a in x.args for i in a.dims}
    match x.op:
        case "stored":
            shape: Sizes = x.arg.shape
            return own == (x.arg.sizes or shape) and prod(own) == prod(shape)
        case "view":
            return (sizes(of.dims), own) == x.arg and size(of.dims) == prod(own)
        case "rename" | "token" | "flip":
            return own == sizes(of.dims)
        case "expand":
            return met <= dims
        case "spread":
            has, whole = x.arg
            return own == whole and sizes(of.dims) == tuple(compress(whole, has))
        case "at":
            kept = tuple(i for p, i in enumerate(of.dims) if p not in dict(x.arg))
            return x.dims == kept and all(0 <= place < of.dims[p].axis.size for p, place in x.arg)
        case "slice":
            p, start, whole = x.arg
            return of.dims[p].axis.size == whole and start in range(whole - own[p] + 1)
        case "rows" | "index" | "pick":
            at, view = x.arg[:2]
            kept = tuple(i for p, i in enumerate(of.dims) if p not in at)
            places = {i for a in x.args[1:] for i in a.dims}
            return len(at) == len(x.args) - 1 and sizes(of.dims) == view and dims == {*kept} | places
        case "sum" | "mean" | "max_over" | "min_over" | "logsumexp" | "norm" | "count":
            return {*x.arg} <= met and dims == met - {*x.arg}
        case "contract" if x.arg.weight is None:
            return {*x.arg.bound} <= met and dims == met - {*x.arg.bound}
        case "contract":
            stored = size((*x.arg.groups, *x.arg.outs, *x.arg.along))
            return size(of.dims) == stored and dims == {*x.args[1].dims, *x.arg.outs} - {*x.arg.along}
    return dims == met or not x.args
