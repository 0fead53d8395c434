"""The first stage of training: a spec becomes a module.

Input: a checked model and what lowering made of it (its notes and hash are the run's), a folder that keeps the
generated source, and where the first weights come from: a seed, or a file that `check_weights` accepts.
Output: the generated module, ready to be placed.
"""

from __future__ import annotations

from pathlib import Path

import torch

from cdrmix.checkpoints import read_weights
from cdrmix.compiler import Lowered, emit
from cdrmix.diagnose import UserError
from cdrmix.ir.nodes import Model
from cdrmix.progress import doing
from cdrmix.runtime.torch.load import load_module
from cdrmix.runtime.torch.module import Streaming
from cdrmix.weights import atomic


def build(model: Model, lowered: Lowered, folder: Path, seed: int = 0, weights: Path | None = None) -> Streaming:
    """The module with the weights of the file, or with those that the spec's init rules draw from the seed."""
    write_source(lowered, folder)
    return read_source(model, folder, seed, weights)


def read_source(model: Model, folder: Path, seed: int, weights: Path | None) -> Streaming:
    """The same of source that is written already."""
    module = _construct(folder, seed if weights is None else None)
    if weights is not None:
        module.load_state_dict({name: torch.from_numpy(x) for name, x in read_weights(model, weights).items()})
    return module


def build_module(lowered: Lowered, folder: Path, seed: int | None) -> Streaming:
    """The generated module; without a seed, its weights are to be loaded next."""
    write_source(lowered, folder)
    return _construct(folder, seed)


def write_source(lowered: Lowered, folder: Path) -> None:
    """Write the module's source."""
    for name, content in emit(lowered, "torch").items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as f:
            f.write(content)


def _construct(folder: Path, seed: int | None) -> Streaming:
    with doing("making the first weights"):
        module: Streaming = load_module(folder / "model.py").Model(seed=seed, init=seed is not None)
    return module


def require_finite(module: Streaming, weights: Path) -> None:
    """Refuse to go on from the weights of a file that are not finite."""
    odd = [name for name, x in module.state_dict().items() if not x.isfinite().all()]
    if odd:
        raise UserError(f"{weights}: {odd[0]} holds numbers that are not finite", "start from another checkpoint")
