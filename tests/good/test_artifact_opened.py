"""Whatever opens an artefact compares it with its manifest: nothing that was changed runs, and verify records it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime import library
from cdrmix.runtime.checksum import LANES, ROW, checksum
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.session import Session, read_manifest

from cdrmix import verification
from cdrmix.artifact import write_artifact, write_manifest
from cdrmix.check import load, load_text
from cdrmix.cli import main
from cdrmix.compiler import lower
from cdrmix.diagnose import UserError
from cdrmix.train.tokenizer import byte_tokenizer
from cdrmix.verification import verify_artifact
from tests.good.commands import said
from tests.small import write_spec

SPEC = """
use "lib/embed.cdr" { embed, head }
op adds(x: [D]) -> [D] {
  state S: [D] = 0
  S' = 0.5 * S + EQUATION
  return S'
}
model m {
  vocab = 256
  d_model = 32
  stack {
    emb: embed(vocab, d_model)
    mix: adds
    head(vocab)
  }
}
"""


TARGETS = ("cpu", "torch", "tenstorrent")


def compiled(folder: Path, target: str, equation: str = "x") -> Path:
    model = load_text(SPEC.replace("EQUATION", equation))
    write_artifact(lower(model), target, folder, None, "bytes", 0)
    return folder


@pytest.fixture(scope="module", params=TARGETS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("openings") / request.param, request.param)


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CDR_DEVICE", "emulated" if made.name == "tenstorrent" else "0")
    return Path(shutil.copytree(made, tmp_path / made.name))


def flip(path: Path) -> None:
    """Another bit in the middle; the time stays."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_every_file_is_compared_by_every_opening(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [*read_manifest(folder)["files"], "manifest.json"]
    assert {"weights.safetensors", "tokenizer.json"} < set(names)
    for name in names:
        good = (folder / name).read_bytes()
        flip(folder / name)
        with pytest.raises(ArtifactError):
            Session.open(folder)
        for command in (["verify", str(folder)], ["generate", str(folder), "--prompt", "a"]):
            assert main(command) == 1
            said = capsys.readouterr()
            assert name in said.err or "weights" in name and "opening the weights" in said.err
            assert "Traceback" not in said.err and said.out == ""
        if name != "manifest.json":
            assert read_manifest(folder)["verified"]["how"] == "failed", "what was recorded before is no longer so"
        (folder / name).write_bytes(good)
    assert verify_artifact(folder, 4)["within"]
    assert read_manifest(folder)["verified"]["how"] in ("executed", "emulated")


def test_a_missing_file_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "weights.safetensors").unlink()
    assert main(["verify", str(folder)]) == 1
    assert "weights.safetensors is missing" in capsys.readouterr().err
    assert read_manifest(folder)["verified"]["how"] == "failed"


def test_a_tokenizer_that_is_not_the_artefacts_is_not_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = read_manifest(folder)
    del manifest["files"]["tokenizer.json"]
    write_manifest(folder, manifest)
    assert main(["generate", str(folder), "--prompt", "a"]) == 1
    assert "has no tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a\0b", ""])
def test_a_manifest_names_files_of_its_folder_alone(folder: Path, name: str) -> None:
    manifest = read_manifest(folder)
    manifest["files"][name] = manifest["files"]["weights.safetensors"]
    write_manifest(folder, manifest)
    with pytest.raises(ArtifactError):
        Session.open(folder)


# --- one process, compiled again ------------------------------------------------------------------------------------
@pytest.mark.parametrize("target", TARGETS)
def test_what_was_compiled_again_runs_and_old_sessions_go_on(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDR_DEVICE", "emulated" if target == "tenstorrent" else "0")
    folder = compiled(tmp_path / target, target)
    with Session.open(folder) as old:
        first = old.step(3)
        fork = old.fork()
        compiled(folder, target, "5 * x")
        with Session.open(folder) as new:
            assert not np.allclose(new.step(3), first)
            np.testing.assert_array_equal(old.step(4), fork.step(4))
        assert verify_artifact(folder, 4)["within"]
        np.testing.assert_array_equal(old.step(5), fork.step(5))
    compiled(folder, target)
    with Session.open(folder) as again:
        np.testing.assert_array_equal(again.step(3), first)


# --- the C program --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = compiled(tmp_path_factory.mktemp("program") / "cpu", "cpu")
    subprocess.run(["make", "-s", "-C", made, "CFLAGS=-O1 -DCDR_PLAIN"], check=True)
    return made


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [folder / "cdrmix-run", "-m", folder, "-n", "2", "-t", "0", "a"]
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, errors="replace", check=False)


def test_the_program_compares_what_it_reads(cpu: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(cpu, tmp_path / "cpu"))
    good = run(folder)
    assert good.returncode == 0
    for name in ("weights.safetensors", "tokenizer.json"):
        whole = (folder / name).read_bytes()
        flip(folder / name)
        bad = run(folder)
        assert bad.returncode == 1 and name in bad.stderr and "changed" in bad.stderr and bad.stdout == ""
        (folder / name).write_bytes(whole)
    manifest = (folder / "manifest.json").read_bytes()
    for text in (b"{", b'{"format": "unfinished"}', b'{"format": 1}', b'{"format": 1, "files": 3}'):
        (folder / "manifest.json").write_bytes(text)
        bad = run(folder)
        assert bad.returncode == 1 and "manifest is malformed" in bad.stderr
    for other in (None, b'{"name": "of a web page"}'):  # the weights and the program alone, as on a small device
        (folder / "manifest.json").unlink(missing_ok=True)
        if other:
            (folder / "manifest.json").write_bytes(other)
        assert run(folder).stdout == good.stdout
    (folder / "manifest.json").write_bytes(manifest)
    assert run(folder).stdout == good.stdout


def test_a_damaged_library_is_never_run(cpu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that `make` left: with a compiler another is built, without one its sums decide."""
    folder = Path(shutil.copytree(cpu, tmp_path / "cpu"))
    with Session.open(folder) as session:
        wanted = session.step(3)

    def opened() -> np.ndarray:
        with Session.open(folder) as session:
            return session.step(3)

    whole, sums = (folder / "libmodel.so").read_bytes(), (folder / "libmodel.so.cksum").read_text()
    damaged = (b"", whole[: len(whole) // 2], whole[:4000] + b"\xff" * 4000 + whole[8000:])
    for content in damaged:
        (folder / "libmodel.so").write_bytes(content)
        np.testing.assert_array_equal(opened(), wanted)
    monkeypatch.setenv("PATH", "/nowhere")
    for content in damaged:
        (folder / "libmodel.so").write_bytes(content)
        with pytest.raises(ArtifactError, match="no `make` on this machine"):
            opened()
    (folder / "libmodel.so").write_bytes(whole)
    np.testing.assert_allclose(opened(), wanted, rtol=1e-5)
    (folder / "libmodel.so.cksum").write_text(sums.replace(sums.split()[0], "1"))
    with pytest.raises(ArtifactError, match="no `make` on this machine"):
        opened()


def test_a_folder_that_cannot_be_written_is_opened(cpu: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(cpu, tmp_path / "cpu"))
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    with Session.open(folder) as session:
        session.step(1)
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before, "an artefact is what compile wrote"


def test_the_cache_of_programs_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "KEPT", 2)
    source = tmp_path / "a.c"
    for n in range(4):
        source.write_text(f"int number(void) {{ return {n}; }}")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "a.so", source], check=True)
        assert library.shipped((tmp_path / "a.so").read_bytes()).number() == n
    assert len(list((tmp_path / "cdrmix" / "programs").glob("*.so"))) == 2


@pytest.mark.parametrize("data", [b"", b"a", b"x" * 255, b"y" * 256, bytes(range(256)) * 300])
def test_cksum_is_posixs(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(data)
    said = subprocess.run(["cksum", tmp_path / "f"], capture_output=True, text=True, check=True).stdout
    assert library.cksum(data) == int(said.split()[0])


def test_the_emulations_cache_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut short or put there by others is built anew; a folder of others', or a link to one, is not used."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("CDRMIX_EMULATION_CACHE", str(cache))
    folder = compiled(tmp_path / "tenstorrent", "tenstorrent")
    run = "from cdrmix.runtime.metalium.engine import open_emulated as o; from cdrmix.runtime.session import *\n"
    run += f"from pathlib import Path; f = Path({str(folder)!r}); e = o(f, read_manifest(f)); s = e.start()\n"
    run += "print(e.prefill(s, [1, 2]).tolist())"

    def ran() -> str:
        done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    wanted, kept = ran(), sorted(cache.glob("*.so"))
    assert kept
    kept[0].write_bytes(kept[0].read_bytes()[:5000])
    kept[1].write_bytes(b"")
    kept[2].chmod(0o777)
    kept[3].unlink()
    kept[3].symlink_to(kept[4])
    assert ran() == wanted and all(p.stat().st_mode & 0o777 == 0o700 and not p.is_symlink() for p in kept)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    (tmp_path / "link").symlink_to("shared")
    for name in ("shared", "link"):
        monkeypatch.setenv("CDRMIX_EMULATION_CACHE", str(tmp_path / name))
        assert ran() == wanted and not list((tmp_path / "shared").iterdir())


# --- the checksum ---------------------------------------------------------------------------------------------------
START, PRIME, MASK = 0xCBF29CE484222325, 0x100000001B3, 2**64 - 1


def written_out(data: bytes) -> str:
    lanes = [START] * LANES
    padded = data + bytes(-len(data) % ROW)
    for n in range(len(padded) // 8):
        word = int.from_bytes(padded[8 * n : 8 * n + 8], "little")
        lanes[n % LANES] = ((lanes[n % LANES] ^ word) * PRIME) & MASK
    found = START
    for value in (*lanes, len(data)):
        found = ((found ^ value) * PRIME) & MASK
    return f"{found:016x}"


@pytest.mark.parametrize("size", (0, 1, ROW - 1, ROW, ROW + 1, 3 * ROW + 17))
def test_it_is_its_definition(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert checksum([data]) == written_out(data)
    assert checksum([data[:5], b"", data[5:4000], data[4000:]]) == written_out(data)


def test_a_bit_and_a_zero_more_are_seen() -> None:
    data = bytearray(random.Random(0).randbytes(2 * ROW))
    before = checksum([bytes(data)])
    assert checksum([bytes(data) + b"\0"]) != before
    for place in (0, 7, ROW, 2 * ROW - 1):
        data[place] ^= 0x80
        assert checksum([bytes(data)]) != before
        data[place] ^= 0x80


# --- manifests and weights ------------------------------------------------------------------------------------------
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


def test_a_state_that_is_not_a_number_fails_verify(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(self: Session) -> dict[str, np.ndarray]:
        return {path: x * np.nan if path.endswith(".S") else x for path, x in self._engine.read(self._state).items()}

    monkeypatch.setattr(verification.Session, "state", spoiled)
    assert not verify_artifact(own, 4, 1e-4)["within"]
    assert read_manifest(own)["verified"]["how"] == "failed"


@pytest.mark.parametrize("change", [{"target": ["cpu"]}, {"vocab": "x"}, {"spec": 3}, {"set": []}, {"hash": None}])
def test_a_damaged_manifest_is_refused(own: Path, change: dict[str, object]) -> None:
    manifest = json.loads((own / "manifest.json").read_text())
    (own / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(ArtifactError, match="is damaged: its"):
        Session.open(own)


def test_a_manifest_without_its_spec_is_refused(own: Path) -> None:
    manifest = read_manifest(own)
    for spec in ({}, {"small.cdr": 1}):
        write_manifest(own, manifest | {"spec": spec})
        with pytest.raises(UserError, match="is damaged"):
            verify_artifact(own, 1, 1e-4)
    (own / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match="is damaged"):
        read_manifest(own)


@pytest.mark.parametrize("share", [0, 2])
def test_cut_weights_are_refused(own: Path, share: int) -> None:
    weights = own / "weights.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // share] if share else b"")
    with pytest.raises(ArtifactError, match="weights.safetensors is missing or was changed"):
        Session.open(own)


# --- verify ---------------------------------------------------------------------------------------------------------
def test_verify_of_an_artefact_that_cannot_be_written(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (home / "made" / "manifest.json").read_bytes()
    real = os.open

    def refuse(path: str | Path, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_CREAT and str(path).startswith(str(home / "made")):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        shown = said(capsys, "verify", home / "made", "--tokens", "2", code=0)
    assert "the result is not in the manifest" in shown and "Permission denied" in shown
    assert (home / "made" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("key", ["state", "tensors"])
def test_verify_refuses_a_manifest_that_says_less_than_its_spec(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    """A piece of the state that is not listed would not be compared."""
    folder = Path(shutil.copytree(home / "made", tmp_path / "made"))
    manifest = read_manifest(folder)
    manifest[key].pop()
    write_manifest(folder, manifest)
    assert f"`{key}` is not its spec's" in said(capsys, "verify", folder)


def test_verify_says_what_is_wrong(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "above the tolerance of 1e-30" in said(
        capsys, "verify", home / "made", "--tokens", "2", "--tolerance", "1e-30", code=3
    )
