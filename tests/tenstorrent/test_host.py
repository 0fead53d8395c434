"""A line's state between L1, arrays and files; the mapped weights; and the engine, over an artefact made by hand."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cdrmix.codegen.metalium.tiles import tilise
from cdrmix.runtime import saved
from cdrmix.runtime.encodings import Entry
from cdrmix.runtime.errors import ArtifactError, NoDevice
from cdrmix.runtime.metalium import engine as engines
from cdrmix.runtime.metalium.states import begin, from_words, to_words
from cdrmix.runtime.metalium.weights import DamagedWeights, Weights
from cdrmix.runtime.session import Session

from cdrmix.artifact import write_manifest
from cdrmix.weights import write_tensors

from . import handmade


def array(slot: str, offset: int, shape: list[int], **more: Any) -> dict[str, Any]:
    plain = {"layout": "flat", "split": None, "dtype": "f32", "ring": 0}
    return {"slot": slot, "offset": offset, "shape": shape, **plain, **more}


# --- states ----------------------------------------------------------------------------------------------------------
def test_a_split_array_is_dealt_out_and_joined() -> None:
    state = {"bytes": 192, "arrays": [array("a", 64, [5, 3], split=[5, 2])]}
    x = np.arange(15.0).reshape(5, 3)
    words = to_words(state, 4, {"a": x}, 0)
    assert words.shape == (4, 48)
    assert words[0, 16:22].tolist() == [0, 1, 2, 3, 4, 5]
    assert words[2, 16:22].tolist() == [12, 13, 14, 0, 0, 0]
    assert not words[3].any()
    assert np.array_equal(from_words(state, words, 0)["a"], x)


def test_what_is_not_split_lies_on_every_core() -> None:
    state = {"bytes": 64, "arrays": [array("a", 0, [3])]}
    words = to_words(state, 2, {"a": np.array([1, 2, 3])}, 0)
    assert words[:, :4].tolist() == [[1, 2, 3, 0]] * 2


def test_a_units_front_may_be_several_axes() -> None:
    state = {"bytes": 128, "arrays": [array("a", 0, [2, 3, 4], split=[6, 5])]}
    x = np.arange(24.0).reshape(2, 3, 4)
    words = to_words(state, 2, {"a": x}, 0)
    assert words[1, :4].tolist() == [20, 21, 22, 23]
    assert np.array_equal(from_words(state, words, 0)["a"], x)


def test_matrices_lie_in_tiles_of_four_faces() -> None:
    state = {"bytes": 4096 * 4, "arrays": [array("S", 0, [3, 40, 20], layout="tiles", split=[3, 2])]}
    x = np.random.default_rng(0).standard_normal((3, 40, 20)).astype(np.float32)
    words = to_words(state, 2, {"S": x}, 0)
    tile = words[0, :1024].reshape(4, 16, 16)  # rows 0 to 31 of the first matrix
    assert np.array_equal(tile[0], x[0, :16, :16])
    assert np.array_equal(tile[1, :, :4], x[0, :16, 16:])
    assert not tile[1, :, 4:].any()
    assert np.array_equal(tile[2], x[0, 16:32, :16])
    assert np.array_equal(words[1, 1024:1040], x[2, 32, :16])
    assert np.array_equal(from_words(state, words, 0)["S"], x)


def test_whole_numbers_keep_their_bits() -> None:
    state = {"bytes": 64, "arrays": [array("n", 0, [2], dtype="i32")]}
    words = to_words(state, 1, {"n": np.array([7, -3])}, 0)
    assert words.view(np.int32)[0, :2].tolist() == [7, -3]
    assert from_words(state, words, 0)["n"].tolist() == [7, -3]


@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 4, 9])
def test_a_ring_is_read_newest_first(tokens: int) -> None:
    state = {"bytes": 64, "arrays": [array("K", 0, [4, 2], ring=4)]}
    words = np.zeros((1, 16), np.float32)
    for n in range(tokens):
        words[0, n % 4 * 2 :][:2] = n + 1, -n - 1
    found = from_words(state, words, tokens)["K"]
    wanted = np.zeros((3, 2))
    for age in range(min(tokens, 3)):
        wanted[age] = tokens - age, age - tokens
    assert np.array_equal(found, wanted)
    again = from_words(state, to_words(state, 1, {"K": found}, tokens), tokens)["K"]
    assert np.array_equal(again, wanted)


def test_a_state_begins_with_a_number_or_a_tensor() -> None:
    state = {"bytes": 128, "arrays": [array("a", 0, [2]), array("b", 64, [2])]}
    slots = [{"path": "a", "shape": [2], "start": -1.5}, {"path": "b", "shape": [2], "start": "b.start"}]
    words = begin(state, 1, slots, {"b.start": np.array([3.0, 4.0], np.float32)})
    assert words[0, :2].tolist() == [-1.5, -1.5]
    assert words[0, 16:18].tolist() == [3, 4]


# --- files -----------------------------------------------------------------------------------------------------------
SLOTS = [
    {"path": "S", "kind": "state", "shape": [2, 3], "banks": []},
    {"path": "K", "kind": "history", "shape": [2, 4], "banks": []},
]
VALUES = {"S": np.arange(6.0).reshape(2, 3), "K": np.ones((2, 4)), "K.count": np.array(2)}
STATE = saved.Saved(VALUES, 9, np.array([0.5, -2.0, 3.0]), [1, 2, 0, 1, 2, 0, 1, 2, 2])
KIND = saved.Kind("0f" * 32, 77, SLOTS, 3)


def test_a_state_file_is_as_the_c_runtime_lays_it_out(tmp_path: Path) -> None:
    saved.write(tmp_path / "s", KIND, STATE)
    data = (tmp_path / "s").read_bytes()
    payload = np.arange(6, dtype="<f4").tobytes() + struct.pack("<I", 2) + np.ones(8, "<f4").tobytes()
    payload += struct.pack("<I3f64I", 1, 0.5, -2.0, 3.0, *STATE.latest, *[0] * 55)
    header = struct.pack("<8sQ32sQQQ", b"CDRSTATE", 2, b"\x0f" * 32, 77, 9, len(payload))
    assert data[:-8] == header + payload
    assert saved.fnv(b"a") == 0xAF63DC4C8601EC8C  # the published value
    assert struct.unpack("<Q", data[-8:])[0] == saved.fnv(data[:-8])
    found = saved.read(tmp_path / "s", KIND)
    assert found.tokens == 9 and found.latest == STATE.latest
    assert found.logits is not None and found.logits.tolist() == [0.5, -2, 3]
    assert all(np.array_equal(found.values[name], VALUES[name]) for name in VALUES)
    saved.write(tmp_path / "s", KIND, saved.Saved(VALUES, 200, None, list(range(3)) * 21 + [2]))
    found = saved.read(tmp_path / "s", KIND)
    assert found.logits is None and found.latest == list(range(3)) * 21 + [2]


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("not a saved state", lambda d: b"X" + d[1:]),
        ("cut short", lambda d: d[:40]),
        ("cut short", lambda d: d[:-1]),
        ("something behind it", lambda d: d + b"x"),
        ("another version", lambda d: d[:8] + b"\1" + d[9:]),
        ("another model", lambda d: d[:20] + b"\0" + d[21:]),
        ("other weights", lambda d: d[:48] + b"\0" + d[49:]),
        ("damaged", lambda d: d[:90] + b"\7" + d[91:]),
        ("damaged", lambda d: d[:56] + struct.pack("<Q", 1) + d[64:-8]),
        ("damaged", lambda d: d[:-12] + struct.pack("<I", 3)),
        ("damaged", lambda d: d[:-280] + struct.pack("<I", 2) + d[-276:-8]),
    ],
)
def test_a_file_that_is_not_this_models_is_refused(tmp_path: Path, what: str, change: Any) -> None:
    saved.write(tmp_path / "s", KIND, STATE)
    data = change((tmp_path / "s").read_bytes())
    if len(data) == 72 + KIND.size():  # count and tokens disagree under a right checksum
        data += struct.pack("<Q", saved.fnv(data))
    (tmp_path / "s").write_bytes(data)
    with pytest.raises(ArtifactError, match=what):
        saved.read(tmp_path / "s", KIND)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be written"):
        saved.write(tmp_path / "none" / "s", KIND, STATE)


# --- weights ---------------------------------------------------------------------------------------------------------
def test_weights_are_mapped_and_bf16_is_widened(tmp_path: Path) -> None:
    held = {"a": np.array([[1.5, -2]], np.float32), "b": np.array([0x3FC0, 0xC000], np.uint16), "c": np.float32(3)}
    entries = {"a": Entry((1, 2)), "b": Entry((2,), "BF16"), "c": Entry(())}
    write_tensors(tmp_path / "w", entries, held.__getitem__)
    found = Weights(tmp_path / "w")
    assert "a" in found and "d" not in found
    assert found["a"].tolist() == [[1.5, -2]]
    assert found["b"].tolist() == [1.5, -2]
    assert found["c"].shape == () and found["c"] == 3
    with pytest.raises(DamagedWeights, match="no tensor d"):
        found["d"]


@pytest.mark.parametrize("cut", [4, 20, -2])
def test_weights_that_were_cut_short_are_refused(tmp_path: Path, cut: int) -> None:
    write_tensors(tmp_path / "w", {"a": Entry((4,))}, lambda _: np.ones(4, np.float32))
    data = (tmp_path / "w").read_bytes()
    (tmp_path / "w").write_bytes(data[:cut])
    with pytest.raises(DamagedWeights, match="is damaged"):
        Weights(tmp_path / "w")


# --- the engine ------------------------------------------------------------------------------------------------------
IDS = [3, 7, 7, 0, 39]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, handmade.Handmade]:
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setenv("CDR_DEVICE", "emulated")
    return tmp_path / "a", handmade.write(tmp_path / "a")


def agree(session: Session, logits: np.ndarray, wanted: tuple[np.ndarray, dict[str, np.ndarray]]) -> None:
    assert np.allclose(logits, wanted[0], atol=1e-4)
    found = session.state()
    assert set(found) == set(wanted[1])
    for name, value in wanted[1].items():
        assert found[name].shape == value.shape, name
        assert np.allclose(found[name], value, atol=1e-4), name


def test_tokens_run_and_the_state_stays_between_them(made: tuple[Path, handmade.Handmade]) -> None:
    folder, model = made
    with Session.open(folder) as session:
        assert session.how == "emulated"
        for n, token in enumerate(IDS):
            agree(session, session.step(token), model.run(IDS[: n + 1]))
        session.reset()
        agree(session, session.prefill(IDS[:2]), model.run(IDS[:2]))


def test_streams_take_turns_in_l1(made: tuple[Path, handmade.Handmade], tmp_path: Path) -> None:
    folder, model = made
    with Session.open(folder) as session:
        session.prefill(IDS[:3])
        other = session.fork()
        agree(other, other.step(5), model.run([*IDS[:3], 5]))
        other.save(tmp_path / "state")
        agree(session, session.step(6), model.run([*IDS[:3], 6]))
        third = session.fork()
        third.load(tmp_path / "state")
        assert third.tokens == 4
        agree(third, third.step(8), model.run([*IDS[:3], 5, 8]))
        agree(other, other.step(9), model.run([*IDS[:3], 5, 9]))
        del other
        agree(session, session.step(2), model.run([*IDS[:3], 6, 2]))


def test_a_closed_session_says_so(made: tuple[Path, handmade.Handmade]) -> None:
    session = Session.open(made[0])
    session.close()
    with pytest.raises(ArtifactError, match="the session is closed"):
        session.step(0)
    session.close()


@pytest.mark.parametrize("name", ["kernels/sum_writer.cpp", "host.py", "weights.safetensors"])
def test_a_damaged_file_is_refused_by_name(made: tuple[Path, handmade.Handmade], name: str) -> None:
    path = made[0] / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{path.name} is missing or was changed"):
        Session.open(made[0])
    path.unlink()
    with pytest.raises(ArtifactError, match="is missing|no weights"):
        Session.open(made[0])


def test_a_launch_description_that_lacks_something_is_damage(made: tuple[Path, handmade.Handmade]) -> None:
    path = made[0] / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["metalium"]["programs"]["sum"]["cbs"]
    write_manifest(made[0], manifest)
    with pytest.raises(ArtifactError, match="cannot be opened: 'cbs'"):
        Session.open(made[0])


def test_a_changed_manifest_is_refused(made: tuple[Path, handmade.Handmade]) -> None:
    """Its last line is a checksum: no address or page count that somebody edited reaches the card."""
    path = made[0] / "manifest.json"
    text = path.read_text()
    for changed in (
        text.replace('"offset": 0', '"offset": 64', 1),
        json.dumps(json.loads(text)),
        text[:-2] + ', "a": 1}\n',
    ):
        assert changed != text
        path.write_text(changed)
        with pytest.raises(ArtifactError, match="manifest.json was changed"):
            Session.open(made[0])


def test_without_ttnn_the_host_program_says_so(made: tuple[Path, handmade.Handmade], tmp_path: Path) -> None:
    (tmp_path / "ttnn.py").write_text("raise ImportError('no such wheel')\n")
    done = subprocess.run(
        [sys.executable, "host.py", "--tokens", "3"], cwd=made[0], env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "ttnn cannot be imported (no such wheel)" in done.stderr and "pip install ttnn==" in done.stderr


def test_a_cache_that_cannot_be_made_is_said(
    made: tuple[Path, handmade.Handmade], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CDRMIX_EMULATION_CACHE", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="what is built is kept in"), Session.open(made[0]) as session:
        session.step(0)


def test_the_host_program_runs_by_itself(made: tuple[Path, handmade.Handmade], tmp_path: Path) -> None:
    """Only `ttnn` and numpy may be imported besides what lies in the folder."""
    folder, model = made
    stand_in = tmp_path / "modules"
    stand_in.mkdir()
    (stand_in / "ttnn.py").write_text(
        "from cdrmix.runtime.metalium.emulated import *\nfrom cdrmix.runtime.metalium.emulated import _ttnn\n"
    )
    done = subprocess.run(
        [sys.executable, "host.py", "--tokens", "3", "7", "--count", "3"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(stand_in)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ids = [3, 7]
    for _ in range(3):
        ids.append(int(model.run(ids)[0].argmax()))
    assert done.stdout.split() == [str(i) for i in ids[2:]]


# --- which device ----------------------------------------------------------------------------------------------------
def test_without_ttnn_there_is_no_device(made: tuple[Path, handmade.Handmade], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CDR_DEVICE")
    monkeypatch.setitem(sys.modules, "ttnn", None)
    with pytest.raises(NoDevice, match="ttnn cannot be imported"):
        Session.open(made[0])


def test_a_simulator_is_named_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ttnn:
        @staticmethod
        def get_num_devices() -> int:
            return 1

    monkeypatch.setitem(sys.modules, "ttnn", Ttnn)
    monkeypatch.delenv("TT_METAL_SIMULATOR", raising=False)
    monkeypatch.delenv("CDR_DEVICE", raising=False)
    assert engines.find_device()[1:] == ("executed", 0)
    monkeypatch.setenv("TT_METAL_SIMULATOR", "somewhere")
    assert engines.find_device()[1:] == ("simulated", 0)
    monkeypatch.delenv("TT_METAL_SIMULATOR")
    monkeypatch.setenv("CDR_DEVICE", "1")
    with pytest.raises(NoDevice, match="no Tenstorrent card 1: 1 here"):
        engines.find_device()
    monkeypatch.setenv("CDR_DEVICE", "large")
    with pytest.raises(ArtifactError, match="CDR_DEVICE is `large`"):
        engines.find_device()


def test_tiles_of_the_file_are_those_of_the_parameter(tmp_path: Path) -> None:
    """What the handmade artefact packs is what the cores' readers expect: two pages a core, k first."""
    model = handmade.write(tmp_path / "a")
    pages = Weights(tmp_path / "a" / "weights.safetensors")["W"]
    assert pages.shape == (4, 32, 32)
    assert np.array_equal(pages, tilise(model.W, handmade.TILED))
    assert np.array_equal(pages[2, :, :20], model.W[20:, :32].T)


def test_a_device_with_too_few_cores_is_refused(
    made: tuple[Path, handmade.Handmade], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made[0] / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["metalium"]["programs"]["sum"]["cores"] = 65
    write_manifest(made[0], manifest)
    with pytest.raises(ArtifactError, match="made for 8x9 cores of an n150, here are 8x8"):
        Session.open(made[0])


def test_a_missing_compiler_is_said(
    made: tuple[Path, handmade.Handmade], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDRMIX_EMULATION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ArtifactError, match=r"no C\+\+ compiler"), Session.open(made[0]) as session:
        session.step(0)


def test_a_state_that_a_failed_run_left_is_not_gone_on_with(made: tuple[Path, handmade.Handmade]) -> None:
    with Session.open(made[0]) as session:
        session.step(3)
        kept = session.fork()
        program = session._engine._model._programs[1][1]
        program.kernels[0].runtime_args[0][1][0] = 77  # a core number that no page is for
        session._engine._device._prepared.clear()
        with pytest.raises(ArtifactError, match="running the model: .*sum_reader"):
            session.step(3)
        with pytest.raises(ArtifactError, match="lost in a run that failed"):
            session.state()
        assert kept.tokens == 1 and np.isfinite(kept.state()["sum.S"]).all()
