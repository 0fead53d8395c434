"""Checkpoints: whole or absent, and enough to go on bit by bit.

Input: a run's folder (`cdrmix/runs.py`), whose lock the first rank holds, a module, its optimiser and, of a run that
has them, the state its next step begins from and the average of its weights.
Output: a checkpoint on disk, or its tensors back in all of these.  Nothing is unpickled; what is read back is compared
with the checkpoint's record, and its tensors with those of the module.  Nothing in it depends on how many ranks there
are: any number of them goes on from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
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
from cdrmix.runtime.torch.module import Streaming
from cdrmix.train.average import Average
from cdrmix.train.optimiser import kept
from cdrmix.train.ranks import ALONE, Ranks
from cdrmix.train.tensor_file import Kind, Share, kind_of, kinds_of, read_batch, read_rows, write_tensors


def save_checkpoint(
    run: Path,
    step: int,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    tokenizer: str,
    about: dict[str, Any],
    keep: int,
    state: Mapping[str, Share] | None = None,
    average: Average | None = None,
    ranks: Ranks = ALONE,
) -> Path:
    """Write the checkpoint of a step, point `last` at it and keep `keep`: this one and the newest before it.

    All ranks write into the same files, each its share; the first alone writes what is small, and makes the folder.
    """
    home = run / CHECKPOINTS / f"step-{step:08d}"
    names = {p: name for name, p in module.named_parameters()}
    weights = {n: Share.of(x, ranks) for n, x in module.state_dict().items()}
    moments = {
        f"{names[p]}:{key}": Share.of(value, ranks)
        for group in optimiser.param_groups
        for p in group["params"]
        for key, value in optimiser.state.get(p, {}).items()
    }
    files = {WEIGHTS: weights, OPTIMISER: moments}
    if state is not None:
        files[STATE] = dict(state)
    if average is not None:
        files[AVERAGE] = {n: Share.of(x, ranks) for n, x in average.state().items()}

    def finish(part: Path) -> None:
        (part / TOKENIZER).write_text(tokenizer, encoding="utf-8")
        write_record(part / RECORD, {"step": step, **about}, (*files, TOKENIZER))
        if not (run / LAST).exists():
            point_last(run, home)  # a run's first checkpoint is there under both names at once

    def drop() -> None:
        point_last(run, home)
        before = sorted((p for p in home.parent.glob("step-*") if 0 <= step_of(p) < step), key=step_of)
        for old in before[: max(0, len(before) - keep + 1)]:
            remove(old)

    try:
        with ranks.within(lambda: whole_folder(home)) as part:
            for name, tensors in files.items():
                write_tensors(part / name, tensors, ranks)
            ranks.once(lambda: finish(part))
        ranks.once(drop)
    except (OSError, Damaged) as e:
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


def check_checkpoint(
    home: Path, module: Streaming, optimiser: torch.optim.Optimizer, carries: bool = False, averages: bool = False
) -> dict[str, Any]:
    """The record of a checkpoint that is whole, and of this module and optimiser.  Raises `Damaged`."""
    about = read_checkpoint(home)
    parameters = dict(module.named_parameters())
    moments, keys = kinds_of(home / OPTIMISER), kept(optimiser)
    named = {name.rpartition(":")[0] for name in moments}
    of_each = {n: keys[p] for n, p in parameters.items() if n in named and p in keys}
    _compare(WEIGHTS, kinds_of(home / WEIGHTS), module.state_dict())
    one = torch.zeros(())
    wanted = {f"{n}:{key}": one if key == "step" else parameters[n] for n, own in of_each.items() for key in own}
    _compare(OPTIMISER, moments, wanted)
    if carries:
        check_files(home, about, (STATE,))
        held = kinds_of(home / STATE)
        if held:  # none, where the next step begins anew
            _compare(STATE, held, module.init_state(about["config"].get("batch", 1)))
    if averages:
        check_files(home, about, (AVERAGE,))
        _compare(AVERAGE, kinds_of(home / AVERAGE), module.state_dict())
    return about


def load_checkpoint(
    home: Path, module: nn.Module, optimiser: torch.optim.Optimizer, average: Average | None = None
) -> None:
    """Put the tensors of a checkpoint that was checked into all of these: of each this rank's share."""
    parameters = dict(module.named_parameters())
    read_rows(home / WEIGHTS, module.state_dict())  # which are the module's own, under the names of a file
    moments = dict[str, Tensor]()
    optimiser.state.clear()
    for name in kinds_of(home / OPTIMISER):
        path, _, key = name.rpartition(":")
        p = parameters[path]
        moments[name] = torch.zeros((), device=p.device) if key == "step" else torch.zeros_like(p, requires_grad=False)
        optimiser.state[p][key] = moments[name]
    read_rows(home / OPTIMISER, moments)
    if average is not None:
        read_rows(home / AVERAGE, average.tensors)


def load_state(home: Path, rows: Sequence[slice]) -> dict[str, Tensor]:
    """The state that these rows of the next batch begin with; empty where they begin anew."""
    return read_batch(home / STATE, rows)


def _compare(file: str, found: Mapping[str, Kind], tensors: Mapping[str, Tensor]) -> None:
    wanted = {name: kind_of(x) for name, x in tensors.items()}
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found:
            raise Damaged(f"{file}: {name} is missing")
        if name not in wanted:
            raise Damaged(f"{file}: {name} belongs to nothing")
        if found[name] != wanted[name]:
            one, two = (f"{dtype} {list(shape)}" for dtype, shape in (found[name], wanted[name]))
            raise Damaged(f"{file}: {name} is {one}, not {two}")
