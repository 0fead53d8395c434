"""The array form: products side by side, Python code as a tree, masks of windows."""

from __future__ import annotations

import ast
import random
from dataclasses import replace

import pytest

from cdrmix.diagnose import Span
from cdrmix.ir.array_statements import Let, Products, Say, Statement
from cdrmix.ir.arrays import Array, Contract, Local, Stored
from cdrmix.ir.code import (
    WIDTH,
    Assign,
    Code,
    Comment,
    call,
    called,
    choice,
    flat,
    infix,
    item,
    listed,
    mapped,
    method,
    name,
    named,
    number,
    prefix,
    written,
)
from cdrmix.ir.nodes import Axis, Index
from cdrmix.passes.arrays.side_by_side import side_by_side

M, K = Index("m", Axis("M", 4)), Index("k", Axis("K", 3))


def local(at: Local) -> Array:
    return Array("local", arg=at, dims=(K,), lead=True)


def product(to: Local, weight: str, x: Local, whole: bool = False) -> Let:
    matrix = Array("stored", arg=Stored(weight, (4, 3)), dims=(M, K))
    return Let(
        to, Array("contract", (matrix, local(x)), Contract((K,), 0, (), (M,), (K,)), dims=(M,), lead=True), whole
    )


def test_products_that_need_nothing_of_each_other_stand_side_by_side() -> None:
    x, a, p, v, r, u = (Local(hint, n) for n, hint in enumerate("xapvru"))
    of_p, of_r = Say(Span("f", 1, 1, 1, 2)), Say(Span("f", 2, 1, 2, 2))
    first = Let(a, Array("exp", (local(x),), dims=(K,), lead=True))
    sum_ = Let(r, Array("add", (local(v), local(p)), dims=(M,), lead=True))
    given: list[Statement] = [first, of_p, product(p, "W", a, True), of_r, product(v, "V", x), sum_, product(u, "U", r)]
    found = list(side_by_side(given))
    # V needs no product: it goes with none of W's level but its own, and W waits for `a`, which needs none either
    assert found == [first, Products((product(p, "W", a, True), product(v, "V", x)), ((of_p,), ())), of_r, sum_,
                     product(u, "U", r)]  # fmt: skip


def drawn(chance: random.Random, depth: int) -> tuple[Code, str]:
    """A random expression, and the same with every operand in brackets, as Python's parser sees it."""
    if depth == 0:
        leaf = chance.choice([name("a"), name("b.c"), number(2), number(-1.5), number(3)])
        return leaf, flat(leaf)

    def inner() -> tuple[Code, str]:
        return drawn(chance, depth - 1)

    signs = ["+", "-", "*", "/", "//", "%", "**", "&", "|", "<", "=="]
    kind = chance.randrange(9)
    (a, as_a), (b, as_b), (c, as_c) = inner(), inner(), inner()
    match kind:
        case 0:
            return call("f", a, b, k=c), f"f({as_a}, {as_b}, k={as_c})"
        case 1:
            return method(a, "m", b), f"({as_a}).m({as_b})"
        case 2:
            return item(a, "...", b), f"({as_a})[..., {as_b}]"
        case 3:
            sign = chance.choice(["-", "~", "not "])
            return prefix(sign, a), f"({sign}({as_a}))"
        case 4:
            return choice(a, b, c), f"(({as_a}) if ({as_b}) else ({as_c}))"
        case 5:
            return chance.choice([(listed(a), f"({as_a},)"), (listed(a, b, open="["), f"[{as_a}, {as_b}]")])
        case _:
            sign = chance.choice(signs)
            return infix(sign, a, b), f"(({as_a}) {sign} ({as_b}))"


@pytest.mark.parametrize("seed", range(60))
def test_code_keeps_its_tree_in_one_line_and_in_many(seed: int) -> None:
    chance = random.Random(seed)
    made, as_python = drawn(chance, 2 + seed % 4)
    wanted = ast.dump(ast.parse(f"y = {as_python}"))
    assert ast.dump(ast.parse(f"y = {flat(made)}")) == wanted
    lines = written([Assign((name("y"),), made)])
    assert ast.dump(ast.parse("\n".join(lines))) == wanted


def test_long_lines_are_broken_where_python_allows() -> None:
    long = call("f", *(call("g", f"a{i}", f"b{i}") for i in range(20)))
    found = written([Assign((name("y"),), long, note="[B, T]")])
    assert all(len(part) <= WIDTH for part in found) and found[0] == "# [B, T]"
    assert ast.dump(ast.parse("\n".join(found))) == ast.dump(ast.parse(f"y = {flat(long)}"))


def test_an_argument_keeps_its_comments() -> None:
    first = replace(listed("W", "x"), notes=("r = W @ x", "[B, T, M]"))
    made = call("f", first, replace(listed("V", "x"), notes=("[B, T, N]",)))
    assert written([Comment("both"), Assign((name("r"), name("q")), made)]) == [
        "# both",
        "r, q = f(",
        "    # r = W @ x",
        "    (W, x),  # [B, T, M]",
        "    (V, x),  # [B, T, N]",
        ")",
    ]


def test_what_code_calls_and_names() -> None:
    body = [Assign((name("y"),), mapped({"k": call("f", method(name("x"), "g", call("h")))}))]
    assert called(body) == {"f", "h"} and named(body) == {"y", "f", "x", "h"}
