"""Mistakes and accidents that once lost data, passed unseen or ended in a traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.session import Session, read_manifest
from cdrmix.runtime.torch.load import load_module
from safetensors.torch import load_file, save_file
from torch import nn

from cdrmix import verification
from cdrmix.artifact import write_artifact, write_manifest
from cdrmix.check import load
from cdrmix.checkpoints import check_weights
from cdrmix.compiler import backend, lower
from cdrmix.diagnose import UserError
from cdrmix.train.checkpoint import save_checkpoint
from cdrmix.train.config import TrainConfig, read_config
from cdrmix.train.corpus import from_directory, split
from cdrmix.train.loop import Trainer
from cdrmix.train.progress import Metrics, read_metrics
from cdrmix.train.sources import documents
from cdrmix.train.store import open_store
from cdrmix.train.tokenizer import byte_tokenizer
from cdrmix.verification import verify_artifact
from tests.good.test_train import config
from tests.small import TEXT, write_spec


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `torch` artefact with a tokenizer."""
    home = tmp_path_factory.mktemp("review")
    (home / "tokenizer.json").write_text(byte_tokenizer().to_str())
    write_artifact(lower(load(write_spec(home))), "torch", home / "made", tokenizer=home / "tokenizer.json")
    return home / "made"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "artefact"))


# --- artefacts and sessions ------------------------------------------------------------------------------------------
def test_a_state_that_is_not_a_number_fails_verify(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(self: Session) -> dict[str, np.ndarray]:
        return {path: x * np.nan if path.endswith(".S") else x for path, x in self._engine.read(self._state).items()}

    monkeypatch.setattr(verification.Session, "state", spoiled)
    assert not verify_artifact(folder, 4, 1e-4)["within"]
    assert read_manifest(folder)["verified"]["how"] == "failed"


@pytest.mark.parametrize("change", [{"target": ["cpu"]}, {"vocab": "x"}, {"spec": 3}, {"set": []}, {"hash": None}])
def test_a_damaged_manifest_is_refused(folder: Path, change: dict[str, object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(ArtifactError, match="is damaged: its"):
        Session.open(folder)


def test_a_manifest_without_its_spec_is_refused(folder: Path) -> None:
    manifest = read_manifest(folder)
    for spec in ({}, {"small.cdr": 1}):
        write_manifest(folder, manifest | {"spec": spec})
        with pytest.raises(UserError, match="is damaged"):
            verify_artifact(folder, 1, 1e-4)
    (folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match="is damaged"):
        read_manifest(folder)


@pytest.mark.parametrize("share", [0, 2])
def test_cut_weights_are_refused(folder: Path, share: int) -> None:
    weights = folder / "weights.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // share] if share else b"")
    with pytest.raises(ArtifactError, match="weights.safetensors is missing or was changed"):
        Session.open(folder)


def test_a_state_file_that_is_none_is_refused(made: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros(3))
    with Session.open(made) as session:
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


def test_a_closed_session_says_so(made: Path) -> None:
    session = Session.open(made)
    session.close()
    session.close()
    with pytest.raises(ArtifactError, match="is closed"):
        session.step(1)


def test_a_model_that_changes_within_a_second_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    found = []
    for size in (32, 64, 16):
        (tmp_path / "model.py").write_text(f"N = {size}\n")
        found.append(load_module(tmp_path).N)
    assert found == [32, 64, 16]
    assert [p.name for p in tmp_path.iterdir()] == ["model.py"]  # an artefact is what compile wrote


def test_a_missing_tokenizer_is_found_before_anything_is_written(folder: Path) -> None:
    before = {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    other = lower(load(write_spec(folder.parent), {"layers": "1"}))
    with pytest.raises(UserError, match="no tokenizer at"):
        write_artifact(other, "torch", folder, tokenizer=folder / "absent.json")
    assert {p: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def test_a_tokenizer_does_not_outlive_its_artefact(folder: Path) -> None:
    assert (folder / "tokenizer.json").exists()
    write_artifact(lower(load(write_spec(folder.parent))), "torch", folder)
    assert not (folder / "tokenizer.json").exists()


def test_the_folder_of_a_target_is_no_target() -> None:
    with pytest.raises(UserError, match="no target `c`"):
        backend("c")


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_weights_of_another_type_are_refused(made: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {name: x.to(dtype) for name, x in load_file(made / "weights.safetensors").items()}
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="not F32, F16 or BF16"):
        check_weights(load(write_spec(tmp_path)), tmp_path / "w.safetensors")


def test_a_library_is_never_seen_half_built(tmp_path: Path) -> None:
    write_artifact(lower(load(write_spec(tmp_path))), "cpu", tmp_path / "cpu")
    compiler = tmp_path / "cc"  # a compiler that writes the name of its output
    compiler.write_text('#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" = -o ] && echo "$2" > "$2"; shift; done\n')
    compiler.chmod(0o755)
    subprocess.run(["make", "-s", "-C", tmp_path / "cpu", "libmodel.so", f"CC={compiler}", "ARCH="], check=True)
    assert (tmp_path / "cpu" / "libmodel.so").read_text() != "libmodel.so\n"
    assert not list((tmp_path / "cpu").glob("libmodel.so.[0-9]*"))


# --- runs ------------------------------------------------------------------------------------------------------------
def test_a_checkpoint_is_kept_beside_later_ones_of_another_course(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(module.parameters())
    for step in (100, 200, 300):
        save_checkpoint(tmp_path, step, module, optimiser, "{}", {}, 3)
    (tmp_path / "last").unlink()
    (tmp_path / "last").symlink_to("checkpoints/step-00000100")  # by hand
    save_checkpoint(tmp_path, 150, module, optimiser, "{}", {}, 1)
    assert (tmp_path / "last" / "weights.safetensors").is_file()
    assert {p.name[-3:] for p in (tmp_path / "checkpoints").iterdir()} == {"150", "200", "300"}


def test_a_run_killed_in_its_first_save_can_begin_again(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints" / ".step-00000001.7.part").mkdir(parents=True)
    Trainer(config(tmp_path, "run", steps=1)).train()
    assert (tmp_path / "run" / "last" / "trainer.json").is_file()


def test_a_run_goes_on_only_with_its_data(tmp_path: Path) -> None:
    Trainer(config(tmp_path, "run", steps=1)).train()
    again = config(tmp_path, "run", steps=2)  # writes the text anew: another time, the same bytes
    assert Trainer(again, resume=True).step == 1
    (tmp_path / "text.txt").write_text(TEXT.replace("number", "figure"))
    with pytest.raises(UserError, match="the data or the tokenizer is not"):
        Trainer(again, resume=True)
    (tmp_path / "run" / "last" / "trainer.json").write_text("{}")
    with pytest.raises(UserError, match="no checkpoint of .* is whole"):
        Trainer(again, resume=True)


def test_metrics_survive_lines_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n5\n[1]\n{"loss": 2}\n{"step": 3}\n{"ste')
    Metrics(path, 1).close()
    assert read_metrics(path) == [{"step": 1}]


@pytest.mark.parametrize("text", ["spec: 2024-13-45", "a: " + "[" * 5000])
def test_yaml_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match="is not YAML"):
        read_config(TrainConfig, tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("{}")
    with pytest.raises(UserError, match="is not YAML"):
        read_config(TrainConfig, tmp_path / "c.yaml", [f"spec={text.partition(': ')[2]}"])


# --- data ------------------------------------------------------------------------------------------------------------
def test_a_split_never_writes_over_its_data(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i}"}) + "\n" for i in range(50)))
    before = path.read_bytes()
    with pytest.raises(UserError, match="is part of the data"):
        split([path], tmp_path, 0.3)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "says"), [('{"text": "a\\ud800"}', "surrogate"), ('{"text":' + "[" * 100_000, "not JSON")]
)
def test_json_that_is_no_text_names_its_line(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "\\ud83d\\ude00"}\n' + line + "\n")
    with pytest.raises(UserError, match=f"x.jsonl:2: .*{says}"):
        list(documents([tmp_path / "x.jsonl"]))


def test_collecting_says_all_it_left_out_and_not_what_it_wrote(tmp_path: Path) -> None:
    for name in "abz":
        (tmp_path / f"{name}.txt").write_text(name)
    (tmp_path / "c.jsonl").write_text("")
    (tmp_path / "d.jsonl").write_text('{"tokens": [1]}\n{"text": "d"}\n')
    done = from_directory(tmp_path, tmp_path / "m", shard_bytes=1)
    assert [d.content for d in documents([tmp_path / "m"])] == ["a", "b", "d", "z"]
    assert [(p.name, why) for p, why in done.skipped] == [
        ("c.jsonl", "empty"),
        ("d.jsonl", "line 1 holds tokens, not text"),
    ]


def test_a_store_is_made_again_for_another_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "ids.jsonl"
    path.write_text('{"tokens": [1, 299]}\n')
    open_store(tmp_path / "store", [path], "text", byte_tokenizer(), 300)
    with pytest.raises(UserError, match="token id 299 is outside"):
        open_store(tmp_path / "store", [path], "text", byte_tokenizer(), 256)
