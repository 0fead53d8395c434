"""The kernels of other instruction sets, emulated: those of whole numbers have the bits of plain C."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.conformance.c_program import Array, rms
from tests.conformance.test_matrix import NAMES, SOURCES, check

from .machines import AARCH64, WASM, Machine, compile_for

FLAGS = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-ffp-contract=off", "-O2", f"-I{SOURCES[0].parent}")
KERNELS = [(AARCH64, ("neon", "neon_dot")), (WASM, ("simd128",))]


class Program:
    """The products of a program that runs elsewhere (`products.c`)."""

    def __init__(self, process: subprocess.Popen[bytes]):
        assert process.stdin and process.stdout
        self.to, self.back = process.stdin, process.stdout
        self.name = self.back.readline().decode().strip()

    def product(self, encoding: str, planes: Mapping[str, Array], rows: int, x: Array) -> Array:
        """See `Products`."""
        n, cols = x.shape
        numbers, scales = planes[""].tobytes(), planes[".scale"].tobytes() if ".scale" in planes else b""
        head = struct.pack("<6q", NAMES.index(encoding), rows, cols, n, len(numbers), len(scales))
        self.to.write(head + numbers + scales + x.tobytes())
        self.to.flush()
        return np.frombuffer(self.back.read(4 * n * rows), np.float32).reshape(n, rows)


def built(machine: Machine, folder: Path) -> Path:
    """The program for a machine."""
    machine.require()
    return compile_for(machine, folder / "products", [Path(__file__).parent / "products.c", *SOURCES], *FLAGS)


@contextmanager
def running(machine: Machine, program: Path, kernels: str) -> Iterator[Program]:
    """The program under one choice of kernels."""
    command, env = [*machine.emulator, str(program)], os.environ | {"CDRMIX_KERNELS": kernels}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
        yield Program(process)


@pytest.mark.parametrize(("machine", "kernels"), KERNELS, ids=[machine.triple for machine, _ in KERNELS])
def test_kernels_agree_with_plain_ones(machine: Machine, kernels: tuple[str, ...], tmp_path: Path) -> None:
    program = built(machine, tmp_path)
    with running(machine, program, "plain") as one:
        plain = check(one, "plain")
    for name in kernels:
        with running(machine, program, name) as one:
            found = check(one, name)
        for key, y in found.items():
            same = np.array_equal(y, plain[key]) if key.startswith("i") else rms(y, plain[key]) <= 2e-6
            assert same, (name, key)


def test_a_processor_without_dot_products_gets_the_kernels_it_can_run(tmp_path: Path) -> None:
    """That of a Raspberry Pi 4."""
    older = Machine(AARCH64.triple, AARCH64.compiler, (*AARCH64.emulator[:-1], "cortex-a72"))
    program = built(older, tmp_path)
    for asked, got in (("", "neon"), ("neon_dot", "plain")):
        with running(older, program, asked) as one:
            assert one.name == got
