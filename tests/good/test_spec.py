"""The models in `spec/`: they load, their sizes are what their names and comments say, their schedules are as meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cdrmix.check import load
from cdrmix.ir.cost import cost
from cdrmix.ir.nodes import Model
from cdrmix.ir.verify import verify

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
