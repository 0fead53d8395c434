"""The type of every name under a narrow `work`: which are rounded, and which stay f32, rule by rule."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cdrmix.spec
import pytest

from cdrmix.check import load, load_text
from cdrmix.check.stack.single import load_op
from cdrmix.compiler import emit, lower
from cdrmix.diagnose import UserError
from cdrmix.ir import forms, layout, walk
from cdrmix.ir.build import FLOATS, add, const, mul, reduce
from cdrmix.ir.nodes import Apply, Cell, Def, DType, Model, Node, Ref
from cdrmix.ir.types import NARROW, matrix_product, operand_type
from cdrmix.passes.precision import decide_precision
from tests.conformance.torch_specs import LIBRARY, MODELS
from tests.good.elaborated import elaborate
from tests.good.handmade import N, at, d, e, h, i, j, k, m
from tests.small import SPEC

OPS = Path(__file__).parents[1] / "conformance" / "torch_ops.cdr"
SPECS = Path(cdrmix.spec.__file__).parent


def held(cell: Cell) -> dict[str, DType]:
    """The type of everything of a cell that has a name; a state's is the one it has along time."""
    groups = (cell.inputs, cell.params, cell.states, cell.histories, cell.carries, cell.buffers)
    found: dict[str, DType] = {x.name: x.dtype for group in groups for x in group}  # type: ignore[attr-defined]
    found |= {s.name: s.dtype for s in cell.body if isinstance(s, Apply)}
    return found | {s.ref.name: s.dtype for s in cell.body if isinstance(s, Def) and s.ref.kind in ("def", "output")}


def op(*lines: str, head: str = "op f(x: [D]) -> [D]", before: str = "") -> dict[str, DType]:
    """The types of an op's names under bf16."""
    return decided(*lines, head=head, before=before)[-1]


def decided(*lines: str, head: str = "op f(x: [D]) -> [D]", before: str = "") -> list[dict[str, DType]]:
    """The same of every cell, parts first."""
    model = decide_precision(elaborate(before + head + " {\n" + "\n".join(lines) + "\n}\n").model(), "bf16")
    return [held(cell) for cell in model.cells.values()]


def library(name: str) -> Model:
    of, dims, args = LIBRARY[name]
    return load_op(OPS, of, dims, args)


def cell_of(model: Model, name: str) -> Cell:
    return next(c for c in decide_precision(model, "bf16").cells.values() if c.op == name)


# --- the library ---------------------------------------------------------------------------------------------------
def test_of_rwkv7_only_what_decides_its_decay_its_state_and_statistics_are_f32() -> None:
    types = held(cell_of(load_text(SPEC), "rwkv7"))
    assert {types[n] for n in ("r", "k", "v", "g", "o", "a", "kk", "x", "x_prev", "dx", "y", "out")} == {"bf16"}
    assert {types[n] for n in ("w", "S", "w0", "group_norm_mu", "group_norm_var")} == {"f32"}
    assert {types[n] for n in ("Wr", "Wo", "w1", "w2", "g1")} == {"bf16"}
    assert {types[n] for n in ("mr", "mw", "a0", "gn_w")} == {"f32"}


def test_a_router_is_f32_to_its_weights_and_what_its_op_returns_is_not() -> None:
    types = held(cell_of(load_text(SPEC), "moe"))
    assert {types[n] for n in ("Wg", "logits", "p", "total", "routed", "y")} == {"f32"}
    assert types["out"] == types["x"] == "bf16"
    assert {p.dtype for p in cell_of(load_text(SPEC), "relu2").params} == {"bf16"}
    sigmoid = held(cell_of(library("moe_sigmoid"), "moe_sigmoid"))
    assert {sigmoid[n] for n in ("Wg", "bias", "logits", "p", "gate")} == {"f32"}


def test_the_delay_state_of_a_token_shift_and_the_histories_of_attention_are_narrow() -> None:
    assert held(cell_of(library("token_shift"), "token_shift"))["x_prev"] == "bf16"
    types = held(cell_of(library("attention"), "attention"))
    assert {types[n] for n in ("K", "V", "q", "y")} == {"bf16"}
    assert held(cell_of(library("short_conv"), "short_conv"))["X"] == "bf16"


def test_names_over_a_window_are_f32() -> None:
    assert held(cell_of(library("attention"), "attention"))["s"] == "f32"
    assert held(cell_of(library("attention_alibi"), "attention_alibi"))["s"] == "f32"


def test_a_decay_is_f32_through_equations_means_and_running_maxima() -> None:
    gdn = held(cell_of(library("rwkv7_gdn"), "rwkv7_gdn"))
    assert (gdn["alpha"], gdn["w"], gdn["w0"], gdn["beta"], gdn["k"]) == ("f32", "f32", "f32", "bf16", "bf16")
    rwkv4 = held(cell_of(library("rwkv4"), "rwkv4"))
    assert {rwkv4[n] for n in ("p", "num", "den", "w", "decay", "k")} == {"f32"}  # k is in p, and p in num's decay
    assert {rwkv4[n] for n in ("v", "r", "x_prev")} == {"bf16"}
    mamba = held(cell_of(library("mamba2"), "mamba2"))
    assert {mamba[n] for n in ("S", "dt", "dt0", "A_log")} == {"f32"}
    assert {mamba[n] for n in ("v", "B", "C")} == {"bf16"}
    delta = held(cell_of(library("gated_delta"), "gated_delta"))
    assert {delta[n] for n in ("S", "keep", "seen")} == {"f32"}  # seen stands inside the recurrence
    assert {delta[n] for n in ("q", "k", "v", "beta", "z", "o")} == {"bf16"}


# --- what the text declares ----------------------------------------------------------------------------------------
def test_what_is_computed_from_something_declared_f32_is_f32_up_to_a_narrower_matrix() -> None:
    types = op("param W: f32[D, D] ~ orthogonal()", "param V: [D, D] ~ orthogonal()",
               "a = tanh(W @ x)", "b = a*x", "c = V @ a", "e = V @ x", "return b + c + e")  # fmt: skip
    assert {types[n] for n in ("W", "a", "b")} == {"f32"}
    assert {types[n] for n in ("V", "c", "e", "out")} == {"bf16"}


def test_a_vector_is_f32_and_says_nothing_of_what_is_computed_from_it() -> None:
    types = op("param v: [D] ~ 1", "param u: f32[D] ~ 1", "a = x*v", "b = x*u", "return a + b")
    assert (types["v"], types["a"], types["b"]) == ("f32", "bf16", "f32")


def test_an_op_returns_what_it_declares() -> None:
    types = op("a = x*x", "return a + x", head="op f(x: [D]) -> f32[D]")
    assert (types["a"], types["out"]) == ("bf16", "f32")
    types = op(
        "a = g(x)", "b = a*x", "return b", before="op g(x: [D]) -> f32[D] { y = x*x ⏎ return y }\n".replace("⏎", "\n")
    )
    assert {types[n] for n in ("g_y", "a", "b")} == {"f32"}
    part = "op g(x: [D]) -> f32[D] {\n  param u: [D] ~ 1\n  return x*u\n}\n"
    assert op("part p: g", "b = p(x)*x", "return b", before=part)["b"] == "f32"


def test_a_value_is_cast_by_as() -> None:
    types = op("a = x*x", "b = (a*x) as f32[D]", "c = b + a", "return c")
    assert (types["a"], types["b"], types["c"]) == ("bf16", "f32", "f32")


def test_inputs_histories_and_carries_keep_what_they_declare() -> None:
    types = op("carry c: f32[D]", "history K: f16[D] last 4 = x", "history L: f32[D] last 4 = x*x",
               "c' = x", "a = sum[t](K[t] + L[t])", "return a + x", head="op f(x: f32[D]) -> [D]")  # fmt: skip
    assert {n: types[n] for n in ("x", "c", "K", "L")} == {"x": "f32", "c": "f32", "K": "f16", "L": "f32"}


# --- states --------------------------------------------------------------------------------------------------------
def test_a_delay_has_the_type_of_the_name_that_it_is_given() -> None:
    types = op(
        "param u: f32[D] ~ 1", "state a: [D]", "state b: [D]", "state c: [D]", "state e: bf16[D]", "state g: [D]",
        "wide = x*u", "a' = x", "b' = wide", "c' = 2*x", "e' = 2*x", "g' = a", "return a + b + c + e + g",
    )  # fmt: skip
    assert {n: types[n] for n in "abceg"} == {"a": "bf16", "b": "f32", "c": "f32", "e": "bf16", "g": "bf16"}


def test_a_recurrence_is_f32_whatever_narrower_type_is_declared_and_so_are_the_names_inside() -> None:
    types = op(
        "param W: [D, D] ~ orthogonal()", "state s: bf16[D]", "state c: [D]", "u = W @ x", "gate = sigmoid(u + s)",
        "c' = gate*c + (1 - gate)*x", "s' = tanh(c')", "y = s'*u", "return y",
    )  # fmt: skip
    assert {types[n] for n in ("s", "c", "gate")} == {"f32"}
    assert {types[n] for n in ("u", "y")} == {"bf16"}


def test_a_name_as_large_as_a_whole_state_is_f32() -> None:
    types = op("state S: [D, D]", "S'[i,j] = S[i,j]*0.9 + x[i]*x[j]", "T[i,j] = S'[i,j]*x[j]", "U[i,j] = T[i,j] + 1",
               "y[i] = sum[j](U[i,j]*x[j])", "return y")  # fmt: skip
    assert (types["S"], types["T"], types["U"], types["y"]) == ("f32", "f32", "f32", "bf16")


def test_what_a_state_begins_with_is_f32() -> None:
    types = op("param S0: [D, D] ~ 0", "state S: [D, D] = S0", "S'[i,j] = S[i,j]*0.5 + x[i]*x[j]",
               "y[i] = sum[j](S'[i,j]*x[j])", "return y")  # fmt: skip
    assert types["S0"] == "f32"


def test_means_and_single_numbers_are_f32() -> None:
    types = op("mu = mean[i](x[i])", "n = sum[i](x[i]^2)", "y = x*mu + n", "return y")
    assert (types["mu"], types["n"], types["y"]) == ("f32", "f32", "bf16")


# --- never narrower ------------------------------------------------------------------------------------------------
def test_a_decay_is_f32_through_parts_and_what_it_meets_behind_a_matrix_is_not() -> None:
    lora = (
        "op lora(x: [D]) -> [D] {\n  param A: [4, D] ~ orthogonal()\n  param B: [D, 4] ~ orthogonal()\n"
        "  param u: [D, 2] ~ 0\n  low = A @ x\n  z = B @ low\n  y[i] = z[i] + sum[c](u[i,c])\n  return y\n}\n"
    )
    own = ("part p: lora", "state s: [D]", "w = p(x)", "s' = s*exp(-exp(w)) + x", "return s'")
    part, whole = decided(*own, before=lora)
    assert {n: part[n] for n in ("out", "z", "u")} == {"out": "f32", "z": "f32", "u": "f32"}
    assert {n: part[n] for n in ("low", "A", "B", "x")} == {"low": "bf16", "A": "bf16", "B": "bf16", "x": "bf16"}
    assert (whole["w"], whole["x"], whole["out"]) == ("f32", "bf16", "bf16")


def test_a_decay_is_f32_through_a_part_s_input() -> None:
    keeps = "op keeps(w: [D]) -> [D] {\n  state s: [D]\n  s' = s*w + 1\n  return s'\n}\n"
    part, whole = decided("part p: keeps", "v = exp(-x)", "u = x*x", "return p(v) + u", before=keeps)
    assert (part["w"], whole["v"], whole["x"], whole["u"]) == ("f32", "f32", "f32", "bf16")


def test_a_decay_is_f32_through_a_carry() -> None:
    text = """
    use "lib/norm.cdr" { layer_norm }
    use "lib/embed.cdr" { embed, head }
    op writes(x: [D]) -> [D] {
      carry c: [D]
      carry e: [D]
      v = exp(-x)
      c' = v
      e' = v
      return v
    }
    op reads(x: [D]) -> [D] {
      carry c: [D]
      carry e: [D]
      state s: [D]
      s' = s*c + e
      return s'
    }
    model m {
      vocab = 16
      stack {
        emb: embed(vocab, 8)
        a: writes
        b: reads
        head(vocab)
      }
    }
    """
    model = load_text(text)
    writes, reads = held(cell_of(model, "writes")), held(cell_of(model, "reads"))
    assert {writes["c"], reads["c"], writes["v"], writes["x"]} == {"f32"}
    assert writes["e"] == reads["e"] == writes["out"] == "bf16"


def test_what_top_chooses_from_is_f32_though_its_matrix_declares_nothing() -> None:
    types = op("param G: [D, D] ~ orthogonal()", "param b: [2, D] ~ 0", "score = G @ x", "bent[i] = score[i] + b[0,i]",
               "gate, pick = top[k < 2](bent)", "y[i] = x[i]*gate[0]", "return y")  # fmt: skip
    assert {types[n] for n in ("score", "bent", "b")} == {"f32"}
    assert (types["G"], types["y"]) == ("bf16", "bf16")


# --- all of it -----------------------------------------------------------------------------------------------------
def models() -> Iterator[tuple[str, Model]]:
    yield from ((name, library(name)) for name in LIBRARY)
    yield from ((name, load(SPECS / f"{spec}.cdr", settings)) for name, (spec, settings) in MODELS.items())


@pytest.mark.parametrize("work", ["bf16", "f16"])
def test_every_name_that_is_rounded_is_there_in_both_forms(work: DType) -> None:
    for _, model in models():
        program = lower(model, work=work).program
        assert program.model.work == work
        for name, cell in program.model.cells.items():
            due = {s.ref for s in cell.body if isinstance(s, Def) and s.dtype in NARROW}
            for body in (program.sequence[name].body, program.step[name].body):
                stored = {s.ref for s in body if isinstance(s, Def) and s.dtype in NARROW}
                stored |= {Ref("def", s.name) for s in body if isinstance(s, forms.Attend) and s.dtype in NARROW}
                assert due == stored, (cell.op, due ^ stored)


def test_no_expression_is_narrow_and_no_type_is_left_open() -> None:
    for _, model in models():
        decided = decide_precision(model, "bf16")
        for cell in decided.cells.values():
            nodes = [n for s in cell.body for root in walk.roots(s) for n in walk.nodes(root)]
            assert not any(n.dtype in NARROW for n in nodes)
            assert {n.dtype for n in nodes if n.op == "read"} <= {"f32", "int", "bool", "pick"}
            assert "work" not in held(cell).values()


def test_with_work_f32_everything_is_f32() -> None:
    for _, model in models():
        for cell in decide_precision(model).cells.values():
            assert {t for t in held(cell).values() if t in FLOATS} <= {"f32"}
    assert {s.decl.dtype for s in layout.slots(decide_precision(load_text(SPEC)))} == {"f32"}


# --- products with matrices ----------------------------------------------------------------------------------------
def test_a_matrix_is_met_where_an_index_is_summed_and_one_is_its_own() -> None:
    W, x, v = at("param", "W", d, k), at("input", "x", k), at("param", "v", k)
    found = matrix_product(reduce("sum", (k,), mul(mul(W, add(x, v)), const(2.0))))
    assert found is not None
    assert (found.matrix, found.operand, found.outer) == (W, (add(x, v), const(2.0)), ())
    assert operand_type(reduce("sum", (k,), mul(x, W)), {"W": "f16", "v": "f32"}) == "f16"
    gate = at("def", "g", d)
    gated = matrix_product(reduce("sum", (k,), mul(mul(W, gate), mul(x, v))))
    assert gated is not None
    assert (gated.operand, gated.outer) == ((x, v), (gate,))


@pytest.mark.parametrize(
    "n",
    [
        reduce("sum", (k,), mul(at("param", "v", k), at("input", "x", k))),  # a vector keeps no index
        reduce("sum", (j,), mul(at("param", "F", h, j), at("def", "y", h, j))),  # the other one has it too
        reduce("sum", (j,), mul(at("next", "S", h, i, j), at("def", "r", h, j))),  # no parameter
        reduce("sum", (k,), at("param", "W", d, k)),  # nothing to meet
        reduce("max_over", (k,), mul(at("param", "W", d, k), at("input", "x", k))),
        mul(at("param", "W", d, k), at("input", "x", k)),
    ],
)
def test_a_sum_without_a_matrix_rounds_nothing(n: Node) -> None:
    assert matrix_product(n) is None
    assert operand_type(n, {"W": "bf16", "F": "bf16", "v": "bf16"}) is None


def test_a_matrix_a_head_is_met_head_by_head() -> None:
    W = at("param", "W", h, m, j, view=(h.axis, N, N))
    found = matrix_product(reduce("sum", (j,), mul(W, at("def", "y", h, j))))
    assert found is not None
    assert found.matrix is W
    assert {e, i} & set(W.free) == set()


@pytest.mark.parametrize("target", ["cpu", "cuda", "rocm", "tenstorrent"])
def test_a_target_that_computes_in_f32_alone_refuses_another_type(target: str) -> None:
    lowered = lower(load_text(SPEC), work="bf16")
    with pytest.raises(UserError, match=f"target {target} does not compute in bf16") as told:
        emit(lowered, target)
    assert told.value.help == "`lower` the model with f32"
