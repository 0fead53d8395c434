"""Ops to cells: the library elaborates, layers share cells, names are kept, equations have no order."""

from __future__ import annotations

from pathlib import Path

import cdrmix.spec
import pytest

from cdrmix.check import load, load_op, load_text
from cdrmix.check.body.elaborate import Context
from cdrmix.ir.nodes import Apply, Def, Node, Top
from cdrmix.ir.verify import verify
from cdrmix.ir.walk import nodes
from tests.good.elaborated import elaborate
from tests.small import SPEC

LIB = Path(cdrmix.spec.__file__).parent / "lib"

LIBRARY = [
    ("norm", "layer_norm", {}),
    ("norm", "rms_norm", {}),
    ("channel_mix", "channel_mix", {"hidden": "96"}),
    ("channel_mix", "swiglu", {"hidden": "96"}),
    ("embed", "head", {"vocab": "256"}),
    ("rwkv4", "rwkv4", {}),
    ("rwkv4", "channel_mix4", {"hidden": "96"}),
    ("rwkv6", "rwkv6", {"N": "16"}),
    ("rwkv6", "channel_mix6", {"hidden": "96"}),
    ("rwkv7", "rwkv7", {"N": "16"}),
    ("rwkv7", "rwkv7_diag", {"N": "16"}),
    ("rwkv7", "rwkv7_plain_v", {"N": "16"}),
    ("rwkv7", "rwkv7_gdn", {"N": "16"}),
    ("retnet", "retnet", {"N": "16"}),
    ("mamba2", "mamba2", {"N": "16", "P": "16"}),
    ("gated_delta", "gated_delta", {"N": "16", "V": "32"}),
    ("attention", "attention", {"heads": "8", "kv_heads": "2", "window": "5"}),
    ("attention", "attention_alibi", {"heads": "8", "kv_heads": "8", "window": "5"}),
]


@pytest.mark.parametrize(("file", "op", "args"), LIBRARY, ids=[op for _, op, _ in LIBRARY])
def test_the_library_elaborates(file: str, op: str, args: dict[str, str]) -> None:
    model = load_op(LIB / f"{file}.cdr", op, {"D": 64}, args, layer=1, layers=2)
    verify(model)


def test_mixtures_elaborate() -> None:
    text = """
use "lib/{0}.cdr" {{ {0} }}
use "lib/channel_mix.cdr" {{ relu2 }}
op f(x: [D]) -> [D] {{
  part m: {0}(relu2(hidden=8), experts=4, shared={1})
  return m(x)
}}
"""
    for op in ("moe", "moe_sigmoid"):
        for shared in (0, 1):
            found = elaborate(text.format(op, shared))
            cell = found.cells[op]
            assert [p.name for p in cell.parts] == (["F", "A"] if shared else ["F"])
            top = next(s for s in cell.body if isinstance(s, Top))
            assert (top.values is None) == (op == "moe_sigmoid")
            assert cell.params[0].dtype == "f32"


def test_layers_share_cells() -> None:
    model = load_text(SPEC, overrides={"layers": "40"})
    verify(model)
    by_op: dict[str, int] = {}
    for cell in model.cells.values():
        by_op[cell.op] = by_op.get(cell.op, 0) + 1
    # rwkv7: with and without v0 above it; relu2: the expert's width and the dense one's
    assert by_op == {"embed": 1, "layer_norm": 1, "rwkv7": 2, "token_shift": 1, "relu2": 2, "channel_mix": 1,
                     "moe": 1, "head": 1}  # fmt: skip


def test_a_large_model_is_quick_to_elaborate() -> None:
    model = load(Path(cdrmix.spec.__file__).parent / "1b.cdr", {"layers": "32", "d_model": "4096"})
    assert len(model.lines) == 68
    assert len(model.cells) < 12


def test_a_body_that_asks_for_its_layer_is_its_layers_own() -> None:
    text = SPEC.replace("layers = 2", "layers = 4").replace("residual layer_norm >> rwkv7", "deep >> rwkv7") + (
        "op deep(x: [D]) -> [D] {\n  param w: [D] ~ layer/layers\n  when layer > 1 {\n    y = 2*x\n  } else {\n"
        "    y = x\n  }\n  return y*w\n}\n"
    )
    model = load_text(text)
    deep = [line.chain[0].cell for line in model.lines if line.path.endswith("att")]
    assert len(set(deep)) == 4


def test_init_rules_stay_symbolic_in_the_layer() -> None:
    found = elaborate(
        "op wave(i: [], n: int) -> [] {\n  z = i/n + layer\n  return z*z\n}\n"
        "op f(x: [D]) -> [D] {\n  let fade = 1 - layer/layers\n  param w: [i < D] ~ wave(i, 8)^fade !lr(2) !decay(0)\n"
        "  return x*w\n}\n"
    )
    assert found.cell is not None
    (w,) = found.cell.params
    asked = {n.arg for n in nodes(w.init.args[0]) if n.op == "context"}
    assert asked == {"layer", "layers"}
    assert (w.lr, w.decay) == (2.0, 0.0)


def test_names_of_the_text_are_kept() -> None:
    found = elaborate(
        'use "lib/norm.cdr" { group_norm }\n'
        "op f(x: [D]) -> [D] {\n  dim D = H * 4\n  a = group_norm(x as [H, 4])\n  b = group_norm(2*a)\n"
        "  return (a + b) as [D]\n}\n"
    )
    assert found.cell is not None
    names = [s.ref.name for s in found.cell.body if isinstance(s, Def)]
    norm = ["group_norm_mu", "group_norm_var", "group_norm_y"]
    assert names == [*norm, "a", "group_norm_x", *(f"{n}_2" for n in norm), "b", "out_in", "out"]


def test_a_part_is_named_after_its_equation() -> None:
    found = elaborate(
        'use "lib/norm.cdr" { rms_norm }\n'
        "op f(x: [D]) -> [D] {\n  part g: rms_norm\n  part h: rms_norm\n  y = g(x)\n  return h(2*y) + y\n}\n"
    )
    assert found.cell is not None
    applied = [s for s in found.cell.body if isinstance(s, Apply)]
    assert [(a.name, a.part, a.inputs[0].ref.name) for a in applied] == [("y", "g", "x"), ("h_out", "h", "h_x")]
    assert {p.cell for p in found.cell.parts} == {"rms_norm"}


def test_equations_have_no_order() -> None:
    lines = ["a = x*2", "b = a + s", "s' = b", "state s: [D]", "c = b + s'"]
    forward = elaborate("op f(x: [D]) -> [D] {\n  " + "\n  ".join([*lines, "return c"]) + "\n}\n")
    backward = elaborate("op f(x: [D]) -> [D] {\n  " + "\n  ".join(["return c", *reversed(lines)]) + "\n}\n")
    assert forward.cell is not None
    assert backward.cell is not None
    assert set(forward.cell.body) == set(backward.cell.body)


def test_a_long_chain_in_any_order() -> None:
    chain = [f"a{i + 1} = a{i} + x" for i in range(600)]
    for lines in (chain, chain[::-1]):
        text = "op f(x: [D]) -> [D] {\n  a0 = x\n  " + "\n  ".join(lines) + "\n  return a600\n}\n"
        assert elaborate(text).cell is not None


def test_only_the_taken_branch_exists() -> None:
    text = """
op f(x: [D], deep: bool = false) -> [D] {{
  when {} {{
    param w: [D] ~ 1
    y = x*w
  }} else {{
    y = x
  }}
  return y
}}
"""
    taken, other = elaborate(text.format("not deep")), elaborate(text.format("deep"))
    assert taken.cell is not None
    assert other.cell is not None
    assert [len(taken.cell.params), len(other.cell.params)] == [1, 0]


def test_carries_are_asked_for_by_name() -> None:
    text = "op f(x: [D]) -> [D] {\n  carry v: [D]\n  when carried(v) {\n    y = x + v\n  } else {\n    v' = 2*x\n" \
           "    y = v'\n  }\n  return y\n}\n"  # fmt: skip
    first = elaborate(text, context=Context(0, 2))
    later = elaborate(text, context=Context(1, 2, {"v": (8,)}))
    assert first.cell is not None
    assert later.cell is not None
    assert [(c.reads, c.writes) for c in (*first.cell.carries, *later.cell.carries)] == [(False, True), (True, False)]


def test_dtypes() -> None:
    found = elaborate(
        "op f(x: [D]) -> [D] {\n  param W: f32[D, D] ~ orthogonal()\n  param V: [D, D] ~ orthogonal()\n"
        "  state s: [D]\n  state q: bf16[D]\n  s' = x\n  q' = x\n  a = W @ x\n  b = V @ x\n  return a + b + s + q\n}\n"
    )
    assert found.cell is not None
    assert [found.definition(n).dtype for n in ("a", "b", "s", "q", "out")] == ["f32", "work", "f32", "bf16", "work"]


def test_a_function_returns_the_dtype_it_declares() -> None:
    found = elaborate(
        "op g(x: [D]) -> [D] {\n  y = x*2\n  return y\n}\n"
        "op f(x: [D]) -> [D] {\n  state s: [D]\n  s' = x\n  a = g(s)\n  return a\n}\n"
    )
    assert found.definition("g_y").dtype == "work"
    assert found.definition("a").dtype == "work"


def contexts(n: Node) -> set[str]:
    return {m.arg for m in nodes(n) if m.op == "context"}


def test_pos_is_a_value_of_the_token() -> None:
    found = elaborate("op f(x: [D]) -> [D] {\n  y[i] = x[i]*cos(pos*10000^(-i/8))\n  return y\n}\n")
    assert contexts(found.definition("y").value) == {"pos"}
