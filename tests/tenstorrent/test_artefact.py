"""The artefact's folder: what is in it, that it is the same each time, and what its weights stand for."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cdrmix.codegen.metalium.tiles import in_bf16, in_planes
from cdrmix.runtime.session import read_manifest
from safetensors import safe_open

from cdrmix.check import load
from cdrmix.cli import main
from cdrmix.compiler import backend, options_of
from cdrmix.diagnose import UserError
from cdrmix.doctor import examine
from cdrmix.ir.initial import random_weights
from cdrmix.ir.nodes import Model
from cdrmix.packing import read_values
from cdrmix.passes.encodings import encode
from cdrmix.passes.precision import decide_precision
from cdrmix.verification import spec_of
from tests.small import write_spec

from .agree import compile_to, needs_compiler


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(write_spec(tmp_path_factory.mktemp("spec")))


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_to(tmp_path_factory.mktemp("out") / "a", model, "f32", 2)


def values_of(folder: Path, model: Model) -> dict[str, np.ndarray]:
    manifest = read_manifest(folder)
    decided = decide_precision(encode(model, manifest["stored"]))
    return read_values(decided, folder / "weights.safetensors", backend("tenstorrent").arrange(manifest, decided))


def test_the_folder_is_whole(folder: Path) -> None:
    """Every kernel and header that is named is there, and the manifest lists every file."""
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    manifest = read_manifest(folder)
    assert names == {*manifest["files"], "manifest.json"}
    assert {"host.py", "states.py", "weights.py", "weights.safetensors"} <= names
    launch = manifest["metalium"]
    for program in launch["programs"].values():
        assert set(program["kernels"].values()) <= names
    for name in names:
        if name.startswith("kernels/"):
            for header in re.findall(r'#include "([^"]+)"', (folder / name).read_text()):
                assert header.startswith("api/") or f"kernels/{header}" in names, (name, header)
    modules = [
        line for name in ("host.py", "states.py", "weights.py") for line in (folder / name).read_text().split("\n")
    ]
    assert not [line for line in modules if re.match(r"(from|import) (\.|cdrmix)", line)]


def test_what_is_launched_is_described(folder: Path) -> None:
    launch = read_manifest(folder)["metalium"]
    for call in launch["calls"]:
        program = launch["programs"][call["program"]]
        assert set(program["reader_tensors"]) | set(program["writer_tensors"]) <= set(call["tensors"])
        assert set(call["tensors"].values()) <= set(launch["tensors"])
        for array in call["state"]["arrays"]:
            assert array["offset"] % 64 == 0 and array["offset"] < call["state"]["bytes"]
    assert launch["calls"][-1]["tensors"]["x_out"] == "logits"


def test_the_same_inputs_give_the_same_bytes(folder: Path, model: Model, tmp_path: Path) -> None:
    again = compile_to(tmp_path / "again", model, "f32", 2)
    for name in [*read_manifest(folder)["files"], "manifest.json"]:
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name


def test_weights_come_back_as_the_program_computes_with_them(folder: Path, model: Model, tmp_path: Path) -> None:
    given = random_weights(model)
    tensors = read_manifest(folder)["metalium"]["tensors"]
    tiled = {of["weight"] for of in tensors.values() if of["kind"] == "tiles"}
    found = values_of(folder, model)
    assert set(found) == set(given)
    assert "layer.0.att.Wr" in tiled and "layer.1.ffn.F.Wk" in tiled and "layer.0.att.w0" not in tiled
    for path, value in found.items():
        x = np.asarray(given[path], np.float32)
        wanted = np.sum(in_planes(x, 2), axis=0) if path in tiled else x
        assert np.array_equal(value, wanted), path
    narrow = compile_to(tmp_path / "narrow", model, "bf16", 1)
    found, tensors = values_of(narrow, model), read_manifest(narrow)["metalium"]["tensors"]
    assert np.array_equal(found["layer.0.att.Wr"], in_bf16(np.asarray(given["layer.0.att.Wr"], np.float32)))
    with safe_open(str(narrow / "weights.safetensors"), framework="pt") as f:
        assert str(f.get_tensor("layer.0.att.Wr").dtype) == "torch.bfloat16"
        assert list(f.get_tensor("layer.0.att.Wr").shape) == [tensors["layer.0.att.Wr"]["pages"], 32, 32]


def test_a_damaged_launch_description_is_said_to_be_one(folder: Path, model: Model) -> None:
    manifest = read_manifest(folder)
    decided = spec_of(manifest)
    for broken in ({}, {"tensors": {"a": {"kind": "tiles"}}}):
        with pytest.raises(UserError, match="manifest's `metalium` is damaged"):
            backend("tenstorrent").arrange({**manifest, "metalium": broken}, decided)


@pytest.mark.parametrize(
    ("given", "stored", "said"),
    [
        ({"device": "n300"}, "f32", "no Tenstorrent device `n300`"),
        ({"cores": 65}, "f32", "--cores 65: n150 has 64"),
        ({"arch": ("sm_90",)}, "f32", "--arch means nothing to target tenstorrent"),
        ({}, "i8", "target tenstorrent reads no i8 weights"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(given: dict[str, Any], stored: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        options_of("tenstorrent", given, stored)


def test_doctor_asks_for_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    (found,) = examine(["tenstorrent"])
    assert [need.command for need in found.missing] == ["unset CXX, or apt-get install g++"]


@needs_compiler
def test_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ttnn", None)
    spec = write_spec(tmp_path)
    out = tmp_path / "a"
    command = ["compile", str(spec), "--target", "tenstorrent", "--quant", "bf16", "--cores", "2", "--set", "layers=1"]
    assert main([*command, "--tokenizer", "bytes", "-o", str(out)]) == 0
    capsys.readouterr()
    assert main(["verify", str(out), "--tokens", "3", "--json"]) == 0
    said = capsys.readouterr()
    assert "ttnn cannot be imported" in said.err
    found = json.loads(said.out)
    assert found["how"] == "emulated" and found["tolerance"] == 2e-2
    assert json.loads((out / "manifest.json").read_text())["verified"]["how"] == "emulated"
    assert main(["generate", str(out), "--prompt", "a"]) == 1
    assert "CDR_DEVICE=emulated" in capsys.readouterr().err
