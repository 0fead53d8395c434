"""The IR's text: an expression's parentheses, and whole cells against goldens."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdrmix.check import load_op, load_text
from cdrmix.ir import build, forms
from cdrmix.ir.build import add, const, div, index, mul, node, read, reduce, select, softmax, sub
from cdrmix.ir.nodes import Index, Node, Ref
from cdrmix.ir.text import node_text, statement, to_text
from cdrmix.passes.hoist import hoist
from cdrmix.passes.simplify import simplify
from tests.good.handmade import D, N, at, bank_cells, cell, d, define, delta_cell, h, i, k, layer_norm, model, param
from tests.small import SPEC

GOLDEN = Path(__file__).parents[1] / "golden"
LIB = Path(__file__).parents[2] / "spec" / "lib"
a, b, c = (read(Ref("def", n), (), ()) for n in "abc")


@pytest.mark.parametrize(
    ("made", "want"),
    [
        (mul(add(a, b), c), "(a + b)*c"),
        (add(mul(a, b), c), "a*b + c"),
        (sub(a, sub(b, c)), "a - (b - c)"),
        (sub(sub(a, b), c), "a - b - c"),
        (div(a, mul(b, c)), "a/(b*c)"),
        (mul(a, div(b, c)), "a*(b/c)"),
        (node("pow", node("pow", a, b), c), "(a^b)^c"),
        (node("pow", a, node("pow", b, c)), "a^b^c"),
        (node("pow", node("neg", a), const(2)), "(-a)^2"),
        (node("neg", node("pow", a, const(2))), "-a^2"),
        (node("pow", a, const(-1)), "a^(-1)"),
        (sub(a, const(-1.5)), "a - -1.5"),
        (node("neg", add(a, b)), "-(a + b)"),
        (node("floordiv", index(k), const(2)), "k // 2"),
        (node("not", node("and", node("lt", a, b), node("eq", b, c))), "not (a < b and b == c)"),
        (select(node("lt", a, b), a, select(node("gt", b, c), b, c)), "a if a < b else b if b > c else c"),
        (mul(select(node("lt", a, b), a, b), c), "(a if a < b else b)*c"),
        (node("max", a, node("exp", b)), "max(a, exp(b))"),
        (reduce("max_over", (k,), at("def", "v", k)), "max[k < D](v[k])"),
        (softmax(k, at("def", "v", k)), "softmax[k < D](v[k])"),
        (read(Ref("next", "S"), (D, N), (sub(const(5), index(k)), index(i))), "S'[5 - k,i]"),
        (build.context("pos"), "pos"),
        (const(1e-5), "1e-05"),
        (const(True), "true"),
    ],
)
def test_an_expression_keeps_its_tree_with_the_fewest_parentheses(made: Node, want: str) -> None:
    assert node_text(made) == want


def golden(name: str, text: str, update: bool) -> None:
    """The text is the checked-in one; a missing file fails, and only the flag writes it."""
    path = GOLDEN / f"{name}.txt"
    if update:
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"no {path.name}: pytest --update-expected writes it"
    assert text == path.read_text(encoding="utf-8")


def test_handmade_cells(update_expected: bool) -> None:
    golden("handmade", "\n".join(to_text(cell) for cell in (*bank_cells(), delta_cell())), update_expected)


OPS = {
    "rwkv7": ("rwkv7", {"N": "8", "dw": "4", "da": "4", "dv": "4", "dg": "4"}),
    "rwkv6": ("rwkv6", {"N": "8", "rank": "4", "dw": "4"}),
    "rwkv4": ("rwkv4", {}),
    "mamba2": ("mamba2", {"N": "4", "P": "8"}),
    "attention": ("attention", {"heads": "4", "kv_heads": "2", "window": "6"}),
    "attention_alibi": ("attention", {"heads": "4", "kv_heads": "2", "window": "6"}),
    "layer_norm": ("norm", {}),
}


@pytest.mark.parametrize("op", list(OPS))
def test_an_op_of_the_library_and_what_the_passes_make_of_it(op: str, update_expected: bool) -> None:
    file, args = OPS[op]
    model = load_op(LIB / f"{file}.cdr", op, {"D": 16}, args)
    cells = list(model.cells.values())
    lifted = [hoist(simplify(cell)) for cell in cells]
    before, after = ("\n".join(to_text(cell) for cell in each) for each in (cells, lifted))
    golden(op, f"{before}\n=== simplified and hoisted\n\n{after}", update_expected)


@pytest.mark.parametrize("route", ["moe", "moe_sigmoid"])
def test_a_model(route: str, update_expected: bool) -> None:
    spec = SPEC.replace('lib/moe.cdr" { moe }', f'lib/{route}.cdr" {{ {route} }}').replace(">> moe(", f">> {route}(")
    golden(f"model.{route}", to_text(load_text(spec)), update_expected)


def test_an_index_that_two_axes_share_a_name_for_says_its_axis() -> None:
    other = Index("k", N)
    value = add(at("input", "x", d), reduce("sum", (other,), at("param", "w", other)))
    one = cell(
        "two",
        define("def", "s", (), reduce("sum", (k,), at("input", "x", k))),
        define("output", "out", (d,), value),
        params=(param("w", i),),
    )
    text = to_text(one)
    assert "  s = sum[k](x[k])\n  out[d] = x[d] + sum[k < N](w[k])\n" in text


v = at("def", "v", i)
w = at("def", "w", k)


@pytest.mark.parametrize(
    ("stmt", "want"),
    [
        (forms.Delay("x_prev"), ["x_prev = delay(x_prev')"]),
        (forms.Elementwise("s", (i,), v, a), ["s'[i] = scan(decay v[i], addend a)"]),
        (forms.Elementwise("p", (i,), v, a, "max"), ["p'[i] = maxplus_scan(max, decay v[i], addend a)"]),
        (
            forms.Coupled(("s", "z"), (i,), ((v, None), (a, b)), (a, v)),
            ["coupled_scan over [i]", "  s' = (v[i])*s + a", "  z' = (a)*s + (b)*z + v[i]"],
        ),
        (
            forms.Chunk(
                ("S",), (i, k), (), (i,), k, {("S", "S"): w}, v, (forms.LowRank(w, a, (), "S", "S"),),
                (forms.Outer(v, w, (h,), "S"),),
                (forms.Query("y", "S", w, True), forms.Query("z", "S", w, False, (h,))),
            ),
            [
                "chunk_scan S over batch [] value [i] key k",
                "  S' += S * diag(w[k])",
                "  value decay v[i]",
                "  S' += S (w[k]) (a)ᵀ",
                "  S' += (v[i]) (w[k])ᵀ over [h]",
                "  y = S' @ (w[k])",
                "  z = S @ (w[k]) over [h]",
            ],
        ),
        (
            forms.Sequential(("s",), (define("next", "s", (i,), node("tanh", v)),), "`tanh` is not linear"),
            ["token by token s: `tanh` is not linear", "  s'[i]: f32 = tanh(v[i])"],
        ),
        (
            forms.Attend("y", (i,), k, (forms.Scored((h,), a, w),), v, 0.5, b),
            ["y[i] = attend[k](query a key w[k] over [h], value v[i], scale 0.5, bias b)"],
        ),
    ],
)  # fmt: skip
def test_statements_of_the_sequence_form(stmt: forms.SequenceStmt, want: list[str]) -> None:
    assert statement(stmt, {x.name: x.axis for x in (h, i, k)}) == want


def test_a_program_has_both_forms() -> None:
    norm = layer_norm()
    sequence = forms.SequenceForm((forms.Delay("s"), *norm.body), ("one note",))
    program = forms.Program(model(norm), {"norm": forms.StepForm(norm.body, frozenset({"b", "a"}))}, {"norm": sequence})
    text = to_text(program)
    assert "  step (in place: a, b)\n    mu = mean[k](x[k])\n" in text
    assert "  sequence\n    s = delay(s')\n" in text and text.endswith("    note: one note\n")
