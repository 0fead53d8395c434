"""`cdrmix quantize`: a trained model in fewer bits, at a loss that the user says, and mistakes told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cdrmix.runtime.encodings import read_values

from cdrmix.artifact import write_artifact
from cdrmix.check import load
from cdrmix.cli import main
from cdrmix.compiler import lower
from cdrmix.train.config import TrainConfig
from cdrmix.train.loop import Trainer
from tests.good.commands import said
from tests.small import TEXT, write_spec


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec, texts and a run of it that has learnt something."""
    home = tmp_path_factory.mktemp("home")
    (home / "text.txt").write_text(TEXT)
    (home / "other.txt").write_text(TEXT.replace("number", "figure"))
    config = {
        "spec": write_spec(home),
        "data": {"train": home / "text.txt"},
        "out": home / "run",
        "steps": 60,
        "batch": 8,
        "save_every": 1000,
        "threads": 1,
        "optim": {"lr": 1e-2, "warmup": 5},
    }
    Trainer(TrainConfig.model_validate(config)).train()
    return home


def quantize(home: Path, out: str, *more: object, source: str = "run") -> list[str]:
    base = ["quantize", home / source, "--data", home / "other.txt", "--tokens", 1200, "--threads", 1, "-o", home / out]
    return [str(word) for word in (*base, *more)]


def manifest_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def test_a_trained_model_keeps_its_bits_per_byte(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(quantize(home, "i4", "--quant", "i4", "--max-loss", 4, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    bits = found["bits_per_byte"]
    assert bits["before"] < 3 and bits["after"] <= bits["before"] * 1.04
    assert found["bytes"]["after"] < found["bytes"]["before"] / 2
    narrow = [group for group in found["groups"] if group["stored"] == "i4"]
    assert len(narrow) > len(found["groups"]) / 2
    errors = {tensor["path"]: tensor for tensor in found["tensors"]}
    assert all(0 < x["weights"] < 0.2 for x in errors.values())
    assert errors["emb.E"]["products"] is None  # its rows are read
    assert all(0 < errors[path]["products"] < 0.2 for path in ("head.W", "layer.1.ffn.F.Wk", "layer.0.att.w2"))
    manifest = manifest_of(home / "i4")
    assert manifest["quantised"]["policy"] == {group["paths"]: group["stored"] for group in found["groups"]}
    assert manifest["encode"] == found["encode"] and manifest["stored"] == "i4"
    held = {tensor["path"]: tensor["stored"] for tensor in manifest["tensors"]}
    assert all(held[path] == group["stored"] for group in found["groups"] for path in group["tensors"])
    assert main(["verify", str(home / "i4"), "--tokens", "8"]) == 0  # against the weights as they are held


def test_compile_holds_the_same_matrices_so_and_rounds_them_otherwise(home: Path) -> None:
    assert main(quantize(home, "fed", "--quant", "i4", "--max-loss", 0.2, "--encode", "emb.E=i8")) == 0
    fed = manifest_of(home / "fed")
    held = {tensor["path"]: tensor["stored"] for tensor in fed["tensors"]}
    assert fed["encode"][-1] == "emb.E=i8" and held["emb.E"] == "i8" and "emb.E" not in fed["quantised"]["policy"]
    assert len(set(held.values())) > 2  # a strict budget holds some of them wider
    of = [home / "small.cdr", "--target", "cpu", "--checkpoint", home / "run", "--quant", "i4", "-o", home / "plain"]
    assert main(["compile", *map(str, of), *(f"--encode={rule}" for rule in fed["encode"])]) == 0
    plain = manifest_of(home / "plain")
    assert plain["tensors"] == fed["tensors"] and "quantised" not in plain
    one, two = read_values(home / "fed"), read_values(home / "plain")
    assert any(not np.array_equal(one[path], two[path]) for path in one)
    assert np.array_equal(one["emb.E"], two["emb.E"])


def test_an_artefact_is_quantised_as_its_checkpoint_is(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_artifact(lower(load(home / "small.cdr")), "cpu", home / "whole", home / "run")
    of = ["--spec", home / "small.cdr", "--tokenizer", "bytes", "--max-loss", 0.5]
    assert main(quantize(home, "one", *of, "--json", source="run/last/weights.safetensors")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["lost"] <= 0.005 and found["bytes"]["after"] < found["bytes"]["before"] * 0.6
    assert main(quantize(home, "two", *of[2:], source="whole")) == 0
    assert "bits per byte" in capsys.readouterr().out
    assert (home / "one" / "weights.safetensors").read_bytes() == (home / "two" / "weights.safetensors").read_bytes()
    assert "I8 in the file, not F32, F16 or BF16" in said(capsys, *quantize(home, "three", source="one"))


@pytest.mark.parametrize(
    ("change", "message", "remedy"),
    [
        (["--data", "nowhere"], "nowhere", ""),
        (["--tokens", "500"], "500 tokens of text: too few", "at least 1024"),
        (["--max-loss", "0", "--encode", "*=i4"], "no matrix left", "--encode holds them all"),
        (
            ["--max-loss", "1e-7", "--encode", "*.W*=i4", "--data", "HOME/text.txt"],
            "as f16, the widest",
            "a larger --max",
        ),
        (["--target", "tenstorrent"], "reads no i8 weights", "cpu"),
        (["--set", "layers=3"], "--set and --model are for a spec", "--spec"),
        (["--spec", "spec/tiny.cdr"], "does not fit tiny", "use the spec"),
    ],
)
def test_mistakes_are_told(
    change: list[str], message: str, remedy: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = said(capsys, *quantize(home, "wrong", *(word.replace("HOME", str(home)) for word in change)))
    assert message in shown and remedy in shown
    assert not (home / "wrong").exists()


def test_weights_alone_do_not_say_their_spec(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "alone").mkdir()
    shutil.copy(home / "run" / "last" / "weights.safetensors", home / "alone")
    assert "says what spec it is of" in said(capsys, *quantize(home, "wrong", source="alone"))
    of = ["--spec", home / "small.cdr"]
    assert "no tokenizer" in said(capsys, *quantize(home, "wrong", *of, source="alone"))


def test_a_spec_that_has_changed_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = home / "small.cdr"
    text = spec.read_text()
    spec.write_text(text.replace("top_k=2", "top_k=1"))
    try:
        assert "it has changed since" in said(capsys, *quantize(home, "wrong"))
    finally:
        spec.write_text(text)
