"""What is the same everywhere: an artefact's bytes on every machine, and plain C's results by every compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cdrmix.artifact import write_artifact
from cdrmix.check import load
from cdrmix.compiler import lower
from cdrmix.ir.initial import random_weights
from cdrmix.weights import write_weights
from tests.fuzz import ENCODED, SPEC

from .c_program import CLANG, Stream, library, needs_compiler
from .c_program import load as load_library


def test_an_artefact_is_the_same_bytes_whatever_the_folder_and_the_hashes(tmp_path: Path) -> None:
    """Compiled by processes whose sets and dictionaries of texts have other orders, in folders of other names."""
    running = []
    for n, name in ((0, "a"), (1, "another"), (12345, "in/a folder")):
        home = tmp_path / name
        home.mkdir(parents=True)
        shutil.copy(SPEC, home / "model.cdr")
        command = [sys.executable, "-m", "cdrmix.cli", "compile", "model.cdr", "--target", "cpu", "--quant", "i4"]
        command += [*(part for rule in ENCODED for part in ("--encode", rule)), "-o", "made"]
        env = {**os.environ, "PYTHONHASHSEED": str(n)}
        running.append((home / "made", subprocess.Popen(command, cwd=home, env=env, stderr=subprocess.PIPE)))
    found = []
    for folder, process in running:
        said = process.communicate()[1]
        assert process.returncode == 0, said
        found.append({f.name: f.read_bytes() for f in sorted(folder.iterdir())})
    assert len(found[0]) == 8 and found[0] == found[1] == found[2]


@needs_compiler
def test_plain_c_has_the_same_bits_by_every_compiler(tmp_path: Path) -> None:
    """Matrices of every encoding; whatever is optimised, by gcc and, where it is there, clang."""
    model, given = load(SPEC), tmp_path / "given.safetensors"
    weights = random_weights(model, 1)
    write_weights(given, {n: x.shape for n, x in weights.items()}, weights.__getitem__)
    folder = tmp_path / "artefact"
    write_artifact(lower(model, weights="i4", rules=ENCODED), "cpu", folder, given)
    ids, found = np.random.default_rng(3).integers(0, model.vocab, 40).tolist(), []
    for compiler, optimise in (("gcc", "-O0"), ("gcc", "-O3"), (CLANG, "-O3")):
        if compiler and shutil.which(compiler):
            program = library(folder, optimise, "-DCDR_PLAIN", compiler=compiler)
            copy = program.rename(tmp_path / f"{len(found)}.so")
            stream = Stream(model, load_library(copy), folder / "weights.safetensors")
            found.append([stream.prefill(ids[:30]).tobytes(), *(stream.step(t).tobytes() for t in ids[30:])])
    if len(found) < 2:
        pytest.skip("no gcc")
    assert all(logits == found[0] for logits in found)
