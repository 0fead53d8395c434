"""The array form: products side by side, Python code as a tree, masks of windows."""

from __future__ import annotations

import ast
import random

import pytest

from cdrmix.diagnose import Span
from cdrmix.ir.array_statements import Let, Products, Say, Statement
from cdrmix.ir.arrays import Array, Contract, Local, Stored
from cdrmix.ir.code import (
    ADD,
    BITAND,
    BITOR,
    COMPARE,
    MUL,
    NEG,
    NOT,
    POW,
    WIDTH,
    Assign,
    Choice,
    Code,
    Comment,
    Infix,
    Mapped,
    Noted,
    Prefix,
    call,
    called,
    flat,
    item,
    listed,
    method,
    name,
    named,
    number,
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


def drawn(chance: random.Random, depth: int) -> Code:
    """A random expression."""
    if depth == 0:
        return chance.choice([name("a"), name("b.c"), number(2), number(-1.5), number(3)])

    def inner() -> Code:
        return drawn(chance, depth - 1)

    signs = [("+", ADD), ("-", ADD), ("*", MUL), ("/", MUL), ("//", MUL), ("%", MUL), ("**", POW), ("&", BITAND),
             ("|", BITOR), ("<", COMPARE), ("==", COMPARE)]  # fmt: skip
    match chance.randrange(9):
        case 0:
            return call("f", inner(), inner(), k=inner())
        case 1:
            return method(inner(), "m", inner())
        case 2:
            return item(inner(), "...", inner())
        case 3:
            return chance.choice([Prefix("-", NEG, inner()), Prefix("~", NEG, inner()), Prefix("not ", NOT, inner())])
        case 4:
            return Choice(inner(), inner(), inner())
        case 5:
            return chance.choice([listed(inner()), listed(inner(), inner(), open="[")])
        case _:
            sign, level = chance.choice(signs)
            return Infix(sign, level, inner(), inner())


def as_python(c: Code) -> str:
    """The same tree with every operand in brackets, as Python's parser sees it."""
    match c:
        case Infix(sign, _, left, right):
            return f"(({as_python(left)}) {sign} ({as_python(right)}))"
        case Prefix(sign, _, of):
            return f"({sign}({as_python(of)}))"
        case Choice(then, cond, other):
            return f"(({as_python(then)}) if ({as_python(cond)}) else ({as_python(other)}))"
    parts = {"Call": "args", "Listed": "items", "Item": "at"}
    if type(c).__name__ not in parts:
        return flat(c)
    if type(c).__name__ == "Listed":
        inside = ", ".join(as_python(x) for x in c.items)  # type: ignore[union-attr]
        return f"[{inside}]" if c.open == "[" else f"({inside},)"  # type: ignore[union-attr]
    if type(c).__name__ == "Item":
        return f"({as_python(c.of)})[{', '.join(as_python(x) for x in c.at)}]"  # type: ignore[union-attr]
    return called_as_python(c)


def called_as_python(c: Code) -> str:
    args = []
    for x in c.args:  # type: ignore[union-attr]
        args.append(f"{x.name}={as_python(x.value)}" if type(x).__name__ == "Keyword" else as_python(x))
    function = c.function  # type: ignore[union-attr]
    front = f"({as_python(function.of)}).{function.name}" if type(function).__name__ == "Member" else flat(function)
    return f"{front}({', '.join(args)})"


@pytest.mark.parametrize("seed", range(60))
def test_code_keeps_its_tree_in_one_line_and_in_many(seed: int) -> None:
    chance = random.Random(seed)
    made = drawn(chance, 2 + seed % 4)
    wanted = ast.dump(ast.parse(f"y = {as_python(made)}"))
    assert ast.dump(ast.parse(f"y = {flat(made)}")) == wanted
    lines = written([Assign((name("y"),), made)])
    assert ast.dump(ast.parse("\n".join(lines))) == wanted


def test_long_lines_are_broken_where_python_allows() -> None:
    long = call("f", *(call("g", f"a{i}", f"b{i}") for i in range(20)))
    found = written([Assign((name("y"),), long, note="[B, T]")])
    assert all(len(part) <= WIDTH for part in found) and found[0] == "# [B, T]"
    assert ast.dump(ast.parse("\n".join(found))) == ast.dump(ast.parse(f"y = {flat(long)}"))


def test_an_argument_keeps_its_comments() -> None:
    made = call("f", Noted(listed("W", "x"), ("r = W @ x",), "[B, T, M]"), Noted(listed("V", "x"), (), "[B, T, N]"))
    assert written([Comment("both"), Assign((name("r"), name("q")), made)]) == [
        "# both",
        "r, q = f(",
        "    # r = W @ x",
        "    (W, x),  # [B, T, M]",
        "    (V, x),  # [B, T, N]",
        ")",
    ]


def test_what_code_calls_and_names() -> None:
    body = [Assign((name("y"),), Mapped(((name("k"), call("f", method(name("x"), "g", call("h")))),)))]
    assert called(body) == {"f", "h"} and named(body) == {"y", "k", "f", "x", "h"}
