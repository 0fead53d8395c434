"""Which tensor is held how: the default by role, rules by path, what follows for shared cells, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime.encodings import ENCODINGS, ROW, Encoding

from cdrmix.check import load_text
from cdrmix.cli import main
from cdrmix.compiler import lower, model_hash
from cdrmix.diagnose import UserError
from cdrmix.ir.layout import weights
from cdrmix.ir.nodes import Model, Param
from cdrmix.ir.verify import verify
from cdrmix.passes.encodings import encode
from tests.small import write_spec

SPEC = """
use "lib/norm.cdr" { layer_norm }
use "lib/embed.cdr" { embed, head }
use "lib/rwkv7.cdr" { rwkv7 }
use "lib/moe.cdr" { moe }
use "lib/channel_mix.cdr" { relu2 }

model small {
  vocab = 32
  d_model = 16
  layers = 3
  stack {
    emb: embed(vocab, d_model)
    repeat layer < layers {
      att: residual layer_norm >> rwkv7(N=8)
      ffn: residual layer_norm >> moe(relu2(hidden=24), experts=3, top_k=1)
    }
    head(vocab)
    TIES
  }
}
"""


@pytest.fixture(scope="module")
def model() -> Model:
    return load_text(SPEC.replace("TIES", ""))


def held(model: Model) -> dict[str, str]:
    return {w.path: w.decl.stored for w in weights(model) if isinstance(w.decl, Param)}


def test_a_rule_is_for_the_paths_it_matches_and_the_last_holds(model: Model) -> None:
    plain = held(encode(model, "bf16"))
    assert plain["layer.0.att.Wr"] == plain["layer.2.ffn.F.Wk"] == "bf16"
    assert plain["layer.0.att.w0"] == plain["layer.0.ffn.Wg"] == "f32"  # a vector, and a router that is declared f32
    found = held(encode(model, "bf16", ["layer.*.att.W*=i8", "layer.1.*=f32", "layer.1.att.Wv=f16"]))
    changed = {path: to for path, to in found.items() if to != plain[path]}
    assert changed.pop("layer.1.att.Wv") == "f16"
    assert {p for p, to in changed.items() if to == "i8"} == {
        p for p in plain if p[:12] in ("layer.0.att.", "layer.2.att.") and p[12] == "W"
    }
    assert {p for p, to in changed.items() if to == "f32"} == {
        p for p, to in plain.items() if p.startswith("layer.1.") and to != "f32" and p != "layer.1.att.Wv"
    }


def test_what_is_held_alike_shares_a_cell_and_what_is_not_does_not(model: Model) -> None:
    def cells(rules: Sequence[str]) -> dict[str, str]:
        found = encode(model, "f32", rules)
        verify(found)
        return {i.path: i.cell for line in found.lines for i in line.chain}

    def alike(label: str, *rules: str) -> str:
        """The layers by the first of those whose cell they share."""
        found = [cell for path, cell in cells(rules).items() if path.endswith(label)]
        return "".join(f"{found.index(cell)}" for cell in found)

    assert encode(model) == model and encode(model, "i8").lines == model.lines
    assert alike(".att") == "011" and alike(".ffn") == "000"  # the first layer has no v0
    assert alike(".att", "layer.1.att.Wr=i8") == "012" and alike(".ffn", "layer.1.att.Wr=i8") == "000"
    assert alike(".ffn", "layer.1.ffn.F.Wk=bf16") == "010"  # a part's, and so its op's
    assert alike(".att", "layer.?.att.Wr=bf16") == "011"


def test_the_hash_is_of_the_architecture_alone(model: Model) -> None:
    lowered = lower(model, weights="bf16", rules=["layer.1.att.Wr=i8"])
    assert lowered.program.hash == lower(model).program.hash == model_hash(model)


def test_a_storage_has_one_encoding_by_whichever_of_its_paths() -> None:
    model = load_text(SPEC.replace("TIES", "tie head.W = emb.E"))
    for path in ("emb.E", "head.W"):
        found = held(encode(model, "bf16", [f"{path}=i8"]))
        assert found["emb.E"] == found["head.W"] == "i8"


@pytest.mark.parametrize(
    ("rule", "said", "help"),
    [
        ("layer.0.att.Wr", "no `=`", "PATHS=ENCODING"),
        ("layer.0.att.Wr=i9", "no encoding `i9`", "f32, f16, bf16, i8"),
        ("layer.0.at.Wr=i8", "no parameter has such a path", "layer.0.att.Wr"),
        ("layer.*.att.w0=i8", "`layer.0.att.w0` stays f32", "it is a vector"),
        ("layer.*.Wg=bf16", "`layer.0.ffn.Wg` stays f32", "the spec declares it f32"),
    ],
)
def test_a_rule_that_says_nothing_is_refused(rule: str, said: str, help: str, model: Model) -> None:
    with pytest.raises(UserError) as told:
        encode(model, "f32", [rule])
    assert said in told.value.message and help in told.value.help


def test_a_target_that_does_not_read_it_says_which_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = str(write_spec(tmp_path))
    command = ["compile", spec, "--target", "tenstorrent", "--encode", "layer.*.att.W*=i8", "-o", str(tmp_path / "a")]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "target tenstorrent reads no i8 weights" in said and "cuda" in said


def test_inspect_counts_what_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = str(write_spec(tmp_path))

    def count(*asked: str) -> dict[str, int]:
        assert main(["inspect", spec, "--json", *asked]) == 0
        found: dict[str, int] = json.loads(capsys.readouterr().out)["weight_bytes"]
        return found

    plain = count()
    assert list(plain) == ["f32", "bf16", "i8"]
    assert count("--quant", "bf16") == {"bf16": plain["bf16"]}
    ((how, mixed),) = count("--quant", "bf16", "--encode", "layer.*.att.W*=i8").items()
    assert how == "bf16, layer.*.att.W*=i8" and plain["i8"] < mixed < plain["bf16"]
    assert main(["inspect", spec, "--encode", "head.*=i8"]) == 0
    assert "in f32, head.*=i8" in capsys.readouterr().out


@pytest.mark.parametrize(
    "e", [*ENCODINGS.values(), replace(ENCODINGS["i8"], name="groups of 5", group=5)], ids=lambda e: e.name
)
@pytest.mark.parametrize("shape", [(3, 16), (2, 3, 13)])
def test_planes_are_what_the_record_says(e: Encoding, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    planes = e.narrow(x)
    assert {s: p.shape for s, p in planes.items()} == {s: p.shape for s, p in e.planes(shape).items()}
    assert sum(p.nbytes for p in planes.values()) == e.bytes(shape)
    error = np.abs(e.widen(planes, x.shape) - x)
    if e.group is None:
        assert (error <= np.abs(x) * {"f32": 0, "f16": 2**-11, "bf16": 2**-8}[e.name]).all()
    else:
        each = shape[-1] if e.group == ROW else e.group
        for at in range(0, shape[-1], each):
            most = np.abs(x[..., at : at + each]).max(-1, keepdims=True)
            assert (error[..., at : at + each] <= 0.5001 * most / e.largest).all()
