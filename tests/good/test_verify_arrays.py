"""What is wrong with a function of the array form is told: names, operands, arguments, types, axes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from cdrmix.ir.array_statements import Function, Let, Loop
from cdrmix.ir.arrays import Array, Local
from cdrmix.ir.build import const
from cdrmix.ir.nodes import Axis, Index
from cdrmix.ir.verify import InvalidIR
from cdrmix.ir.verify_arrays import faults, verify_function
from tests.good.handmade import cell, define
from tests.good.test_array_form import K, M, local, product

ONE = Index("one", Axis("ONE", 1))
X = Local("x", 0)
WELL: tuple[Array, ...] = (
    Array("exp", (local(X),), dims=(K,), lead=True),
    Array("sum", (local(X),), (K,), lead=True),
    Array("view", (local(X),), ((3,), (1, 3)), dims=(ONE, K), lead=True),
    Array("slice", (local(X),), (0, 1, 3), dims=(Index("i", Axis("I", 2)),), lead=True),
    product(X, "W", X).value,
    Array("lt", (local(X), Array("number", arg=0.0, type="number")), type="bool", dims=(K,), lead=True),
)


def function_of(*values: Array) -> Function:
    """A function of `x` that names these."""
    body = tuple(Let(Local(f"y{n}", n + 1), value) for n, value in enumerate(values))
    return Function(cell("c", define("output", "out", (), const(0.0))), "sequence", (X,), (), body)


def test_a_function_that_is_well_formed() -> None:
    assert list(faults(function_of(*WELL))) == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (local(Local("z", 9)), "z is read before it is defined"),
        (replace(WELL[0], op="exq"), "`exq` is no operation on arrays"),
        (replace(WELL[0], args=(local(X), local(X))), "`exp` of 2 operands"),
        (replace(WELL[0], dims=(M,)), "the axes of `exp` do not fit: (4,) of [(3,)]"),
        (replace(WELL[0], type="number"), "`exp` is number, of float"),
        (replace(WELL[1], arg=K), f"`sum` with {K!r}"),
        (replace(WELL[1], arg=(M,)), "the axes of `sum` do not fit: () of [(3,)]"),
        (replace(WELL[2], arg=((3,), (3, 1))), "the axes of `view` do not fit: (1, 3) of [(3,)]"),
        (replace(WELL[2], dims=(K, K)), "`view` has an axis twice"),
        (replace(WELL[3], arg=(0, 2, 3)), "the axes of `slice` do not fit: (2,) of [(3,)]"),
        (replace(WELL[3], arg=(0, 1)), "`slice` with (0, 1)"),
        (replace(WELL[4], dims=(K,)), "the axes of `contract` do not fit: (3,) of [(4, 3), (3,)]"),
        (replace(WELL[5], type="float"), "`lt` is float, of float, number"),
    ],
)
def test_what_is_broken_is_told(value: Array, said: str) -> None:
    assert list(faults(function_of(value))) == [said]
    with pytest.raises(InvalidIR, match=re.escape(f"c, sequence: {said}")):
        verify_function(function_of(value))


def test_names_are_what_they_were_defined_as_and_once() -> None:
    y = Local("y0", 1)
    narrow = Array("local", arg=y, type="bf16", dims=(K,), lead=True)
    assert list(faults(function_of(WELL[0], narrow))) == ["y0 is read as what it is not"]
    again = function_of(WELL[0])
    assert list(faults(replace(again, body=again.body * 2))) == ["y0 is defined twice"]


def test_what_a_loop_defines_is_known_within_it() -> None:
    t, now, seen, after = (Local(name, n) for n, name in enumerate(("t", "s_t", "s_all", "s_next"), 1))
    inside = Let(Local("u_t", 9), Array("add", (local(now), local(now)), dims=(K,), lead=True))
    loop = Loop(t, ("s",), ((K,),), (now,), (seen,), (after,), (inside,), (local(inside.name),), (None,), "why")
    whole = replace(function_of(), body=(loop, Let(Local("y", 10), local(after))))
    assert list(faults(whole)) == []
    outside = replace(whole, body=(loop, Let(Local("y", 10), local(inside.name))))
    assert list(faults(outside)) == ["u_t is read before it is defined"]
