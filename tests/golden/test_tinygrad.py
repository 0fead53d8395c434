"""tinygrad's private names, as the compiler uses them: a golden text tells which one another release has moved."""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "tinygrad-internals.txt"


def test_tinygrad_looks_as_it_is_used(update_expected: bool) -> None:
    pytest.importorskip("tinygrad")
    code = "from cdrmix.codegen.tinygrad.internals import used_names; print(*used_names(), sep='\\n')"
    env = {**os.environ, "DEV": "NULL"}  # the device is a setting of the whole process
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    if done.returncode:
        pytest.fail(f"a name that codegen/tinygrad/internals.py uses is gone from tinygrad:\n{done.stderr}")
    if update_expected:
        GOLDEN.write_text(done.stdout)
    expected, found = GOLDEN.read_text().splitlines(), done.stdout.splitlines()
    changed = [d for d in difflib.ndiff(expected, found) if d[0] in "+-"]
    assert not changed, (
        "tinygrad has changed under codegen/tinygrad/internals.py (what follows `<-` are its functions to look at):\n"
        + "\n".join(changed)
    )
