"""Compile a model for the `tenstorrent` target, run its kernels over the emulation, and compare with the interpreter.

Input: a checked model, how its matrices are stored, how many cores a line may use.
Output: relative RMS errors of the logits and of every piece of the final state, and how often the likeliest token
agrees.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime.session import Session, read_manifest

from cdrmix.artifact import write_artifact
from cdrmix.compiler import backend, lower, options_of
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Model, Stored
from cdrmix.packing import read_values
from cdrmix.passes.encodings import encode
from cdrmix.passes.precision import decide_precision
from cdrmix.verification import relative_rms
from cdrmix.weights import owners, write_weights

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="the emulation builds kernels with g++"
)
TOLERANCES = backend("tenstorrent").tolerances


@dataclass(frozen=True, slots=True)
class Found:
    """What a comparison found: errors by what they are of, and the share of tokens whose likeliest successor agrees."""

    errors: dict[str, float]
    agreement: float

    @property
    def worst(self) -> float:
        """The largest error, NaN where there is one."""
        return float(np.max(list(self.errors.values())))


def ids_of(model: Model, count: int) -> list[int]:
    """Random tokens."""
    return [int(t) for t in np.random.default_rng(0).integers(0, model.vocab, count)]


def compile_to(
    folder: Path,
    model: Model,
    stored: Stored = "f32",
    cores: int | None = None,
    device: str = "n150",
    seed: int = 0,
    rules: Sequence[str] = (),
) -> Path:
    """An artefact of the model with every parameter randomised, in `folder`."""
    weights = random_weights(model, seed)
    given = folder.with_name(f"{folder.name}.safetensors")
    write_weights(given, {w.path: w.shape for w in owners(model)}, weights.__getitem__)
    options = options_of("tenstorrent", {"device": device, "cores": cores}, stored)
    write_artifact(lower(model, weights=stored, rules=rules), "tenstorrent", folder, given, options=options)
    return folder


def definition(folder: Path, model: Model) -> Interpreter:
    """The interpreter with the values that the artefact's program computes with."""
    manifest = read_manifest(folder)
    decided = decide_precision(encode(model, manifest["stored"], manifest["encode"]))
    order = backend("tenstorrent").arrange(manifest, decided)
    return Interpreter(decided, read_values(decided, folder / "weights.safetensors", order))


def compare(folder: Path, model: Model, ids: Sequence[int]) -> Found:
    """Run the tokens one by one; CDR_DEVICE has to say `emulated`."""
    wanted, state = definition(folder, model).run(list(ids))
    with Session.open(folder) as session:
        logits = np.stack([session.step(token) for token in ids])
        found = session.state()
    errors = {"logits": relative_rms(logits, np.asarray(wanted))}
    errors |= {path: relative_rms(value, np.asarray(state[path])) for path, value in found.items()}
    return Found(errors, float(np.mean(logits.argmax(-1) == np.asarray(wanted).argmax(-1))))
