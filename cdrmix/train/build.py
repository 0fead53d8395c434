"""The first stage of training: a spec becomes a module.

Input: a checked model and what lowering made of it (its notes and hash are the run's), a folder that keeps the
generated source, and where the first weights come from: a seed, or a file that `check_weights` accepts.
Output: the generated module, ready to be placed; its first values, before or after it is.
"""

from __future__ import annotations

from pathlib import Path

import torch

from cdrmix.checkpoints import reading
from cdrmix.compiler import Lowered, emit
from cdrmix.diagnose import UserError
from cdrmix.ir.nodes import Model
from cdrmix.progress import doing
from cdrmix.runtime.torch.load import load_module
from cdrmix.runtime.torch.module import Streaming
from cdrmix.train.shard import own, put
from cdrmix.weights import atomic


def build(model: Model, lowered: Lowered, folder: Path, seed: int = 0, weights: Path | None = None) -> Streaming:
    """The module with the weights of the file, or with those that the spec's init rules draw from the seed."""
    write_source(lowered, folder)
    module = read_source(folder)
    fill(module, model, seed, weights)
    return module


def build_module(lowered: Lowered, folder: Path, seed: int | None) -> Streaming:
    """The generated module; without a seed, its weights are to be loaded next."""
    write_source(lowered, folder)
    return read_source(folder, seed)


def write_source(lowered: Lowered, folder: Path) -> None:
    """Write the module's source."""
    for name, content in emit(lowered, "torch").items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as f:
            f.write(content)


def read_source(folder: Path, seed: int | None = None) -> Streaming:
    """The module of source that is written already; without a seed, memory that nothing was written to yet."""
    module: Streaming = load_module(folder / "model.py").Model(seed=seed, init=seed is not None)
    return module


@torch.no_grad()
def fill(module: Streaming, model: Model, seed: int, weights: Path | None) -> None:
    """Give a module its first values, those of the file or drawn from the seed: where it is sharded, this rank's rows.

    Only one op's values, or one tensor of the file, are whole in memory at a time.
    """
    if weights is None:
        into = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
        with doing("making the first weights"):
            for path, x in module.drawn(seed):
                put(into[path], x)
        return
    with reading(model, weights) as read:
        for path, tensor in module.state_dict().items():
            put(tensor, torch.from_numpy(read(path)))


def require_finite(module: Streaming, weights: Path) -> None:
    """Refuse to go on from the weights of a file that are not finite."""
    odd = [name for name, x in module.state_dict().items() if not own(x).isfinite().all()]
    if odd:
        raise UserError(f"{weights}: {odd[0]} holds numbers that are not finite", "start from another checkpoint")
