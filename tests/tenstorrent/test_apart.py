"""CDR_TTNN_PYTHON: a verification also runs the artefact's host.py under a Python that has ttnn.

Here that Python is this one, and its ttnn the emulation.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cdrmix.codegen.metalium import verification

from cdrmix.check import load
from cdrmix.diagnose import UserError
from cdrmix.verification import verify_artifact

from .agree import compile_to, needs_compiler

SPECS = Path(__file__).parent / "simulator" / "specs"


def other_python(folder: Path, ttnn: str) -> str:
    """A program that is this Python with a module `ttnn` of this text."""
    folder.mkdir()
    (folder / "ttnn.py").write_text(ttnn)
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return str(program)


EMULATED = """
import sys
from cdrmix.runtime.metalium import emulated
sys.modules["ttnn"] = emulated
"""


@needs_compiler
def test_both_ways_are_run_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ttnn", None)
    monkeypatch.setenv(verification.PYTHON, other_python(tmp_path / "python", EMULATED))
    folder = compile_to(tmp_path / "a", load(SPECS / "time_mix.cdr"), "bf16", 1)
    for simulator, word in (("", "executed"), ("some.so", "simulated")):
        monkeypatch.setenv("TT_METAL_SIMULATOR", simulator)
        found = verify_artifact(folder, 3)
        said = json.loads((folder / "manifest.json").read_text())["verified"]
        assert said["how"] == found["how"] == word and said["within"]
        assert set(said["worst of"]) == {"emulated", word}
        states = [name for name in found["errors"] if name.endswith(f"(step), {word}")]
        assert f"layer.0.att.S (step), {word}" in states


@needs_compiler
def test_what_fails_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ttnn", None)
    monkeypatch.delenv("TT_METAL_SIMULATOR", raising=False)
    folder = compile_to(tmp_path / "a", load(SPECS / "product.cdr"), "bf16", 1)
    monkeypatch.setenv(verification.PYTHON, other_python(tmp_path / "broken", "raise RuntimeError('no card here')"))
    with pytest.raises(UserError, match=r"executed: the artefact's host.py failed .*(?s:.*)no card here"):
        verify_artifact(folder, 1)
    monkeypatch.setenv(verification.PYTHON, str(tmp_path / "none"))
    with pytest.raises(UserError, match="which does not start"):
        verify_artifact(folder, 1)
    monkeypatch.setenv(verification.PYTHON, other_python(tmp_path / "slow", "import time; time.sleep(60)"))
    monkeypatch.setattr(verification, "LIMIT", 1)
    with pytest.raises(UserError, match="did not end within 1 s"):
        verify_artifact(folder, 1)
