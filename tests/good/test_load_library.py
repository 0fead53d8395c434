"""The specs and the library as they are installed: sizes, schedules, single ops, sources that load again."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import pytest

from cdrmix.check import load, load_op, load_sources
from cdrmix.check.names.loader import LIBRARY
from cdrmix.diagnose import CompileError
from cdrmix.ir.cost import cost
from cdrmix.ir.layout import weights
from cdrmix.ir.nodes import Model
from cdrmix.ir.verify import verify

SPECS = sorted(p.stem for p in LIBRARY.glob("*.cdr"))


def stored(model: Model) -> int:
    return sum(prod(w.shape) for w in weights(model) if w.owner == w.path and w.kind == "param")


def mixed(settings: dict[str, int], dw: int, da: int, dv: int, dg: int) -> int:
    """Parameters of RWKV-7 with channel mixing, and a mixture of experts in every n-th layer."""
    d, v, layers, every = settings["d_model"], settings["vocab"], settings["layers"], settings["moe.every"]
    att = 6 * d + 4 * d * d + (d + 2 * d * dw) + (d + 2 * d * da) + 2 * d * dg + 2 * d + d + 2 * d
    value_residual = d + 2 * d * dv
    dense = d + 2 * d * 4 * d
    experts = settings["moe.experts"]
    routed = d + experts * d + experts * 2 * d * settings["moe.hidden"]
    blocks = sum(routed if i % every == every - 1 else dense for i in range(layers))
    return 2 * v * d + 4 * d + layers * (4 * d + att) + (layers - 1) * value_residual + blocks


@pytest.mark.parametrize("name", SPECS)
def test_specs_load(name: str) -> None:
    model = load(LIBRARY / f"{name}.cdr")
    assert model.lines[-1].path == "head"
    assert model.vocab == model.settings["vocab"] and model.width == model.settings["d_model"]
    assert load_sources(model.sources) == model


def test_totals_of_rwkv7_with_experts() -> None:
    big = load(LIBRARY / "1b.cdr")
    assert stored(big) == mixed(dict(big.settings), 64, 64, 32, 128)
    small = load(LIBRARY / "1b.cdr", {"layers": "3", "d_model": "128", "moe.every": "3", "vocab": "256"})
    assert stored(small) == mixed(dict(small.settings), 64, 64, 32, 128)


def test_totals_of_rwkv6_and_rwkv4() -> None:
    six = load(LIBRARY / "rwkv6.cdr")
    s = six.settings
    d, v, layers = s["d_model"], s["vocab"], s["layers"]
    shared = 2 * v * d + 4 * d
    att6 = 6 * d + 5 * 8 * d + 5 * d * 8 + 5 * d * d + (d + 2 * d * 8) + d + 2 * d
    mix6 = 2 * d + d * d + 2 * d * 4 * d
    assert stored(six) == shared + layers * (4 * d + att6 + mix6)
    four = load(LIBRARY / "rwkv4.cdr")
    s = four.settings
    d, v, layers = s["d_model"], s["vocab"], s["layers"]
    assert stored(four) == 2 * v * d + 4 * d + layers * (4 * d + 5 * d + 4 * d * d + 2 * d + d * d + 8 * d * d)


def test_tied_embeddings_are_stored_once() -> None:
    model = load(LIBRARY / "hybrid.cdr")
    every = sum(prod(w.shape) for w in weights(model) if w.kind == "param")
    assert model.ties == {"head.W": "emb.E"}
    assert every - stored(model) == model.vocab * model.width


OPS = [
    ("rwkv7", "rwkv7", {"D": 64}, {"N": "32"}),
    ("rwkv7", "rwkv7_diag", {"D": 64}, {"N": "32"}),
    ("rwkv7", "rwkv7_plain_v", {"D": 64}, {"N": "32"}),
    ("rwkv7", "rwkv7_gdn", {"D": 64}, {"N": "32"}),
    ("rwkv6", "rwkv6", {"D": 64}, {"N": "32"}),
    ("attention", "attention", {"D": 64}, {"heads": "4", "window": "8", "kv_heads": "2"}),
    ("attention", "rotate", {"H": 2, "N": 8}, {"base": "10000"}),
    ("gated_delta", "gated_delta", {"D": 64}, {"N": "16", "V": "32"}),
    ("mamba2", "mamba2", {"D": 64}, {"N": "16", "P": "32"}),
    ("retnet", "retnet", {"D": 64}, {"N": "16"}),
    ("norm", "group_norm", {"H": 4, "N": 8}, {}),
    ("embed", "embed", {}, {"vocab": "8", "width": "4"}),
]


@pytest.mark.parametrize(("file", "op", "dims", "args"), OPS, ids=lambda x: x if isinstance(x, str) else "")
def test_single_ops(file: str, op: str, dims: dict[str, int], args: dict[str, str]) -> None:
    model = load_op(LIBRARY / "lib" / f"{file}.cdr", op, dims, args, layer=1, layers=4)
    (line,) = model.lines
    (instance,) = line.chain
    assert (model.vocab, instance.path, instance.layer, instance.layers) == (0, op, 1, 4)
    cell = model.cells[instance.cell]
    assert [a.size for i in cell.inputs for a in i.axes] == list(dims.values())
    assert len(model.cells) == len({instance.cell, *(p.cell for c in model.cells.values() for p in c.parts)})


def test_an_op_with_experts() -> None:
    file = LIBRARY / "lib" / "moe_sigmoid.cdr"
    with pytest.raises(CompileError, match="E0201"):
        load_op(file, "moe_sigmoid", {"D": 8}, {"expert": "relu2(hidden=4)", "experts": "3"})


@pytest.mark.parametrize(
    ("op", "dims", "args", "code"),
    [
        ("haed", {}, {}, "E0201"),
        ("head", {}, {"vocab": "8"}, "E0210"),
        ("head", {"D": 4}, {}, "E0210"),
        ("head", {"D": 4}, {"vocb": "8"}, "E0209"),
        ("head", {"D": 4}, {"vocab": "8 +"}, "E0101"),
        ("head", {"D": 4}, {"vocab": "8.0"}, "E0214"),
    ],
)
def test_mistakes_of_single_ops(op: str, dims: dict[str, int], args: dict[str, str], code: str) -> None:
    with pytest.raises(CompileError) as error:
        load_op(LIBRARY / "lib" / "embed.cdr", op, dims, args)
    assert all(d.help for d in error.value.diagnostics)
    assert [d.code for d in error.value.diagnostics] == [code]


def test_layers_share_their_cells() -> None:
    """A deep stack adds lines and instances, and no cell: what is checked does not grow with it."""
    shallow, deep = (load(Path(LIBRARY) / "1b.cdr", {"layers": n}) for n in ("4", "1000"))
    assert len(deep.lines) == 2004 and len(deep.cells) == len(shallow.cells)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("y[h] = sum[i](S'[h,i,i]*r[h,i])", "`y`"),
        ("S'[h,i] = S[h,i,0]*w[h,i] + v[h,i]*k[h,i]*kk[h,i]", "`S'`"),
    ],
)
def test_a_diff_that_changes_the_axes_of_a_name(tmp_path: Path, line: str, name: str) -> None:
    file = tmp_path / "d.cdr"
    file.write_text(f'use "lib/rwkv7.cdr" {{ rwkv7 }}\nop d = rwkv7 with {{\n  {line}\n}}\n')
    with pytest.raises(CompileError) as error:
        load_op(file, "d", {"D": 64}, {"N": "32"})
    (found,) = [d for d in error.value.diagnostics if d.code == "E0804"]
    assert found.span.file == "d.cdr" and name in found.message


# --- the models of spec/ --------------------------------------------------------------------------------------------
SPEC = Path(__file__).resolve().parents[2] / "spec"


SMALL = {
    "vocab": "256",
    "d_model": "64",
    "layers": "8",
    "mixer": "rwkv7(N=16, dw=8, da=8, dv=8, dg=8)",
    "moe.hidden": "64",
    "attn.heads": "4",
    "attn.kv_heads": "2",
    "attn.window": "16",
}


@pytest.mark.parametrize("file", sorted(SPEC.glob("*.cdr")), ids=lambda f: f.stem)
def test_models_load(file: Path) -> None:
    model = load(file)
    verify(model)
    assert model.doc and model.settings["context"] > 0  # the trainer's default length


@pytest.mark.parametrize(("name", "billions"), [("1b", 1.0), ("1.5b", 1.5), ("4b", 4.0), ("8b", 8.0)])
def test_sizes_are_as_named(name: str, billions: float) -> None:
    """The total near the name; exactly that of the architecture's formula; and as the comment says."""
    model = load(SPEC / f"{name}.cdr")
    total = cost(model).total
    assert total.stored == pytest.approx(billions * 1e9, rel=0.02)
    assert total.stored == by_formula(model)
    said = re.findall(r"\d+\.\d+", model.doc)
    assert [float(x) for x in said] == [round(total.stored / 1e9, 2), round(total.active / 1e9, 2)]


def by_formula(model: Model) -> int:
    """Parameters of RWKV-7 with a mixture of squared-ReLU experts in every second layer, counted by hand."""
    s = model.settings
    vocab, d, layers = s["vocab"], s["d_model"], s["layers"]
    experts, hidden = s["moe.experts"], s["moe.hidden"]
    ranks = {"dw": 64, "da": 64, "dv": 32, "dg": 128} | {k: int(v) for k, v in re.findall(r"(d\w)=(\d+)", s["mixer"])}
    low_rank = 2 * d * (ranks["dw"] + ranks["da"] + ranks["dg"])
    attention = 4 * d * d + low_rank + 13 * d  # 6 mixing vectors; w0 a0 k_k k_a r_k and the group norm's two
    value_residual = (layers - 1) * (2 * d * ranks["dv"] + d)  # none in the first layer
    mixture = experts * (2 * d * hidden + d) + d
    dense = 8 * d * d + d
    norms = 2 * d * (2 * layers + 2)
    return 2 * vocab * d + norms + layers * attention + value_residual + layers // 2 * (mixture + dense)


def test_tiny_is_tiny() -> None:
    total = cost(load(SPEC / "tiny.cdr")).total
    assert 1e6 < total.stored < 3e6
    assert (round(total.stored / 1e6, 1), round(total.active / 1e6, 1)) == (2.4, 1.3)


@pytest.mark.parametrize(("place", "layers"), [("every", [3, 7]), ("last", [6, 7])])
def test_hybrid_schedules(place: str, layers: list[int]) -> None:
    """One setting moves the attention."""
    model = load(SPEC / "hybrid.cdr", SMALL | {"attn.place": f'"{place}"'})
    cells = {line.path: model.cells[line.chain[-1].cell].op for line in model.lines}
    assert [n for n in range(8) if cells[f"layer.{n}.att"] == "attention"] == layers
    assert model.ties == {"head.W": "emb.E"}
