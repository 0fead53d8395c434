"""What only a process of its own can meet: streams that are closed or full, no home, an odd environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small import ADDS, write_spec

STREAMS = (">&-", "2>&-", ">&- 2>&- <&-", ">/dev/full", "2>/dev/full", "| true", "2>&1 | true")


def run(folder: Path, command: str, **env: str | None) -> subprocess.CompletedProcess[str]:
    """A shell's command, `cdrmix` in it being ours, in an environment changed so; None takes a variable away."""
    changed = {name: value for name, value in (os.environ | env).items() if value is not None}
    line = command.replace("cdrmix", f"{sys.executable} -m cdrmix.cli")
    return subprocess.run(["sh", "-c", line], cwd=folder, env=changed, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("command", ["check small.cdr", "check absent.cdr", "inspect small.cdr --json"])
@pytest.mark.parametrize("streams", STREAMS)
def test_streams_that_cannot_be_written(tmp_path: Path, command: str, streams: str) -> None:
    write_spec(tmp_path, ADDS)
    done = run(tmp_path, f"cdrmix {command} {streams}")
    assert "Traceback" not in done.stdout + done.stderr
    wrong = "absent" in command and "|" not in streams
    lost = streams.startswith(">") and not wrong
    assert done.returncode == (1 if wrong or lost else 0)
    said = {">/dev/full": "No space left", ">&-": "the standard output is closed"}.get(streams, "") if lost else ""
    assert said in done.stderr


def test_no_file_of_ours_takes_a_closed_streams_number(tmp_path: Path) -> None:
    write_spec(tmp_path, ADDS)
    done = run(tmp_path, "cdrmix compile small.cdr --target cpu -o made >&- 2>&-; cdrmix verify made --tokens 2")
    assert done.returncode == 0 and "executed" in done.stdout


TRAIN = "spec: small.cdr\ndata: {train: t.txt}\nout: run\nsteps: 1\nbatch: 1\ncontext: 8\nthreads: 1\n"
NOWHERE = {"TMPDIR": "/nowhere", "PATH": "/usr/bin:/nowhere", "HOME": "/proc/nowhere", "XDG_CACHE_HOME": None}
NOTHING = {"HOME": None, "LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "COLUMNS": "x", "LINES": "-1"}


@pytest.mark.parametrize("odd", [NOWHERE, NOTHING], ids=["nowhere", "nothing"])
def test_training_in_an_odd_environment(tmp_path: Path, odd: dict[str, str | None]) -> None:
    write_spec(tmp_path, ADDS)
    (tmp_path / "t.txt").write_text("a text to train on, \N{GREEK SMALL LETTER ALPHA}\n" * 20, encoding="utf-8")
    (tmp_path / "c.yaml").write_text(TRAIN)
    done = run(tmp_path, "cdrmix train c.yaml", **odd)
    assert done.returncode == 0 and (tmp_path / "run" / "last").exists(), done.stderr
