"""The GPU targets from the command line, on a machine without a GPU: compile, verify, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cdrmix.codegen.tinygrad import toolchain

from cdrmix.cli import main
from tests.small import write_spec

from .build import needs_compilers

ARCHS = {"cuda": "sm_90", "rocm": "gfx1100"}
no_gpu = pytest.mark.skipif(
    Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists(), reason="this machine has a GPU"
)
pytestmark = needs_compilers


@pytest.fixture(scope="module", params=ARCHS)
def artefact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small spec with 16 bit weights, compiled for one arch."""
    target = request.param
    if missing := toolchain.missing(toolchain.choose(target, (ARCHS[target],))):
        pytest.skip(f"{missing[0].what} is not here: {missing[0].command}")
    home = tmp_path_factory.mktemp(target)
    options = ["--target", target, "--arch", ARCHS[target], "--quant", "bf16", "--batch", "1", "--block", "8"]
    assert main(["compile", str(write_spec(home)), *options, "--tokenizer", "bytes", "-o", str(home / "out")]) == 0
    return home / "out"


def how(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "manifest.json").read_text())["verified"]
    return found


def test_an_artefact_says_that_it_is_compiled_and_no_more(artefact: Path) -> None:
    arch = ARCHS[json.loads((artefact / "manifest.json").read_text())["target"]]
    assert how(artefact) == {"how": "compiled", "archs": [arch]}
    code = (artefact / f"{arch}.{toolchain.ARCHS[arch].code}").read_bytes()
    assert code.startswith(b"\x7fELF") and (artefact / "cdrmix-run").stat().st_mode & 0o111


@no_gpu
def test_verify_runs_the_readable_program_where_no_gpu_is(
    artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("clang") is None and toolchain.llvm() is None:
        pytest.skip("tinygrad's CPU device needs clang or libllvm19")
    monkeypatch.delenv("CDR_DRIVER", raising=False)
    copy = shutil.copytree(artefact, tmp_path / "copy")
    assert main(["verify", str(copy), "--tokens", "11"]) == 0
    told = capsys.readouterr()
    assert "executed on CPU through tinygrad: 11 tokens" in told.out and "driver" in told.err
    assert how(copy)["how"] == "executed on CPU through tinygrad" and how(copy)["within"] is True


@no_gpu
def test_generate_says_what_is_missing(
    artefact: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CDR_DRIVER", raising=False)
    assert main(["generate", str(artefact), "--prompt", "a"]) == 1
    assert "no driver library" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--target", "cuda", "--arch", "sm_91"], "no arch `sm_91`"),
        (["--target", "cuda", "--arch", "gfx942"], "an arch of the rocm target"),
        (["--target", "cuda", "--batch", "1,5000"], "more than 1024"),
        (["--target", "cpu", "--arch", "sm_90"], "--arch means nothing to target cpu"),
        (["--target", "torch", "--quant", "i8"], "target torch reads no i8 weights"),
    ],
)
def test_mistakes_are_refused_at_once(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", str(write_spec(tmp_path)), *options, "-o", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert says in told and "help" in told and not (tmp_path / "out").exists()


def test_missing_tools_are_named_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "lld", lambda: None)
    assert main(["doctor", "rocm"]) == 1
    assert "apt-get install lld-19" in capsys.readouterr().out
    assert main(["compile", str(write_spec(tmp_path)), "--target", "rocm", "-o", str(tmp_path / "out")]) == 1
    assert "apt-get install lld-19" in capsys.readouterr().err and not (tmp_path / "out").exists()
