"""Every call of the driver fails once: a clear error, nothing left behind, and no wrong memory under sanitizers."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from . import handmade
from .build import needs_compilers
from .conftest import Built

pytestmark = needs_compilers

CALLS = {"sm_90": "cuda", "gfx1100": "hip"}


@pytest.fixture(scope="module")
def place(built: Built, everything: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, and an artefact of each vendor."""
    folder = tmp_path_factory.mktemp("failures")
    for file in (built.driver, built.kernels, everything):
        (folder / file.name).symlink_to(file)
    for arch, vendor in CALLS.items():
        handmade.write(folder / arch, {arch: vendor})
    return folder


def run(place: Path, arch: str, **environment: str) -> tuple[list[str], int, str]:
    """What the program said, how many calls it made, what it left and did wrong."""
    report = place / f"report.{os.getpid()}"
    settings = {
        "CDR_DRIVER": str(place / "libmock.so"), "MOCK_CODE": str(place / "kernels.so"), "MOCK_REPORT": str(report),
        "MOCK_ARCH": arch, "PATH": os.environ["PATH"], "ASAN_OPTIONS": "detect_leaks=1",
    }  # fmt: skip
    command = [str(place / "everything"), str(place), str(place / arch / "weights.safetensors")]
    done = subprocess.run(command, env=settings | environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    live, calls, *wrong = report.read_text().split(" ", 2)
    assert live == "0", f"{live} things were not given back: {done.stdout}"
    return done.stdout.splitlines(), int(calls), " ".join(wrong)


@pytest.mark.parametrize("arch", CALLS)
def test_nothing_fails(place: Path, arch: str) -> None:
    said, calls, wrong = run(place, arch)
    assert said == ["done"] and wrong == "" and calls > 300


@pytest.mark.parametrize("arch", CALLS)
def test_each_call_fails_in_turn(place: Path, arch: str) -> None:
    """`everything` forgets nothing between two of its runs: one process goes through a whole share of the calls."""
    said, _, wrong = run(place, arch, EVERYTHING_TURNS="1")
    assert wrong == ""
    assert said[-1].startswith("turns ") and int(said[-1].split()[1]) > 300
    prefix = "cu" if arch == "sm_90" else "hip"
    texts = [line for line in said if re.search(rf": {prefix}\w+ failed", line)]
    assert texts and all("the mock was told to fail (719: MOCK_LAUNCH_FAILED)" in text for text in texts)
    assert not [line for line in said[:-1] if line not in texts and "begin it anew" not in line]
    for name in (
        ("MemAlloc", "Launch", "StreamSynchronize") if prefix == "cu" else ("Malloc", "Launch", "StreamSynchronize")
    ):
        assert any(name in text for text in texts), name


@pytest.mark.parametrize("arch", CALLS)
def test_a_gpu_that_is_lost(place: Path, arch: str) -> None:
    said, _, wrong = run(place, arch, EVERYTHING_TURNS="1", EVERYTHING_STICKY="1")
    assert wrong == "" and int(said[-1].split()[1]) > 300
