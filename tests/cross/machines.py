"""Other machines, emulated: a cross compiler, and what runs its programs here.

That a program gives the right numbers is what this shows; how fast it is there, it does not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Machine:
    """A triple, the compiler for it, and the command in front of its programs."""

    triple: str
    compiler: tuple[str, ...]
    emulator: tuple[str, ...]
    ending: str = ""
    """Of a program's name."""

    def require(self) -> None:
        """Skip where the tools are absent: `make toolchain` gets them."""
        if not (shutil.which(self.compiler[0]) and shutil.which(self.emulator[0])):
            pytest.skip("no cross compiler or no emulator: make toolchain")

    def run(self, program: Path, *arguments: str, env: Mapping[str, str] | None = None) -> bytes:
        """What a program prints."""
        command = [*self.emulator, str(program), *arguments]
        done = subprocess.run(command, capture_output=True, env=os.environ | dict(env or {}), check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def _qemu(name: str, *options: str) -> tuple[str, ...]:
    return (f"qemu-{name}", "-L", f"/usr/{name}-linux-gnu", *options)


def linux(name: str, *options: str) -> Machine:
    """A machine of this processor under Linux, by Debian's compiler and qemu-user."""
    return Machine(f"{name}-linux-gnu", (f"{name}-linux-gnu-gcc",), _qemu(name, *options))


AARCH64 = linux("aarch64", "-cpu", "max")
RISCV64 = linux("riscv64")
WASM = Machine(
    "wasm32-wasi",
    ("clang", "--target=wasm32-wasi", "--sysroot=/usr", "-msimd128", "-Wno-gnu-statement-expression"),
    ("node", "--no-warnings", str(Path(__file__).parent / "node.mjs")),
    ".wasm",
)


def compile_for(machine: Machine, out: Path, sources: Sequence[Path], *flags: str) -> Path:
    """A program without a warning."""
    command = [*machine.compiler, *flags, "-o", str(out), *map(str, sources), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr[:4000]
    return out
