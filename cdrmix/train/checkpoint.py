"""Checkpoints: whole or absent, and enough to go on bit by bit.

Input: a run's folder (`cdrmix/runs.py`), whose lock this process holds, a module, its optimiser and, of a run that has
them, the state its next step begins from and the average of its weights.
Output: a checkpoint on disk, or its tensors back in all of these.  Nothing is unpickled; what is read back is compared
with the checkpoint's record, and its tensors with those of the module.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cdrmix.diagnose import UserError
from cdrmix.record import Damaged, check_files, write_record
from cdrmix.runs import (
    AVERAGE,
    CHECKPOINTS,
    LAST,
    OPTIMISER,
    RECORD,
    STATE,
    TOKENIZER,
    WEIGHTS,
    read_checkpoint,
    step_of,
)
from cdrmix.runtime.parts import part_of, remove, sync, whole_folder
from cdrmix.train.average import Average
from cdrmix.train.optimiser import kept


def save_checkpoint(
    run: Path,
    step: int,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    tokenizer: str,
    about: dict[str, Any],
    keep: int,
    state: Mapping[str, Tensor] | None = None,
    average: Average | None = None,
) -> Path:
    """Write the checkpoint of a step, point `last` at it and keep `keep`: this one and the newest before it."""
    home = run / CHECKPOINTS / f"step-{step:08d}"
    names = {p: name for name, p in module.named_parameters()}
    weights = {n: x.detach().contiguous() for n, x in module.state_dict().items()}
    moments = {
        f"{names[p]}:{key}": value.detach().contiguous()
        for group in optimiser.param_groups
        for p in group["params"]
        for key, value in optimiser.state.get(p, {}).items()
    }
    files = {WEIGHTS: weights, OPTIMISER: moments}
    if state is not None:
        files[STATE] = {n: x.contiguous() for n, x in state.items()}
    if average is not None:
        files[AVERAGE] = {n: x.contiguous() for n, x in average.state().items()}
    try:
        with whole_folder(home) as part:
            for name, tensors in files.items():
                save_file(tensors, str(part / name))
            (part / TOKENIZER).write_text(tokenizer, encoding="utf-8")
            write_record(part / RECORD, {"step": step, **about}, (*files, TOKENIZER))
            if not (run / LAST).exists():
                point_last(run, home)  # a run's first checkpoint is there under both names at once
        point_last(run, home)
        before = sorted((p for p in home.parent.glob("step-*") if 0 <= step_of(p) < step), key=step_of)
        for old in before[: max(0, len(before) - keep + 1)]:
            remove(old)
    except (OSError, SafetensorError, Damaged) as e:
        raise UserError(
            f"cannot write the checkpoint of step {step}, {home}: {getattr(e, 'strerror', None) or e}",
            "make room where it is written; --resume goes on from the checkpoint before, if there is one",
        ) from e
    return home


def point_last(run: Path, home: Path) -> None:
    """Let `last` lead to a checkpoint."""
    link = part_of(run / LAST)
    link.unlink(missing_ok=True)
    link.symlink_to(home.relative_to(run))
    link.replace(run / LAST)
    sync(run)


def set_aside(home: Path) -> None:
    """Rename a damaged checkpoint, so that it counts as none and nothing of it is lost."""
    names = (f"{home.name}.damaged{n or ''}" for n in count())
    home.rename(next(p for name in names if not (p := home.with_name(name)).exists()))
    sync(home.parent)


def load_checkpoint(
    home: Path,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    state: dict[str, Tensor] | None = None,
    average: Average | None = None,
) -> dict[str, Any]:
    """Put a checkpoint's tensors into the module, the optimiser, the state and the average, and return its record.

    Raises `Damaged`, before anything is changed, where a file or a tensor is not what it has to be.
    """
    about = read_checkpoint(home)
    weights, moments = _tensors(home / WEIGHTS), _tensors(home / OPTIMISER)
    have = module.state_dict()
    parameters = dict(module.named_parameters())
    named, keys = {name.rpartition(":")[0] for name in moments}, kept(optimiser)
    of_each = {n: keys[p] for n, p in parameters.items() if n in named and p in keys}
    one = torch.zeros(())
    _compare(WEIGHTS, weights, have)
    _compare(
        OPTIMISER,
        moments,
        {f"{n}:{key}": one if key == "step" else have[n] for n, own in of_each.items() for key in own},
    )
    if state is not None:
        check_files(home, about, (STATE,))
        held = _tensors(home / STATE)
        if held:  # none, where the next step begins anew
            _compare(STATE, held, module.init_state(about["config"].get("batch", 1)))  # type: ignore[operator]
    if average is not None:
        check_files(home, about, (AVERAGE,))
        averaged = _tensors(home / AVERAGE)
        _compare(AVERAGE, averaged, have)
        average.load(averaged)
    if state is not None:
        state.clear()
        state.update(held)
    module.load_state_dict(weights)
    optimiser.state.clear()
    for name, value in moments.items():
        path, _, key = name.rpartition(":")
        optimiser.state[parameters[path]][key] = value.to(parameters[path].device)
    return about


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(str(file))
    except (OSError, SafetensorError, ValueError, KeyError) as e:
        raise Damaged(f"{file.name}: {e}") from e


def _compare(file: str, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found:
            raise Damaged(f"{file}: {name} is missing")
        if name not in wanted:
            raise Damaged(f"{file}: {name} belongs to nothing")
        one, two = found[name], wanted[name]
        if (one.shape, one.dtype) != (two.shape, two.dtype):
            kinds = [f"{x.dtype}".removeprefix("torch.") + f" {list(x.shape)}" for x in (one, two)]
            raise Damaged(f"{file}: {name} is {kinds[0]}, not {kinds[1]}")
