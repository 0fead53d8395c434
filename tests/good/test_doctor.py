"""What `cdrmix doctor` says of a machine where tools are missing, and where none are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cdrmix.runtime.compilers import command
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.session import Session

from cdrmix.artifact import write_artifact
from cdrmix.check import load_text
from cdrmix.cli import main
from cdrmix.compiler import lower
from tests.small import SPEC


def test_a_machine_with_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "torch", "cpu"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in told] == [["torch", "ready:"], ["cpu", "ready:"]]


def test_what_is_missing_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert main(["doctor", "cpu"]) == 1
    told = capsys.readouterr().out
    assert "a C compiler" in told and "run: apt-get install gcc" in told and "run: apt-get install make" in told
    main(["doctor", "cpu", "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert [need["what"] for need in found["missing"]] == ["make", "a C compiler"]


def test_an_unknown_target_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "cuba"]) == 1
    assert "no target `cuba`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "ready: its program by cc"),
        ("cc -m64", "ready: its program by cc -m64"),
        ("env cc", "ready: its program by env cc"),
        ('cc "', 'CC is `cc "`, and there is no such program'),
        ("no-such-compiler -O2", "run: unset CC, or apt-get install gcc"),
    ],
)
def test_a_compiler_is_what_make_takes_it_for(
    given: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", given)
    assert main(["doctor", "cpu"]) == (0 if says.startswith("ready") else 1)
    assert says in capsys.readouterr().out


def test_training_says_how_its_scans_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert main(["doctor", "torch"]) == 0
    assert "scans in torch" in capsys.readouterr().out


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
@pytest.mark.parametrize("target", ["c", "gpu"])
@pytest.mark.parametrize("given", [None, "", " ", "cc -m64"])
def test_make_and_doctor_take_the_same_compiler(
    target: str, given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    if given is not None:
        monkeypatch.setenv("CC", given)
    makefile = Path(__file__).parents[2] / "runtime" / target / "artefact.mk"
    words = ["make", "-s", "-f", str(makefile), "--eval=show: ; $(info $(CC))", "show"]
    shown = subprocess.run(words, env=os.environ, capture_output=True, text=True, check=True).stdout
    assert tuple(shown.split()) == command("CC", "cc") or not shutil.which("cc")


@pytest.mark.parametrize(
    ("script", "says", "helps"),
    [(None, "no C compiler `.*/cc`", "install make"), ("#!/bin/sh\nexit 1\n", "`make libmodel.so` failed", "unset it")],
)
def test_an_artefact_that_cc_cannot_build_says_so(
    script: str | None, says: str, helps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(lower(load_text(SPEC)), "cpu", tmp_path / "made", tokenizer="bytes", seed=0)
    if script is not None:
        (tmp_path / "cc").write_text(script)
        (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    with pytest.raises(ArtifactError, match=says) as e, Session.open(tmp_path / "made"):
        pass
    assert helps in e.value.help
