"""Artefacts and sessions: whole, reproducible, equal across targets, and state that is a handle."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cdrmix.runtime import saved
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.generation import Writer
from cdrmix.runtime.sampling import Sampling
from cdrmix.runtime.saved import Saved
from cdrmix.runtime.session import Session, read_manifest
from cdrmix.runtime.tokens import Tokenizer
from cdrmix.runtime.torch.load import load_module

from cdrmix import artifact
from cdrmix.artifact import write_artifact, write_manifest
from cdrmix.check import load
from cdrmix.cli import main
from cdrmix.compiler import lower
from cdrmix.diagnose import UserError
from cdrmix.ir.initial import random_weights
from cdrmix.train.tokenizer import byte_tokenizer
from cdrmix.verification import verify_artifact
from cdrmix.weights import write_weights
from tests.small import SPEC, write_spec

TARGETS = ("cpu", "torch")


PROMPT = list(b"the number 12")


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small spec with random weights, for every target."""
    home = tmp_path_factory.mktemp("artefacts")
    model = load(write_spec(home))
    weights = random_weights(model, 1)
    write_weights(home / "w.safetensors", {n: x.shape for n, x in weights.items()}, weights.__getitem__)
    (home / "tokenizer.json").write_text(byte_tokenizer().to_str())
    lowered = lower(model)
    for target in TARGETS:
        write_artifact(lowered, target, home / target, home / "w.safetensors")
    return {target: home / target for target in TARGETS}


@pytest.mark.parametrize("target", TARGETS)
def test_verify_runs_it_and_says_so(artefacts: dict[str, Path], target: str) -> None:
    found = verify_artifact(artefacts[target], 40, 1e-5)
    assert found["within"], found["errors"]
    manifest = json.loads((artefacts[target] / "manifest.json").read_text())
    assert manifest["verified"]["how"] == "executed" and manifest["verified"]["tokens"] == 40
    assert (artefacts[target] / "tokenizer.json").is_file()


@pytest.mark.parametrize("target", TARGETS)
def test_sessions(artefacts: dict[str, Path], tmp_path: Path, target: str) -> None:
    with Session.open(artefacts[target]) as session:
        session.prefill(PROMPT)
        fork = session.fork()
        session.save(tmp_path / "state")
        after = session.step(65)
        assert session.tokens == len(PROMPT) + 1 and fork.tokens == len(PROMPT)
        np.testing.assert_array_equal(fork.step(65), after)
        session.load(tmp_path / "state")
        assert session.tokens == len(PROMPT)
        np.testing.assert_array_equal(session.step(65), after)
        session.reset()
        for token in PROMPT:
            session.step(token)
        np.testing.assert_allclose(session.step(65), after, rtol=1e-4, atol=1e-4)
        for bad in ([256], [-1]):
            with pytest.raises(ArtifactError):
                session.prefill(bad)


@pytest.mark.parametrize("target", TARGETS)
def test_a_damaged_or_foreign_state_is_refused(artefacts: dict[str, Path], tmp_path: Path, target: str) -> None:
    other = load(write_spec(tmp_path, SPEC.replace("layers = 2", "layers = 3")))
    write_artifact(lower(other), target, tmp_path / "other")
    with Session.open(artefacts[target]) as session, Session.open(tmp_path / "other") as foreign:
        session.prefill(PROMPT)
        session.save(tmp_path / "state")
        before = session.state()
        whole = (tmp_path / "state").read_bytes()
        for damage in (whole[: len(whole) // 2], b"", b"nonsense", whole[:200] + b"\x55" * 8 + whole[208:]):
            (tmp_path / "bad").write_bytes(damage)
            with pytest.raises(ArtifactError):
                session.load(tmp_path / "bad")
        with pytest.raises(ArtifactError):
            session.load(tmp_path / "absent")
        with pytest.raises(ArtifactError):
            foreign.load(tmp_path / "state")
        assert all((before[n] == x).all() for n, x in session.state().items())


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    lowered = lower(load(write_spec(tmp_path)))
    for target in TARGETS:
        for name in ("one", "two"):
            write_artifact(lowered, target, tmp_path / name)
        files = [
            {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()} for name in ("one", "two")
        ]
        assert files[0] == files[1]


def test_what_is_not_an_artefact_is_refused(artefacts: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not an artefact"):
        Session.open(tmp_path)
    for text, says in (("{", "damaged"), ("{}", "format")):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ArtifactError, match=says):
            Session.open(tmp_path)
    write_manifest(tmp_path, read_manifest(artefacts["cpu"]) | {"engine": "cdrmix.runtime.x"})
    with pytest.raises(ArtifactError, match="no runtime"):
        Session.open(tmp_path)


def test_a_large_models_program_comes_without_an_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "emit", lambda *_: {})  # what is compiled does not matter here
    monkeypatch.setattr(artifact, "LARGE", 1000)
    lowered, out = lower(load(write_spec(tmp_path))), tmp_path / "out"
    write_artifact(lowered, "cuda", out, seed=0)
    assert (out / "weights.safetensors").is_file()
    write_artifact(lowered, "cuda", out)
    assert not (out / "weights.safetensors").exists()
    assert json.loads((out / "manifest.json").read_text())["weights"] == "none"
    with pytest.raises(ArtifactError, match="holds no weights"):
        Session.open(out)


def test_nothing_is_removed_from_a_folder_that_is_refused(tmp_path: Path) -> None:
    for name in (".video.1.part", "other"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).touch()
    with pytest.raises(UserError, match="holds other files"):
        write_artifact(lower(load(write_spec(tmp_path))), "torch", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".video.1.part", "other"}


def test_a_text_goes_on_after_tokens_that_the_tokenizer_lacks(tmp_path: Path) -> None:
    model = load(write_spec(tmp_path, SPEC.replace("vocab = 256", "vocab = 300")))
    write_artifact(lower(model), "torch", tmp_path / "out", tokenizer="bytes")
    with Session.open(tmp_path / "out") as session:
        session.prefill([65, 299, 0xC3])
        writer = Writer(session, Tokenizer.from_file(tmp_path / "out" / "tokenizer.json"), Sampling(0))
        assert writer.decoder().push(b"\xa9") == "\xe9"


def test_a_states_tokens_are_counted_beyond_what_float32_counts(artefacts: dict[str, Path], tmp_path: Path) -> None:
    many = 2**24 + 1
    with Session.open(artefacts["torch"]) as session:
        engine: Any = session._engine
        found = Saved(session.state(), many, None, [1] * 64)
        saved.write(tmp_path / "state", engine._kind, found)
        session.load(tmp_path / "state")
        assert session.tokens == many


@pytest.mark.parametrize("manifest", ['{"format": "dataset", "files": {"data.csv": {}}}', '["format"]', '"format"'])
def test_the_files_of_anothers_manifest_are_not_removed(tmp_path: Path, manifest: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text(manifest)
    (out / "data.csv").write_text("1,2")
    with pytest.raises(UserError, match="holds other files"):
        write_artifact(lower(load(write_spec(tmp_path))), "torch", out)
    assert (out / "manifest.json").read_text() == manifest and (out / "data.csv").read_text() == "1,2"


# --- a module beside its tokenizer ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `torch` artefact with a tokenizer."""
    home = tmp_path_factory.mktemp("review")
    (home / "tokenizer.json").write_text(byte_tokenizer().to_str())
    write_artifact(lower(load(write_spec(home))), "torch", home / "made", tokenizer=home / "tokenizer.json")
    return home / "made"


@pytest.fixture
def own(plain: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(plain, tmp_path / "artefact"))


def test_a_missing_tokenizer_is_found_before_anything_is_written(own: Path) -> None:
    before = {p: p.read_bytes() for p in own.iterdir() if p.is_file()}
    other = lower(load(write_spec(own.parent), {"layers": "1"}))
    with pytest.raises(UserError, match="no tokenizer at"):
        write_artifact(other, "torch", own, tokenizer=own / "absent.json")
    assert {p: p.read_bytes() for p in own.iterdir() if p.is_file()} == before


def test_a_tokenizer_does_not_outlive_its_artefact(own: Path) -> None:
    assert (own / "tokenizer.json").exists()
    write_artifact(lower(load(write_spec(own.parent))), "torch", own)
    assert not (own / "tokenizer.json").exists()


def test_a_model_that_changes_within_a_second_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    found = []
    for size in (32, 64, 16):
        (tmp_path / "model.py").write_text(f"N = {size}\n")
        found.append(load_module(tmp_path).N)
    assert found == [32, 64, 16]
    assert [p.name for p in tmp_path.iterdir()] == ["model.py"]  # an artefact is what compile wrote


def test_a_library_is_never_seen_half_built(tmp_path: Path) -> None:
    write_artifact(lower(load(write_spec(tmp_path))), "cpu", tmp_path / "cpu")
    compiler = tmp_path / "cc"  # a compiler that writes the name of its output
    compiler.write_text('#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" = -o ] && echo "$2" > "$2"; shift; done\n')
    compiler.chmod(0o755)
    subprocess.run(["make", "-s", "-C", tmp_path / "cpu", "libmodel.so", f"CC={compiler}", "ARCH="], check=True)
    assert (tmp_path / "cpu" / "libmodel.so").read_text() != "libmodel.so\n"
    assert not list((tmp_path / "cpu").glob("libmodel.so.[0-9]*"))


# --- state ----------------------------------------------------------------------------------------------------------
def test_a_state_file_that_is_none_is_refused(plain: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros(3))
    with Session.open(plain) as session:
        with pytest.raises(ArtifactError, match="is not a saved state"):
            session.load(tmp_path / "array.npy")
        session.save(tmp_path / "state")
        spoiled = bytearray((tmp_path / "state").read_bytes())
        spoiled[100] ^= 1
        (tmp_path / "spoiled").write_bytes(spoiled)
        with pytest.raises(ArtifactError, match="is damaged"):
            session.load(tmp_path / "spoiled")
        with pytest.raises(ArtifactError, match="cannot be written"):
            session.save(tmp_path / "absent" / "state")


def test_a_closed_session_says_so(plain: Path) -> None:
    session = Session.open(plain)
    session.close()
    session.close()
    with pytest.raises(ArtifactError, match="is closed"):
        session.step(1)


def test_a_saved_state_holds_the_last_token(home: Path, tmp_path: Path) -> None:
    """What is read after it follows the whole text."""
    base = ["generate", str(home / "made"), "--temperature", "0", "-n", "4"]
    assert main([*base, "--prompt", "ab", "--save-state", str(tmp_path / "s")]) == 0
    with Session.open(home / "made") as session, session.fork() as saved:
        saved.load(tmp_path / "s")
        logits = session.prefill(list(b"ab"))
        for _ in range(4):
            logits = session.step(int(logits.argmax()))
        assert saved.tokens == session.tokens == 6
        for name, value in session.state().items():
            np.testing.assert_array_equal(saved.state()[name], value)


def test_a_state_is_read_whatever_shape_the_manifest_says(home: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(home / "made", tmp_path / "made"))
    manifest = read_manifest(folder)
    whole, shape = manifest["state"], manifest["state"][0]["shape"]
    for wrong in ([1], [10**12], ["x"], 5):
        write_manifest(folder, {**manifest, "state": [{**whole[0], "shape": wrong}]})
        with Session.open(folder) as session:
            session.step(65)
            if wrong == [1]:
                assert session.state()[whole[0]["path"]].shape == (1,) != tuple(shape)
            else:
                with pytest.raises(ArtifactError, match="`state` is damaged"):
                    session.state()
