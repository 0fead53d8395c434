"""Checkpoints: whole or absent, and enough to go on bit by bit.

A run's folder holds `checkpoints/step-…/` with `weights.safetensors`, `optimizer.safetensors`, `trainer.json` and
`tokenizer.json`, and `last`, a link to the newest.  Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cdrmix.diagnose import UserError

LAST = "last"


def save_checkpoint(
    run: Path,
    step: int,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    tokenizer: str,
    about: dict[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of a step, point `last` at it and keep `keep`: this one and the newest before it."""
    folder = run / "checkpoints"
    home = folder / f"step-{step:08d}"
    part = folder / f".{home.name}.{os.getpid()}.part"
    for left in folder.glob(".step-*.part"):  # of a save that was killed
        shutil.rmtree(left)
    part.mkdir(parents=True)
    names = {p: name for name, p in module.named_parameters()}
    save_file({n: x.detach().contiguous() for n, x in module.state_dict().items()}, str(part / "weights.safetensors"))
    moments = {
        f"{names[p]}:{key}": value.detach().contiguous()
        for group in optimiser.param_groups
        for p in group["params"]
        for key, value in optimiser.state.get(p, {}).items()
    }
    save_file(moments, str(part / "optimizer.safetensors"))
    (part / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    (part / "trainer.json").write_text(json.dumps({"step": step, **about}, indent=1), encoding="utf-8")
    for file in (*part.iterdir(), part):
        _sync(file)
    shutil.rmtree(home, ignore_errors=True)
    part.rename(home)
    _sync(folder)
    link = run / f".{LAST}.{os.getpid()}.part"
    link.unlink(missing_ok=True)
    link.symlink_to(home.relative_to(run))
    link.replace(run / LAST)
    _sync(run)
    # a run that was resumed from an older checkpoint has later ones that are not its own
    before = sorted(old for old in folder.glob("step-*") if old.name < home.name)
    for old in before[: max(0, len(before) - keep + 1)]:
        shutil.rmtree(old)
    return home


def read_about(run: Path) -> dict[str, Any]:
    """`trainer.json` of the run's last checkpoint."""
    path = run / LAST / "trainer.json"
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UserError(f"nothing to resume in {run}: no checkpoint", "leave --resume out to start") from e
    except ValueError as e:
        raise UserError(f"{path} is damaged: {e}", f"point {run / LAST} at an older checkpoint") from e
    if not isinstance(about, dict) or not {"step", "hash", "config", "data"} <= about.keys():
        raise UserError(f"{path} is damaged: it lacks what a run goes on from", "point `last` at an older checkpoint")
    return about


def load_checkpoint(run: Path, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put the last checkpoint's tensors into the module and the optimiser."""
    home = run / LAST
    try:
        module.load_state_dict(load_file(str(home / "weights.safetensors")))
        moments = load_file(str(home / "optimizer.safetensors"))
    except Exception as e:
        raise UserError(f"the checkpoint {home} cannot be read: {e}", "point `last` at an older checkpoint") from e
    parameters = dict(module.named_parameters())
    for name, value in moments.items():
        path, key = name.rsplit(":", 1)
        optimiser.state[parameters[path]][key] = value


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
