"""Build what the tests of the device runner need: the runner, a mock driver, and kernels that run on a CPU.

Input: CUDA C.  Output: shared libraries.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from cdrmix.codegen.tinygrad.runner import sources

HERE = Path(__file__).parent
RUNTIME = HERE.parents[1] / "runtime"
CXX = shutil.which(os.environ.get("CXX", "g++"))
CC = shutil.which(os.environ.get("CC", "cc"))
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic")
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
needs_compilers = pytest.mark.skipif(
    None in (CC, CXX, shutil.which("make")), reason="no C and C++ compilers, or no make"
)

_KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(")


def run(command: Sequence[str | Path], cwd: Path | None = None) -> None:
    """Run a compiler; its complaints are the failure."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr[-4000:]
    assert not done.stderr, done.stderr[-4000:]


def mock_driver(folder: Path) -> Path:
    """The mock driver library."""
    out = folder / "libmock.so"
    run([str(CXX), "-std=c++17", "-O1", "-Wall", "-fPIC", "-shared", "-o", out, HERE / "mock_driver.cpp", "-ldl"])
    return out


def kernels(source: str, folder: Path, *flags: str) -> Path:
    """The kernels of a CUDA C source as a module of the mock driver."""
    for name in ("cuda_fp16.h", "cuda_bf16.h"):
        (folder / name).write_text("#pragma once\n")
    parts = _KERNEL.split(source)
    entries = [
        f"MOCK_KERNEL({name}, {int('__syncthreads' in text)})"
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    ]
    path, out = folder / "kernels.cpp", folder / "kernels.so"
    path.write_text(f'#include "fibers.h"\n{source}\n' + "\n".join(entries) + "\n")
    options = flags or ("-O1",)
    run([str(CXX), "-std=c++17", "-w", *options, "-fPIC", "-shared", f"-I{folder}", f"-I{HERE}", "-o", out, path])
    return out


def runner_sources(folder: Path) -> Path:
    """The runner's files in an artefact's folder."""
    (folder / "runner").mkdir(parents=True, exist_ok=True)
    for path, content in sources().items():
        (folder / path).write_bytes(content)
    (folder / "Makefile").write_bytes((RUNTIME / "gpu" / "artefact.mk").read_bytes())
    return folder


def runner_library(folder: Path, *flags: str) -> Path:
    """libmodel.so, built without a warning."""
    out = folder / "libmodel.so"
    files = sorted(p for p in (folder / "runner").glob("*.c") if p.name != "main.c")
    options = flags or ("-O1",)
    run(
        [
            str(CC),
            *STRICT,
            *options,
            "-fPIC",
            "-shared",
            f"-I{folder / 'runner'}",
            "-o",
            out,
            *files,
            "-lm",
            "-ldl",
            "-pthread",
        ]
    )
    return out


def runner_program(folder: Path, name: str, main: Path, *flags: str) -> Path:
    """A program around the runner."""
    out = folder / name
    files = sorted(p for p in (folder / "runner").glob("*.c") if p.name != "main.c")
    options = flags or ("-O1",)
    run([str(CC), *STRICT, *options, f"-I{folder / 'runner'}", "-o", out, main, *files, "-lm", "-ldl", "-pthread"])
    return out


class Mock:
    """The mock driver in this process."""

    def __init__(self, path: Path):
        self.path = path
        self._lib = ctypes.CDLL(str(path))
        self._lib.mock_faults.restype = ctypes.c_char_p

    def fail(self, n: int, code: int = 719, after: bool = False) -> None:
        """The n-th call from now fails (0: none); with `after` all that follow, too."""
        self._lib.mock_fail(n, code, int(after))

    def graphs(self, have: bool) -> None:
        self._lib.mock_graphs(int(have))

    @property
    def calls(self) -> int:
        return int(self._lib.mock_calls())

    @property
    def waits(self) -> int:
        return int(self._lib.mock_waits())

    @property
    def live(self) -> int:
        return int(self._lib.mock_live())

    def count(self, name: str) -> int:
        return int(self._lib.mock_count(name.encode()))

    def faults(self) -> str:
        found: bytes = self._lib.mock_faults()
        return found.decode()


def names(source: str) -> Iterable[str]:
    """The kernels of a source, in order."""
    return _KERNEL.findall(source)
