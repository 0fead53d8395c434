"""`cdrmix quantize`: a trained model in fewer bits, at a loss that the user says, and mistakes told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

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
    base = ["quantize", home / source, "--data", home / "other.txt", "--tokens", 3000, "--threads", 1, "-o", home / out]
    return [str(word) for word in (*base, *more)]


@pytest.mark.parametrize(("narrowest", "percent"), [("i8", 0.5), ("i4", 4)])
def test_a_trained_model_keeps_its_bits_per_byte(
    narrowest: str, percent: float, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(quantize(home, narrowest, "--quant", narrowest, "--max-loss", percent, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    bits = found["bits_per_byte"]
    assert bits["before"] < 3 and bits["after"] <= bits["before"] * (1 + percent / 100)
    assert found["bytes"]["after"] < found["bytes"]["before"] * (0.5 if narrowest == "i4" else 0.6)
    narrow = [group for group in found["groups"] if group["stored"] == narrowest]
    assert len(narrow) > len(found["groups"]) / 2
    assert all(0 < tensor["weights"] < 0.2 for tensor in found["tensors"])
    manifest = json.loads((home / narrowest / "manifest.json").read_text())
    assert manifest["quantised"]["policy"] == {group["paths"]: group["stored"] for group in found["groups"]}
    assert manifest["encode"] == found["encode"]
    held = {tensor["path"]: tensor["stored"] for tensor in manifest["tensors"]}
    assert all(held[path] == group["stored"] for group in found["groups"] for path in group["tensors"])
    assert main(["verify", str(home / narrowest), "--tokens", "8"]) == 0  # against the weights as they are held
    # the same matrices without the text: rounded otherwise, and held alike
    again = [
        "compile",
        str(home / "small.cdr"),
        "--target",
        "cpu",
        "--checkpoint",
        str(home / "run"),
        "--quant",
        narrowest,
    ]
    assert main([*again, *(f"--encode={rule}" for rule in found["encode"]), "-o", str(home / "again")]) == 0
    plain = json.loads((home / "again" / "manifest.json").read_text())
    assert plain["tensors"] == manifest["tensors"] and "quantised" not in plain
    one, two = read_values(home / narrowest), read_values(home / "again")
    path = "layer.0.att.Wr"
    assert held[path] != narrowest or not np.array_equal(one[path], two[path])


def test_a_stricter_budget_is_wider_and_the_users_rules_hold(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = []
    for percent in (10, 0.2):
        assert main(quantize(home, "b", "--quant", "i4", "--max-loss", percent, "--encode", "emb.E=i8", "--json")) == 0
        found = json.loads(capsys.readouterr().out)
        sizes.append(found["bytes"]["after"])
        assert "emb.E" not in {group["paths"] for group in found["groups"]} and found["encode"][-1] == "emb.E=i8"
        assert {t["path"]: t["stored"] for t in json.loads((home / "b" / "manifest.json").read_text())["tensors"]}[
            "emb.E"
        ] == "i8"
    assert sizes[0] < sizes[1]


def test_an_artefact_is_quantised_as_its_checkpoint_is(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_artifact(lower(load(home / "small.cdr")), "cpu", home / "whole", home / "run")
    for source, out in (("run", "one"), ("whole", "two")):
        assert main(quantize(home, out, "--max-loss", 3, source=source)) == 0
    assert "bits per byte" in capsys.readouterr().out
    assert (home / "one" / "weights.safetensors").read_bytes() == (home / "two" / "weights.safetensors").read_bytes()
    shown = said(capsys, *quantize(home, "three", source="one"))
    assert "I8 in the file, not F32, F16 or BF16" in shown


@pytest.mark.parametrize(
    ("change", "message", "remedy"),
    [
        (["--data", "nowhere"], "nowhere", ""),
        (["--tokens", "500"], "500 tokens of text: too few", "at least 1024"),
        (["--max-loss", "0", "--encode", "*=i4"], "no matrix left", "--encode holds them all"),
        (["--max-loss", "1e-7", "--encode", "layer.*.att.W*=i4"], "as f16, the widest there is", "a larger --max-loss"),
        (["--target", "tenstorrent"], "reads no i8 weights", "cpu"),
        (["--set", "layers=3"], "--set and --model are for a spec", "--spec"),
        (["--spec", "spec/tiny.cdr"], "does not fit tiny", "use the spec"),
    ],
)
def test_mistakes_are_told(
    change: list[str], message: str, remedy: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = said(capsys, *quantize(home, "wrong", *change))
    assert message in shown and remedy in shown
    assert not (home / "wrong").exists()


def test_weights_alone_do_not_say_their_spec(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "alone").mkdir()
    shutil.copy(home / "run" / "last" / "weights.safetensors", home / "alone")
    assert "says what spec it is of" in said(capsys, *quantize(home, "wrong", source="alone"))
    of = ["--spec", home / "small.cdr"]
    assert "no tokenizer" in said(capsys, *quantize(home, "wrong", *of, source="alone"))
    more = [*of, "--tokenizer", "bytes", "--max-loss", 5]
    assert main(quantize(home, "alone-i8", *more, source="alone/weights.safetensors")) == 0


def test_a_spec_that_has_changed_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = home / "small.cdr"
    text = spec.read_text()
    spec.write_text(text.replace("top_k=2", "top_k=1"))
    try:
        assert "it has changed since" in said(capsys, *quantize(home, "wrong"))
    finally:
        spec.write_text(text)
