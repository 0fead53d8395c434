"""Artefacts of specs whose kernels the mock driver runs: the generated CUDA C or LLVM IR, built for a CPU.

Input: a checked model.  Output: the artefact's folder; it holds no machine code, which takes long to make and cannot
run here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cdrmix.codegen.tinygrad import artefact as compiler
from cdrmix.codegen.tinygrad import runner, toolchain
from safetensors.numpy import save_file

from cdrmix.artifact import write_artifact
from cdrmix.compiler import lower
from cdrmix.ir.initial import random_weights
from cdrmix.ir.nodes import Model, Stored

from . import build, ir
from .conftest import Built

ARCHS = {"cuda": "sm_90", "rocm": "gfx1100"}


def artefact(
    model: Model,
    folder: Path,
    built: Built,
    patch: pytest.MonkeyPatch,
    target: str = "cuda",
    weights: Stored = "f32",
    batches: Sequence[int] = (1,),
    blocks: Sequence[int] = (8,),
) -> tuple[Path, Model]:
    """The artefact, with random weights, and the model as it is stored; `folder/mock/kernels.so` are its kernels."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(random_weights(model, 1), folder / "checkpoint.safetensors")
    patch.setattr(toolchain, "require", lambda *_: None)
    patch.setattr(compiler, "_build", lambda archs, text, jobs: [b"machine code, not made here" for _ in archs])
    patch.setattr(runner, "files", lambda: {"libmodel.so": (built.runner / "libmodel.so").read_bytes()})
    options: Mapping[str, Any] = {"arch": (ARCHS[target],), "batch": tuple(batches), "block": tuple(blocks)}
    out = folder / "artefact"
    lowered = lower(model, weights=weights)
    write_artifact(lowered, target, out, folder / "checkpoint.safetensors", options=options)
    aside = folder / "mock"
    aside.mkdir(exist_ok=True)
    if target == "cuda":
        build.kernels((out / "kernels.cu").read_text(), aside)
    else:
        ir.kernels((out / "kernels.ll").read_text(), aside)
    return out, lowered.program.model


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, beside the largest value."""
    x, y = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert x.shape == y.shape, (x.shape, y.shape)
    return float(np.max(np.abs(x - y), initial=0) / max(1e-3, np.max(np.abs(y), initial=0)))
