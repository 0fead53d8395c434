"""`compile` leaves an artefact that is whole, or one that says that it is not; and no weights that nothing can run."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime.encodings import ENCODINGS
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.files import check_files
from cdrmix.runtime.session import read_manifest

from cdrmix.artifact import write_artifact
from cdrmix.check import load_text
from cdrmix.compiler import Lowered, lower
from cdrmix.diagnose import UserError
from cdrmix.ir.initial import initial_weights
from cdrmix.packing import pack
from cdrmix.passes.encodings import encode
from cdrmix.passes.precision import decide_precision
from cdrmix.weights import write_weights

SPEC = """
use "lib/embed.cdr" { embed, head }
model m {
  vocab = 16
  d_model = 8
  stack {
    emb: embed(vocab, d_model)
    head(vocab)
  }
}
"""


def everything(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}


def whole(folder: Path) -> str:
    """The target of an artefact that is as its manifest says, or `unfinished`."""
    try:
        manifest = read_manifest(folder)
    except ArtifactError as e:
        assert "not of format" in e.message or "not an artefact" in e.message
        return "unfinished"
    check_files(folder, manifest)
    return str(manifest["target"])


def killed_at(step: int, folder: Path, target: str, program: Lowered) -> bool:
    """Compile in a process that ends at a change of the folder; whether it came so far."""
    child = os.fork()
    if child == 0:
        count = 0

        def after(name: str) -> None:
            real = getattr(Path, name)

            def counted(self: Path, *rest: object, **more: object) -> object:
                nonlocal count
                count += 1
                if count > step:
                    os._exit(9)
                return real(self, *rest, **more)

            setattr(Path, name, counted)

        for name in ("replace", "unlink", "mkdir", "rmdir", "iterdir"):
            after(name)
        try:
            write_artifact(program, target, folder, None, "bytes" if target == "cpu" else None)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdrmix.artifact._tokenizer", lambda model, given: b"{}")


@pytest.fixture
def written_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of few files, also in a folder; and the disk is not waited for, which a kill does not ask for."""
    made = {
        "cpu": {"model.c": b"/* C */", "Makefile": b"all:", "main.c": b"/* C */"},
        "torch": {"model.py": b"# torch", "cdrmix_scans/__init__.py": b"", "cdrmix_scans/delta.py": b"# torch"},
    }
    monkeypatch.setattr("cdrmix.artifact.emit", lambda lowered, target, options: dict[str, bytes](made[target]))
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.mark.usefixtures("written_only")
def test_a_kill_leaves_the_old_artefact_or_one_that_says_so(tmp_path: Path) -> None:
    folder, found, program = tmp_path / "a", [], lower(load_text(SPEC))
    for step in range(1000):
        write_artifact(program, "cpu", folder, None, "bytes")
        (folder / "libmodel.so").write_bytes(b"built by make")
        (folder / "notes.txt").write_text("the user's own")
        died = killed_at(step, folder, "torch", program)
        found.append(whole(folder))
        write_artifact(program, "torch", folder)
        assert everything(folder) == {*read_manifest(folder)["files"], "manifest.json", "notes.txt"}
        assert whole(folder) == "torch"
        if not died:
            break
    assert found[0] == "cpu" and found[-1] == "torch" and "unfinished" in found
    assert found == sorted(found, key=["cpu", "unfinished", "torch"].index)


@pytest.mark.usefixtures("written_only")
def test_a_kill_in_a_new_folder_leaves_room_for_the_next(tmp_path: Path) -> None:
    program = lower(load_text(SPEC))
    for step in range(6):
        folder = tmp_path / str(step)
        killed_at(step, folder, "cpu", program)
        write_artifact(program, "cpu", folder)
        assert everything(folder) == {*read_manifest(folder)["files"], "manifest.json"}


def test_what_is_refused_leaves_the_artefact_that_is_there(tmp_path: Path) -> None:
    program, weights = lower(load_text(SPEC)), initial_weights(load_text(SPEC))
    write_artifact(program, "cpu", tmp_path / "a")
    before = read_manifest(tmp_path / "a")
    for value in (np.nan, np.inf, -np.inf):
        name = next(n for n in weights if weights[n].ndim == 2)
        bad = {n: x.copy() for n, x in weights.items()}
        bad[name][1, 2] = value
        write_weights(tmp_path / "w.safetensors", {n: x.shape for n, x in bad.items()}, bad.__getitem__)
        for target in ("cpu", "torch", "tenstorrent"):
            with pytest.raises(UserError, match=rf"{name}: 1 of \d+ values are NaN or infinite, the first at \[1, 2\]"):
                write_artifact(program, target, tmp_path / "a", tmp_path / "w.safetensors")
            with pytest.raises(UserError, match="NaN or infinite"):
                write_artifact(program, target, tmp_path / "new", tmp_path / "w.safetensors")
    assert read_manifest(tmp_path / "a") == before and whole(tmp_path / "a") == "cpu"
    assert not (tmp_path / "new").exists()


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    folder, program = tmp_path / "a", lower(load_text(SPEC))
    write_artifact(program, "cpu", folder)
    (tmp_path / "checkpoint").write_bytes(b"precious")
    (folder / "weights.safetensors").unlink()
    (folder / "weights.safetensors").symlink_to(tmp_path / "checkpoint")
    write_artifact(program, "cpu", folder)
    assert (tmp_path / "checkpoint").read_bytes() == b"precious" and not (folder / "weights.safetensors").is_symlink()
    (folder / "model.c").unlink()
    os.mkfifo(folder / "model.c")
    with pytest.raises(UserError, match="in the way"):
        write_artifact(program, "cpu", folder)
    assert not (folder / "model.c").is_file()


@pytest.mark.parametrize("quant", ["f16", "bf16", "i8"])
def test_what_a_type_cannot_hold_is_told(quant: str, tmp_path: Path) -> None:
    model = decide_precision(encode(load_text(SPEC), quant))
    weights = {n: x.astype(np.float32) for n, x in initial_weights(model).items()}
    name = next(n for n in weights if weights[n].ndim == 2)
    weights[name] = np.ones_like(weights[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pack(tmp_path / "w", model, weights.__getitem__)
    weights[name][0, :2] = 3.4e38
    weights[name][1] = 1e-45
    says = {"i8": "1 rows of values too small for a scale became 0"}.get(
        quant, rf"2 of {weights[name].size} values are beyond"
    )
    with pytest.warns(UserWarning, match=rf"{name} as {quant}: {says}") as told:
        pack(tmp_path / "w", model, weights.__getitem__)
    assert len(told) == 1


@pytest.mark.parametrize("quant", ["f16", "bf16"])
def test_the_largest_value_is_kept_and_more_is_clipped_to_it(quant: str) -> None:
    held = ENCODINGS[quant]
    most = np.float32(held.largest)
    x = np.array([most, -most, np.nextafter(most, np.float32(np.inf)), 3.4e38, -3.4e38, 1e-30], np.float32)
    kept = held.widen(held.narrow(x), x.shape)
    assert np.isfinite(kept).all()
    np.testing.assert_array_equal(kept[:5], [most, -most, most, most, -most])
    assert "3 of 6 values" in held.loss(x) and held.loss(x[:2]) == ""
    assert quant == "bf16" or "became 0" in held.loss(np.full(4, 1e-9))
