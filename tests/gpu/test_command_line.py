"""The GPU targets from the command line, on a machine without a GPU: compile, verify, and what is refused."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from cdrmix.codegen.tinygrad import amd, host, internals, toolchain

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
        (["--target", "tenstorrent", "--quant", "i8"], "target tenstorrent reads no i8 weights"),
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
    monkeypatch.setattr(amd, "lld", lambda: None)
    assert main(["doctor", "rocm"]) == 1
    assert "triton: its lld links" in (told := capsys.readouterr().out) and "pip install 'cdrmix[gpu]'" in told
    assert main(["compile", str(write_spec(tmp_path)), "--target", "rocm", "-o", str(tmp_path / "out")]) == 1
    assert "pip install 'cdrmix[gpu]'" in capsys.readouterr().err and not (tmp_path / "out").exists()


@no_gpu
@pytest.mark.parametrize(
    ("compiler", "says"),
    [
        ("#!/bin/sh\necho an old one >&2; exit 1\n", "knows no half floats"),
        (None, "no such program"),
    ],
)
def test_verify_without_a_compiler_for_the_program_says_what_helps(
    compiler: str | None, says: str, artefact: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("CDR_DRIVER", raising=False)
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    if compiler is not None:
        (tmp_path / "cc").write_text(compiler)
        (tmp_path / "cc").chmod(0o755)
    host.compiler.cache_clear()
    try:
        assert main(["verify", str(artefact), "--tokens", "3"]) == 1
    finally:
        host.compiler.cache_clear()
    told = capsys.readouterr().err
    assert says in told and "run " in told and "Traceback" not in told


@no_gpu
def test_verify_without_tinygrad_says_what_helps(
    artefact: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.delenv("CDR_DRIVER", raising=False)
    monkeypatch.setattr(internals, "version", missing)
    assert main(["verify", str(artefact), "--tokens", "3"]) == 1
    assert "tinygrad, which is not installed" in (told := capsys.readouterr().err) and "pip install tinygrad" in told


@pytest.mark.skipif(bool(amd.missing()), reason="llvmlite or triton is not installed")
def test_which_llvm_and_linker_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of PyPI; an LLVM that LLVM_PATH names before it, Debian's where it is not."""
    monkeypatch.delenv("LLVM_PATH", raising=False)
    amd.library.cache_clear()
    assert amd.llvm() == "llvmlite" and amd.lld() == "triton" and amd.missing() == []
    assert "(llvmlite 0." in amd.tools()[0] and "(triton 3." in amd.tools()[1]
    assert amd._named("a module of another package") == "a module of another package"
    (tmp_path / "libLLVM.so").write_text("")
    monkeypatch.setenv("LLVM_PATH", str(tmp_path / "libLLVM.so"))
    amd.library.cache_clear()
    amd.llvm_version.cache_clear()
    assert amd.llvm() == tmp_path / "libLLVM.so"
    assert [need.what for need in amd.missing()] == ["LLVM 18 or newer"]
    monkeypatch.delenv("LLVM_PATH")
    monkeypatch.setattr(amd.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(amd, "in_system", lambda pattern: iter([tmp_path / "libLLVM.so"]))
    amd.library.cache_clear()
    assert amd.llvm() == tmp_path / "libLLVM.so"
    monkeypatch.setattr(amd, "in_system", lambda pattern: iter(()))
    monkeypatch.setenv("PATH", "")
    amd.library.cache_clear()
    if not Path("/usr/lib/llvm-19").exists():
        assert [need.what for need in amd.missing()] == ["llvmlite", "triton"]
    amd.library.cache_clear()
    amd.llvm_version.cache_clear()
