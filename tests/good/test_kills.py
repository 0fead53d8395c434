"""What is killed at any moment leaves what is whole, and goes on, bitwise and with nothing left over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(("how", "least"), [("saves", 20), ("every 31", 4), ("random 4 7", 4), ("compiles 17", 8)])
def test_what_was_killed_goes_on_as_if_nothing_had_been(tmp_path: Path, how: str, least: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed", tmp_path, *how.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *differing, counted = (json.loads(line) for line in done.stdout.splitlines())
    assert not differing and found(counted, "wrong") == 0 and found(counted, "kills") >= least


def found(counted: dict[str, Any], what: str) -> int:
    return int(counted[what])
