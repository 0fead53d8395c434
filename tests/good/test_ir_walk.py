"""Constructors and traversal: dtypes, free indices, and substitution that captures nothing."""

from __future__ import annotations

import pytest

from cdrmix.ir import build, walk
from cdrmix.ir.build import add, const, index, mul, node, read, reduce, softmax
from cdrmix.ir.nodes import Axis, DType, Index, Node, Ref
from cdrmix.ir.text import node_text
from tests.good.handmade import D, bank_cells, d, delta_cell, h, history_cell, i, j, k, m

A = Axis("A", 6)


def value(dtype: DType = "work", *over: Index) -> Node:
    return read(Ref("def", f"v_{dtype}"), [x.axis for x in over], over, dtype)


@pytest.mark.parametrize(
    ("made", "want"),
    [
        (add(value("f32"), value("work")), "f32"),
        (mul(value("bf16"), const(0.5)), "bf16"),
        (mul(value("bf16"), build.div(const(1), const(3))), "bf16"),
        (mul(value("bf16"), value("work")), "work"),
        (mul(value("bf16"), value("f16")), "f32"),
        (add(const(1), const(2)), "int"),
        (add(const(1), const(2.0)), "work"),
        (build.div(const(1), const(2)), "work"),
        (node("pow", index(k), const(2)), "int"),
        (node("pow", const(2), node("neg", index(k))), "work"),
        (node("pow", const(2), const(-1)), "work"),
        (node("exp", index(k)), "work"),
        (node("eq", value("pick"), index(k)), "bool"),
        (reduce("sum", (k,), node("eq", value("pick"), index(k))), "int"),
        (reduce("mean", (k,), index(k)), "work"),
        (node("add", value("pick"), const(1)), "int"),
        (build.select(node("lt", index(k), const(1)), value("f32"), const(0)), "f32"),
        (build.select(const(True), value("pick"), value("pick")), "pick"),
        (node("not", value("f32")), "bool"),
        (node("relu", const(-1)), "work"),
    ],
)
def test_dtypes(made: Node, want: str) -> None:
    assert made.dtype == want


def test_free_indices_are_those_of_the_operands_less_the_bound() -> None:
    body = mul(value("work", i, k), value("work", k, h))
    assert body.free == (i, k, h)
    assert reduce("sum", (k,), body).free == (i, h)
    assert softmax(k, body).free == (i, k, h)
    assert softmax(m, value("work", i)).free == (i, m)
    assert reduce("sum", (), body) is body


def test_a_read_has_an_index_an_axis() -> None:
    with pytest.raises(ValueError, match="2 indices under 1 axes"):
        read(Ref("def", "v"), (D,), (i, j))


def test_substitution_renames_what_it_would_capture() -> None:
    product = reduce("sum", (k,), mul(value("work", d, k), value("work", k)))
    got = walk.substitute(product, {d: index(k)})
    assert node_text(got) == "sum[k_1 < D](v_work[k,k_1]*v_work[k_1])"
    assert got.free == (k,)


def test_substitution_reaches_reads_and_leaves_bound_names_alone() -> None:
    got = walk.substitute(value("work", d), {d: build.sub(const(5), index(k))})
    assert node_text(got) == "v_work[5 - k]"
    inner = reduce("sum", (k,), value("work", k))
    assert walk.substitute(inner, {k: index(d)}) is inner


def test_a_softmax_moves_only_to_an_index_that_it_does_not_use() -> None:
    soft = softmax(k, value("work", k, d))
    a = Index("a", A)
    assert node_text(walk.substitute(soft, {k: index(a)})) == "softmax[a < A](v_work[a,d])"
    for bad in (const(0), index(d)):
        with pytest.raises(ValueError, match="name it first"):
            walk.substitute(soft, {k: bad})


def test_what_is_unchanged_is_not_copied() -> None:
    n = delta_cell().body[0].value  # type: ignore[union-attr]
    assert walk.transform(n, lambda m: m) is n
    assert walk.rename_refs(n, {Ref("def", "absent"): Ref("def", "x")}) is n
    cell = delta_cell()
    assert walk.map_roots(cell, lambda m: m) == cell


def test_renaming_indices_reaches_binders() -> None:
    soft = reduce("sum", (k,), softmax(k, value("work", k, d)))
    a = Index("a", D)
    assert node_text(walk.rename_indices(soft, {k: a})) == "sum[a < D](softmax[a < D](v_work[a,d]))"


def test_what_statements_define_and_use() -> None:
    _, moe = bank_cells()
    kinds = [(sorted(r.name for r in walk.defines(s)), sorted(r.name for r in walk.uses(s))) for s in moe.body]
    assert kinds == [
        (["p"], ["G", "x"]),
        (["gate", "pick"], ["p"]),
        (["y"], ["pick", "x"]),
        (["chosen"], ["pick"]),
        (["out"], ["gate", "y"]),
    ]


def test_windows_are_found_through_definitions_and_views() -> None:
    t = Index("t", Axis("W", 4))
    x = read(Ref("history", "X"), (t.axis, D), (t, d))
    cell = history_cell(x)
    assert walk.windows(cell) == {Ref("history", "X"): frozenset({(1, 4)})}
    places = frozenset({(6, 4)})  # a definition over [h, i, t] of sizes 2, 3, 4
    assert walk.window_positions((h.axis, i.axis, t.axis), places) == (2,)
    assert walk.window_positions((D, t.axis), places) == (1,)
    score = read(Ref("def", "s"), (D, t.axis), (d, t))
    assert walk.windowed(reduce("sum", (t,), score), {Ref("def", "s"): places}) == {t}
