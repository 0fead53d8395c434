"""`verify` sees a program of another equation on every target, also behind outputs that the spec begins at zero."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cdrmix.codegen.tinygrad import toolchain
from cdrmix.runtime.session import read_manifest

from cdrmix.artifact import WEIGHTS, listed, write_artifact, write_manifest
from cdrmix.check import load_text
from cdrmix.cli import main
from cdrmix.compiler import lower, options_of
from cdrmix.verification import verify_artifact

from .build import needs_compilers

pytestmark = needs_compilers
SPEC = """
use "lib/embed.cdr" { embed, head }
op gated(x: [D]) -> [D] {
  dim E = 4
  param Wg: [E, D] ~ 0
  param Wo: [D, D] ~ 0
  state S: [D] = 0
  g[e] = GATE(sum[d](Wg[e, d] * x[d]))
  S' = 0.9 * S + tanh(x)
  out[d] = SIGN sum[c](Wo[d, c] * S'[c]) * sum[e](g[e])
  return out + x
}
model m {
  vocab = 64
  d_model = 32
  stack {
    emb: embed(vocab, d_model)
    mix: gated
    head(vocab)
  }
}
"""
RIGHT = {"GATE": "sigmoid", "SIGN": ""}
WRONG = ({"GATE": "exp", "SIGN": ""}, {"GATE": "sigmoid", "SIGN": "-"})
ARCHS = {"cuda": ("sm_90",), "rocm": ("gfx1100",)}
TARGETS = (("cpu", "f32"), ("cpu", "i8"), ("torch", "f32"), ("torch", "bf16"), ("tenstorrent", "f32"),
           ("tenstorrent", "bf16"), ("cuda", "i8"), ("rocm", "f16"))  # fmt: skip


def compiled(folder: Path, target: str, quant: str, words: dict[str, str], checkpoint: Path | None = None) -> Path:
    text = SPEC
    for name, word in words.items():
        text = text.replace(name, word)
    given = {"arch": ARCHS[target], "batch": (1,), "block": (8,)} if target in ARCHS else {}
    lowered = lower(load_text(text), weights=quant)  # type: ignore[arg-type]
    write_artifact(lowered, target, folder, checkpoint, options=options_of(target, given, quant))  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize(("target", "quant"), TARGETS)
def test_another_equation_behind_zeros_fails(
    target: str, quant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if target in ARCHS and (missing := toolchain.missing(toolchain.choose(target, ARCHS[target]))):
        pytest.skip(f"{missing[0].what} is not here: {missing[0].command}")
    monkeypatch.delenv("CDR_DRIVER", raising=False)
    right = compiled(tmp_path / "right", target, quant, RIGHT)
    found = verify_artifact(right, 8)
    assert found["within"] and found["weights"] == "random, seed 0"
    assert read_manifest(right)["verified"]["weights"] == "random, seed 0"
    manifest = read_manifest(right)
    for words in WRONG:
        wrong = compiled(tmp_path / "wrong", target, quant, words)
        shutil.copy(right / WEIGHTS, wrong / WEIGHTS)
        files = {name: listed(wrong / name) for name in read_manifest(wrong)["files"]}
        own = {key: value for key, value in read_manifest(wrong).items() if key in ("metalium", "programs", "schedule")}
        write_manifest(wrong, {**manifest, **own, "files": files})  # what a faulty backend would have made
        found = verify_artifact(wrong, 8)
        assert not found["within"] and found["worst"] > 0.01
        assert read_manifest(wrong)["verified"]["how"] == "failed"


def test_a_checkpoint_is_run_as_it_is_unless_random_weights_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init = compiled(tmp_path / "init", "cpu", "f32", RIGHT)
    trained = compiled(tmp_path / "trained", "cpu", "f32", RIGHT, init)
    before = (trained / WEIGHTS).read_bytes()
    assert main(["verify", str(trained), "--tokens", "4"]) == 0
    assert "weights: the checkpoint's" in capsys.readouterr().out
    assert read_manifest(trained)["verified"]["weights"] == "the checkpoint's"
    assert main(["verify", str(trained), "--tokens", "4", "--random-weights"]) == 0
    assert "weights: random, seed 0" in capsys.readouterr().out
    assert read_manifest(trained)["verified"]["weights"] == "random, seed 0"
    assert (trained / WEIGHTS).read_bytes() == before


def test_a_program_without_weights_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdrmix.artifact.LARGE", 10)
    folder = tmp_path / "program"
    write_artifact(lower(load_text(SPEC.replace("GATE", "sigmoid").replace("SIGN", ""))), "cpu", folder)
    assert not (folder / WEIGHTS).exists() and verify_artifact(folder, 4)["within"]
    assert not (folder / WEIGHTS).exists()
