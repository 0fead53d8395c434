"""Every encoding on every target that reads it: the interpreter's results on the widened values, and states that move.

A model reads its matrices in every way: as products whole, of part of a row and along the columns, an element at a
time, as a row that is looked up, in a bank, tied, as the values of a part's input.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime.encodings import ENCODINGS, read_values
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.session import Session

from cdrmix.artifact import write_artifact
from cdrmix.check import load_text
from cdrmix.compiler import TARGETS, backend, lower, options_of
from cdrmix.ir.initial import random_weights
from cdrmix.ir.nodes import Model
from cdrmix.verification import verify_artifact
from cdrmix.weights import write_weights
from tests.tenstorrent.agree import compare, compile_to

from .c_program import needs_compiler
from .tinygrad_agree import check

pytestmark = needs_compiler

SPEC = """
use "lib/norm.cdr" { layer_norm }
use "lib/embed.cdr" { embed, head }
use "lib/channel_mix.cdr" { relu2 }
use "lib/moe.cdr" { moe }

model ways {
  vocab = 24
  d_model = 40
  layers = 3
  stack {
    emb: embed(vocab, d_model)
    repeat layer < layers {
      mix: residual layer_norm >> ways(H=4)
      ffn: residual layer_norm >> moe(relu2(hidden=13), experts=3, top_k=2)
    }
    head(vocab)
    tie head.W = emb.E
  }
}

op ways(x: [D], H: int) -> [D] {
  dim D = H * N
  param W: [D, D] ~ normal(0.2)
  param U: [H, D] ~ normal(0.2)
  param T: [D, D] ~ normal(0.2)
  param G: [H, N] ~ normal(1)
  param P: [D, D] ~ normal(0.2)
  param first: [H, N] ~ normal(1)
  part p: applied(D)
  state s: [H, N] = first
  whole = W @ x
  rows[h] = sum[i](U[h,i] * x[i])
  some[i,h] = sum[n](W[i,h,n] * x[h,n])
  columns[j] = sum[i](T[i,j] * x[i])
  two[i] = sum[j](W[i,j] * T[i,j])
  s'[h,n] = 0.5*s[h,n] + G[h,n]*whole[h,n]*rows[h]
  y[h,n] = s'[h,n] + columns[h,n]
  parted[i] = sum[h](some[i,h])
  return (y as [D]) + p(x, P) + parted + two
}

op applied(x: [D], P: [D, D], D: int) -> [D] {
  return P @ x
}
"""
MIXED = ("layer.1.*=bf16", "layer.2.mix.W=f16", "emb.*=i8", "layer.0.ffn.F.Wk=i8")
EVERY = [*((name, ()) for name in ENCODINGS), ("f32", MIXED)]


@pytest.fixture(scope="module")
def model() -> Model:
    return load_text(SPEC)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFLAGS", "-O1")
    monkeypatch.setenv("CDR_DEVICE", "emulated")


def artefact(
    folder: Path, model: Model, target: str, quant: str = "f32", rules: Sequence[str] = (), seed: int = 1
) -> Path:
    """An artefact of random weights, all of them as a checkpoint gives them."""
    weights, given = random_weights(model, seed), folder.with_suffix(".safetensors")
    write_weights(given, {n: x.shape for n, x in weights.items()}, weights.__getitem__)
    lowered = lower(model, weights=quant, rules=rules)
    write_artifact(lowered, target, folder, given, options=options_of(target, {}, quant))
    return folder


@pytest.mark.parametrize(("quant", "rules"), EVERY, ids=[*ENCODINGS, "mixed"])
@pytest.mark.parametrize("target", ["cpu", "torch"])
def test_what_is_held_so_computes_what_it_stands_for(
    target: str, quant: str, rules: Sequence[str], model: Model, tmp_path: Path
) -> None:
    folder = artefact(tmp_path / "a", model, target, quant, rules)
    found = verify_artifact(folder, 9)
    assert found["within"] and found["weights"] == "the checkpoint's", found["errors"]
    held = {t["path"]: t["stored"] for t in json.loads((folder / "manifest.json").read_text())["tensors"]}
    assert held["layer.0.mix.W"] == quant and held["layer.0.mix.first"] == "f32"  # a state begins with it
    assert held["layer.1.mix.W"] == ("bf16" if rules else quant)
    values, given = read_values(folder), random_weights(model, 1)
    assert values.keys() == held.keys()
    for path, x in values.items():
        assert np.array_equal(x, given[path].astype(np.float32)) == (held[path] == "f32"), path


def test_a_target_reads_what_it_says(model: Model) -> None:
    assert {name for name in TARGETS if backend(name).encodings == set(ENCODINGS)} >= {"cpu", "torch"}


def test_the_module_of_a_torch_artefact_takes_the_widened_values(model: Model, tmp_path: Path) -> None:
    folder = artefact(tmp_path / "a", model, "torch", "i8")
    alone = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import model
from cdrmix_scans.encodings import read_values
m = model.Model(init=False)
m.load_state_dict({path: torch.tensor(x) for path, x in read_values(sys.argv[1]).items()})
print(float(m(torch.tensor([[1, 2, 3]]))[0][0, -1].sum()))
"""
    done = subprocess.run([sys.executable, "-c", alone, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Session.open(folder) as session:
        assert float(done.stdout) == pytest.approx(float(session.prefill([1, 2, 3]).sum()), rel=1e-4)


def test_lines_that_are_held_otherwise_are_units_and_programs_of_their_own(tmp_path: Path) -> None:
    text = SPEC.replace("    tie head.W = emb.E\n", "")
    model = load_text(text)
    check(model, (1, 3), batch=2, rules=MIXED)
    small = load_text(text, overrides={"layers": "2"})
    rules = ["layer.1.mix.*=bf16", "head.W=bf16"]
    found = compare(compile_to(tmp_path / "a", small, rules=rules), small, [1, 2, 3])
    assert found.worst <= 2e-2


def test_a_saved_state_does_not_depend_on_how_weights_are_held(tmp_path: Path) -> None:
    text = SPEC.replace("layers = 3", "layers = 1")
    model = load_text(text)
    made = {
        "c": artefact(tmp_path / "c", model, "cpu"),
        "c_i8": artefact(tmp_path / "c_i8", model, "cpu", "i8"),
        "torch": artefact(tmp_path / "torch", model, "torch", "bf16"),
        "card": artefact(tmp_path / "card", model, "tenstorrent"),
    }
    for name, folder in made.items():
        with Session.open(folder) as one:
            logits = one.prefill([1, 2, 3])
            one.save(tmp_path / f"{name}.state")
        for other in made.values():
            with Session.open(other) as to:
                to.load(tmp_path / f"{name}.state")
                assert np.array_equal(to.prefill([]), logits) and to.latest == [1, 2, 3]
    for target, quant in (("cpu", "f32"), ("cpu", "i8"), ("torch", "i8"), ("tenstorrent", "bf16")):
        folder = artefact(tmp_path / f"{target}_{quant}", model, target, quant, seed=2)
        with Session.open(folder) as another, pytest.raises(ArtifactError, match="other weights"):
            another.load(tmp_path / "c.state")
