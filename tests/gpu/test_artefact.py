"""What cannot be run is refused by name: the machine, the GPU, the driver, a damaged file, a manifest that lies."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cdrmix.runtime.device import DeviceEngine, open_engine
from cdrmix.runtime.errors import ArtifactError

from . import build, handmade
from .build import Mock, needs_compilers
from .conftest import Built

pytestmark = needs_compilers
Manifest = dict[str, Any]


@pytest.fixture
def folder(built: Built, mock: Mock, tmp_path: Path) -> Path:
    """An artefact for sm_80, sm_90 and ptx, with its library."""
    write(tmp_path / "a", {"sm_80": "cuda", "sm_90": "cuda", "ptx": "cuda"}, built)
    return tmp_path / "a"


def write(folder: Path, archs: Mapping[str, str], built: Built) -> Manifest:
    return handmade.write(folder, archs, library=built.runner / "libmodel.so")


def opened(folder: Path) -> DeviceEngine:
    return open_engine(folder, json.loads((folder / "manifest.json").read_text()))


def refusal(folder: Path, content: Manifest | None = None) -> str:
    """What opening says."""
    files = {"libmodel.so": handmade.listed(folder / "libmodel.so")}
    with pytest.raises(ArtifactError) as said:
        open_engine(folder, content or {"state": [], "vocab": handmade.VOCAB, "files": files})
    return said.value.message


# --- the machine -----------------------------------------------------------------------------------------------------
def test_no_driver_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDR_DRIVER", "/nowhere/libcuda.so")
    assert "CDR_DRIVER" in refusal(folder) and "/nowhere/libcuda.so" in refusal(folder)
    monkeypatch.setenv("CDR_DRIVER", "libm.so.6")
    assert "lacks cuInit" in refusal(folder)


@pytest.mark.skipif(Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("arch", "vendor", "wanted"), [("sm_90", "cuda", "libcuda.so.1"), ("gfx942", "hip", "libamdhip64.so")]
)
def test_a_machine_without_any_driver(
    arch: str, vendor: str, wanted: str, built: Built, mock: Mock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", {arch: vendor}, built)
    monkeypatch.delenv("CDR_DRIVER")
    assert f"no driver library {wanted}" in refusal(tmp_path / "a")


def test_no_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCK_DEVICES", "0")
    assert "the driver finds no GPU" in refusal(folder)
    monkeypatch.setenv("MOCK_DEVICES", "-1")
    assert "cuInit failed" in refusal(folder)


@pytest.mark.parametrize(
    ("gpu", "wanted"),
    [("sm_90", "sm_90"), ("sm_89", "sm_80"), ("sm_80", "sm_80"), ("sm_100", "ptx"), ("sm_120", "ptx"), ("sm_75", None)],
)
def test_the_program_that_fits(gpu: str, wanted: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCK_ARCH", gpu)
    if wanted is None:
        text = refusal(folder)
        assert gpu in text and "it holds sm_80, sm_90, ptx" in text and f"--arch {gpu}" in text
        return
    engine = opened(folder)
    assert engine.about == f"Mock GPU 0 ({gpu}), code for {wanted}"
    engine.close()


def test_code_of_amd_fits_only_its_own(
    built: Built, mock: Mock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", {"gfx1100": "hip"}, built)
    monkeypatch.setenv("MOCK_ARCH", "gfx1101")
    assert "no code for gfx1101 (Mock GPU 0): it holds gfx1100" in refusal(tmp_path / "a")


def test_the_first_gpu_that_fits_or_the_one_named(
    built: Built, mock: Mock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", {"gfx942": "hip"}, built)
    monkeypatch.setenv("MOCK_DEVICES", "3")
    monkeypatch.setenv("MOCK_ARCH", "gfx1100,gfx942")
    engine = opened(tmp_path / "a")
    assert engine.about.startswith("Mock GPU 1 (gfx942)")
    state = engine.start()
    assert np.isfinite(engine.prefill(state, [1, 2, 3])).all()
    engine.close()
    monkeypatch.setenv("CDR_DEVICE", "2")
    engine = opened(tmp_path / "a")
    assert engine.about.startswith("Mock GPU 2")
    engine.close()
    monkeypatch.setenv("CDR_DEVICE", "0")
    assert "no code for gfx1100" in refusal(tmp_path / "a")
    for bad in ("3", "-1", "x"):
        monkeypatch.setenv("CDR_DEVICE", bad)
        assert f"CDR_DEVICE is {bad}, and the driver finds 3 GPUs" in refusal(tmp_path / "a")


def test_a_driver_that_is_too_old_for_the_ptx(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCK_ARCH", "sm_100")
    monkeypatch.setenv("MOCK_REFUSE_CODE", "222")
    text = refusal(folder)
    assert "the driver (CUDA 12.4) cannot compile ptx.bin for sm_100" in text and "too old" in text
    monkeypatch.setenv("MOCK_ARCH", "sm_90")
    assert "cuModuleLoadData failed for sm_90.bin" in refusal(folder)


def test_too_little_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (256, 5000, 7000):
        monkeypatch.setenv("MOCK_MEMORY", str(room))
        text = refusal(folder)
        assert "has too little memory for" in text and "MiB were asked for" in text
    monkeypatch.setenv("MOCK_MEMORY", "40000")
    engine = opened(folder)
    states = []
    with pytest.raises(ArtifactError, match="too little memory for a state"):
        for _ in range(100):
            states.append(engine.start())
    assert len(states) > 3 and np.isfinite(engine.prefill(states[0], [1])).all(), "the others go on"
    engine.close()


# --- damaged files ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["sm_90.bin", "weights.safetensors", "manifest.json"])
def test_a_damaged_file_is_named(name: str, folder: Path) -> None:
    good = (folder / name).read_bytes().rstrip()
    rng = random.Random(1)
    for size in (0, 1, len(good) // 2, len(good) - 1):
        (folder / name).write_bytes(good[:size])
        assert name in refusal(folder)
    (folder / name).write_bytes(good + b"\n" * (name != "manifest.json") + b"x")
    assert name in refusal(folder)
    for at in [rng.randrange(len(good)) for _ in range(40)]:
        changed = bytearray(good)
        changed[at] ^= 1 << rng.randrange(7)
        (folder / name).write_bytes(changed)
        assert name in refusal(folder), f"byte {at}"
    (folder / name).unlink()
    assert name in refusal(folder) and "cannot be opened" in refusal(folder)


def test_files_that_are_not_read_may_be_missing(folder: Path) -> None:
    (folder / "sm_80.bin").unlink()
    opened(folder).close()


Edit = Callable[[dict[str, np.ndarray]], object]


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (
            lambda w: w.update({"head.H": w["head.H"].astype(np.float32)}),
            "tensor head.H: it is not I8, as the program wants it",
        ),
        (lambda w: w.update({"emb.E": w["emb.E"].astype(np.float16)}), "tensor emb.E: it is not F32"),
        (lambda w: w.update({"emb.E": w["emb.E"].T.copy()}), "tensor emb.E: a tensor's shape is not the model's"),
        (lambda w: w.pop("head.H.scale"), "tensor head.H.scale: the weights lack a tensor"),
        (lambda w: w.pop("layer.1.mix.S.start"), "tensor layer.1.mix.S.start: the weights lack a tensor"),
    ],
)
def test_weights_of_another_model(change: Edit, wanted: str, folder: Path) -> None:
    """The manifest's checksum is right, but the tensors are not what its program wants."""
    content = json.loads((folder / "manifest.json").read_text())
    tensors = handmade.weights()
    change(tensors)
    (folder / "weights.safetensors").write_bytes(handmade.safetensors(tensors))
    rewritten(folder, content)
    assert wanted in refusal(folder)


def rewritten(folder: Path, content: Manifest) -> None:
    """A manifest whose checksums are right."""
    content.pop("checksum", None)
    for name, entry in content.get("files", {}).items():
        if (folder / name).exists():
            entry |= {"bytes": (folder / name).stat().st_size, "checksum": handmade.file_checksum(folder / name)}
    handmade.write_manifest(folder, content)


# --- manifests that lie ----------------------------------------------------------------------------------------------
def launch(m: Manifest) -> Any:
    return m["programs"]["sm_90"]["units"]["mix1@1x1"]["launches"][1]


def unit(m: Manifest, name: str = "mix1") -> Any:
    return m["schedule"]["units"][name]


LIES: dict[str, tuple[Callable[[Manifest], object], str]] = {
    "format": (lambda m: m.update(format=2), "another version of the format"),
    "no vocabulary": (lambda m: m.update(vocab=0), "without a vocabulary"),
    "other vocabulary": (lambda m: m.update(vocab=14), "do not end with the logits"),
    "hash": (lambda m: m.update(hash="00"), "64 hexadecimal digits"),
    "no schedule": (lambda m: m.pop("schedule"), "lacks `schedule`"),
    "no files": (lambda m: m.update(files={}), "not among the files"),
    "code elsewhere": (
        lambda m: (
            m["programs"]["sm_90"].update(code="../x"),
            m["files"].update({"../x": {"bytes": 1, "checksum": "0" * 16}}),
        ),
        "not a name in the artefact's folder",
    ),
    "kernel": (lambda m: launch(m).update(kernel=10**6), "a kernel that is not listed"),
    "grid": (lambda m: launch(m).update(grid=[0, 1, 1]), "a launch of nothing"),
    "block": (lambda m: launch(m).update(block=[1024, 2, 1]), "a block of too many threads"),
    "argument kind": (lambda m: launch(m)["args"].append(["y", 0, 0]), "unknown kind"),
    "argument index": (lambda m: launch(m)["args"].append(["w", 2, 0]), "points outside of what it names"),
    "argument offset": (
        lambda m: launch(m)["args"].append(["s", 0, 4 * handmade.D]),
        "points outside of what it names",
    ),
    "large offset": (lambda m: launch(m)["args"].append(["x", 0, 2**63]), "too large"),
    "scratch": (
        lambda m: m["programs"]["sm_90"]["units"]["mix1@1x1"].update(scratch=256),
        "points outside of what it names",
    ),
    "unit missing": (lambda m: m["programs"]["sm_90"]["units"].pop("mix1@1x8"), "lacks mix1 for 1 x 8 tokens"),
    "unit unknown": (lambda m: m["programs"]["sm_90"]["units"].update({"what@1x1": {}}), "a unit that is not there"),
    "unit's name": (lambda m: m["programs"]["sm_90"]["units"].update({"mix1@1y1": {}}), "not named unit@BxT"),
    "weight's shape": (lambda m: unit(m)["weights"][0].__setitem__(1, [6, 7]), "another shape or type"),
    "weight's type": (lambda m: unit(m)["weights"][0].__setitem__(2, "f32"), "another shape or type"),
    "state's shape": (lambda m: unit(m)["states"][0].__setitem__(1, [7]), "another shape or type"),
    "x": (lambda m: unit(m).update(x=[7]), "does not read what the one before it makes"),
    "carry": (lambda m: unit(m)["reads"][0].__setitem__(1, [7]), "has two sizes"),
    "tensor unknown": (lambda m: m["schedule"]["calls"][0].update(weights=["nothing"]), "not listed"),
    "too few tensors": (lambda m: m["schedule"]["calls"][0].update(weights=[]), "another number of weights"),
    "no batch of one": (lambda m: m["schedule"].update(batches=[4]), "no batch of one session"),
    "huge batch": (lambda m: m["schedule"].update(batches=[1, 2**40]), "too large"),
    "huge shape": (lambda m: m["state"][0].update(shape=[2**20, 2**20, 2**20]), "a shape is too large"),
    "bank": (lambda m: m["state"][0].update(banks=[2]), "a bank with state"),
    "tensor twice": (lambda m: m["tensors"].append(m["tensors"][0]), "listed twice"),
    "kernel's name": (
        lambda m: m["programs"]["sm_90"]["kernels"][0].update(name="nothing"),
        "cuModuleGetFunction failed for nothing",
    ),
    "state for the last token": (
        lambda m: m["schedule"]["calls"][-3].update(last_only=False),
        "keeps something|lacks|after those",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies(lie: str, folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    change, wanted = LIES[lie]
    change(content)
    rewritten(folder, content)
    text = refusal(folder)
    assert any(part in text for part in wanted.split("|")), text


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a manifest stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


def damaged(content: Manifest, rng: random.Random) -> Manifest:
    """A manifest with one value that is another, or gone."""
    made = copy.deepcopy(content)
    parts = [p for p in places(made) if p[0] in ("state", "tensors", "schedule", "programs", "vocab", "files")]
    *way, last = rng.choice(parts)
    inside = made
    for key in way:
        inside = inside[key]
    other: list[Any] = [
        0,
        1,
        2,
        3,
        7,
        255,
        4096,
        65536,
        2**31 - 1,
        2**31,
        2**46,
        2**63,
        2**64 - 1,
        -1,
        1.5,
        None,
        "",
        "pos",
        [],
        {},
        [0],
        [2**40] * 3,
    ]
    if rng.random() < 0.15:
        del inside[last]
    else:
        inside[last] = rng.choice(other)
    return made


def garbled(text: bytes, rng: random.Random) -> bytes:
    """A manifest's text with a few bytes that are others, or gone, or there twice."""
    made = bytearray(text)
    for _ in range(rng.randint(1, 3)):
        at, size = rng.randrange(len(made)), rng.randint(1, 20)
        match rng.randrange(3):
            case 0:
                made[at] = rng.choice(b'"\\[]{}:,0-9eu\x00\xff')
            case 1:
                del made[at : at + size]
            case _:
                made[at:at] = made[at : at + size]
    return bytes(made)


def test_no_manifest_makes_the_runner_touch_what_is_not_there(built: Built, everything: Path, tmp_path: Path) -> None:
    """Many with a wrong value or garbled text and right checksums, under sanitizers; kernels do nothing here."""
    content = handmade.write(tmp_path / "good", {"sm_90": "cuda"})
    rng = random.Random(7)
    paths = []
    for n in range(150):
        at = tmp_path / str(n)
        at.mkdir()
        for name in ("weights.safetensors", "sm_90.bin"):
            (at / name).symlink_to(tmp_path / "good" / name)
        if n % 3:
            handmade.write_manifest(at, damaged(content, rng))
        else:
            handmade.seal(at, garbled(json.dumps(content, indent=1).encode(), rng))
        paths.append(str(at / "weights.safetensors"))
    settings = {
        "CDR_DRIVER": str(built.driver),
        "MOCK_CODE": str(built.kernels),
        "MOCK_IDLE": "1",
        "MOCK_REPORT": str(tmp_path / "r"),
    }
    done = subprocess.run(
        [str(everything), str(tmp_path), *paths],
        env=settings | {"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.splitlines()
    assert sum(line.startswith("open: ") for line in said) > 75, "most of them are refused"
    live, _, faults = (tmp_path / "r").read_text().split(" ", 2)
    # that a kernel takes more arguments than it is given is the one thing that nobody can see
    assert live == "0" and all(line.endswith("no device pointer") for line in faults.splitlines()), faults


# --- the program -----------------------------------------------------------------------------------------------------
def test_the_makefile_builds_a_program_that_runs(built: Built, mock: Mock, tmp_path: Path) -> None:
    handmade.write(tmp_path)
    build.runner_sources(tmp_path)
    done = subprocess.run(["make", "-C", str(tmp_path), "CFLAGS=-O0"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    command = [str(tmp_path / "cdrmix-run"), "-m", str(tmp_path), "--logits", "1", "2", "12"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    model = handmade.Reference(handmade.weights())
    wanted = [model.step(t) for t in (1, 2, 12)][-1]
    np.testing.assert_allclose(np.array(found, np.float64), wanted, rtol=1e-4, atol=1e-5)
    environment = {**os.environ, "MOCK_ARCH": "sm_75"}
    bad = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert bad.returncode == 1 and "no code for sm_75" in bad.stderr


def test_a_library_that_cannot_be_loaded_is_built_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short, changed, or of another machine: once, and never from sources that were changed."""
    monkeypatch.setenv("CFLAGS", "-O0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
    build.runner_sources(folder)
    library = folder / "libmodel.so"
    good = library.read_bytes()
    content = json.loads((folder / "manifest.json").read_text())
    for name in ("libmodel.so", "Makefile", *(f"runner/{p.name}" for p in (folder / "runner").iterdir())):
        content["files"][name] = {}
    rewritten(folder, content)
    library.unlink()
    library.write_bytes(good[: len(good) // 2])
    with_change = folder / "runner" / "state.c"
    text = with_change.read_text()
    with_change.write_text(text + "\n")
    said = refusal(folder, content)
    assert "libmodel.so is missing or was changed, and another cannot be built" in said and "state.c is missing" in said
    with_change.write_text(text)
    cache, built = Path(os.environ["XDG_CACHE_HOME"], "cdrmix", "programs"), set()
    for _ in range(2):
        engine = open_engine(folder, content)
        assert np.isfinite(engine.prefill(engine.start(), [1])).all()
        engine.close()
        built |= {(p, p.stat().st_ino) for p in cache.glob("*.so")}
    assert len(built) == 1, "it is built once"
    monkeypatch.setenv("PATH", "/nowhere")
    library.write_bytes(b"\x7fELF")
    text = refusal(folder, content)
    assert "libmodel.so is missing or was changed, and another cannot be built: no `make`" in text


def test_the_program_reads_no_tokenizer_that_was_changed(built: Built, mock: Mock, folder: Path) -> None:
    program = build.runner_program(built.runner, "cdrmix-run", built.runner / "runner" / "main.c", "-O0")
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "tokenizer.json").write_text("{}")
    content["files"]["tokenizer.json"] = {}
    rewritten(folder, content)
    (folder / "tokenizer.json").write_text("[]")
    done = subprocess.run([str(program), "-m", str(folder), "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "tokenizer.json was changed" in done.stderr
