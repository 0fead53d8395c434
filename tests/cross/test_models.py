"""Artefacts for other machines, emulated: in plain C the same bits on each, in logits, text and saved states."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime.encodings import ENCODINGS

from tests.conformance.c_program import rms

from .machines import AARCH64, RISCV64, WASM, Machine
from .models import artefact, make
from .test_products import KERNELS

MACHINES = (AARCH64, RISCV64, WASM)
PLAIN = "CFLAGS=-O1 -DCDR_PLAIN"
HERE = Machine("", (), ())
IDS = tuple(str(n * 37 % 256) for n in range(40))

Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The artefact of an encoding, built here in plain C."""

    @cache
    def make_one(stored: str) -> Path:
        folder = artefact(tmp_path_factory.mktemp(stored) / "here", stored)
        make(folder, "cdrmix-run", PLAIN)
        return folder

    return make_one


def cross(made: Path, machine: Machine, *variables: str) -> Path:
    """The same artefact, built for another machine."""
    folder = made.parent / machine.triple / "-".join(variables).replace("/", "")
    shutil.copytree(made, folder)
    (folder / "cdrmix-run").unlink()
    make(folder, f"cdrmix-run{machine.ending}", f"TRIPLE={machine.triple}", *variables)
    return folder


def said(machine: Machine, folder: Path, *arguments: str, env: dict[str, str] | None = None) -> bytes:
    return machine.run(folder / f"cdrmix-run{machine.ending}", "-m", str(folder), *arguments, env=env)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.triple)
@pytest.mark.parametrize("stored", ENCODINGS)
def test_plain_c_gives_the_same_bits(stored: str, machine: Machine, made: Made) -> None:
    machine.require()
    here = made(stored)
    there = cross(here, machine, PLAIN)
    assert said(HERE, here, "--logits", *IDS) == said(machine, there, "--logits", *IDS)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.triple)
def test_a_text_goes_on_on_another_machine(machine: Machine, made: Made, tmp_path: Path) -> None:
    machine.require()
    here, state = made("i8"), [tmp_path / "here.state", tmp_path / "there.state"]
    there = cross(here, machine, PLAIN, "ARCH=")
    for where, folder, file in ((HERE, here, state[0]), (machine, there, state[1])):
        said(where, folder, "-n", "20", "-o", str(file), "a prompt that is longer than one block")
    assert state[0].read_bytes() == state[1].read_bytes()
    assert said(HERE, here, "-l", str(state[1]), "-n", "9", "") == said(
        machine, there, "-l", str(state[0]), "-n", "9", ""
    )


@pytest.mark.parametrize(("machine", "every"), KERNELS, ids=[machine.triple for machine, _ in KERNELS])
@pytest.mark.parametrize("stored", ENCODINGS)
def test_kernels_agree_with_plain_c(stored: str, machine: Machine, every: tuple[str, ...], made: Made) -> None:
    machine.require()
    here = made(stored)
    there = cross(here, machine, "CFLAGS=-O2")
    wanted = np.array(said(HERE, here, "--logits", *IDS).split(), float)
    for kernels in every:
        found = np.array(said(machine, there, "--logits", *IDS, env={"CDRMIX_KERNELS": kernels}).split(), float)
        assert rms(found, wanted) <= (1e-5 if stored[0] != "i" else 2e-3), kernels


def test_the_manifest_and_the_makefile_know_the_triple(tmp_path: Path) -> None:
    folder = artefact(tmp_path / "a", "f32", "riscv64-linux-gnu")
    assert json.loads((folder / "manifest.json").read_text())["triple"] == "riscv64-linux-gnu"
    RISCV64.require()
    make(folder, "cdrmix-run", "CFLAGS=-O0")
    assert os.access(folder / "cdrmix-run", os.X_OK)
    assert (folder / "cdrmix-run").read_bytes()[18] == 243  # RISC-V, in the header of a program


def test_the_library_of_a_browser_says_what_the_program_does(tmp_path: Path) -> None:
    """In Node: the page's script with the library over files in memory, the program over real ones."""
    WASM.require()
    folder = artefact(tmp_path / "a", "bf16", WASM.triple)
    make(folder, "CFLAGS=-O1")
    script, state = Path(__file__).parent / "stream.mjs", [tmp_path / "program.state", tmp_path / "library.state"]
    text = said(WASM, folder, "-n", "40", "-o", str(state[0]), "a prompt").decode()
    command = ["node", str(script), str(folder), "a prompt", "40", str(state[1])]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == text.removesuffix("\n")
    assert state[0].read_bytes() == state[1].read_bytes()
