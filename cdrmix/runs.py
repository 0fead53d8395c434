"""What a run's folder holds: its checkpoints, which of them are whole, and the one to go on from.

A run's folder holds `checkpoints/step-…/` and `last`, a link to the newest.  A checkpoint is `weights.safetensors`,
`optimizer.safetensors`, `tokenizer.json`, and their record, `trainer.json`; of a run that carries its state over, also
`state.safetensors`; of one that averages its weights, `ema.safetensors`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cdrmix.diagnose import UserError
from cdrmix.record import Damaged, check_files, read_record

LAST, CHECKPOINTS, RECORD = "last", "checkpoints", "trainer.json"
WEIGHTS, OPTIMISER, TOKENIZER = FILES = ("weights.safetensors", "optimizer.safetensors", "tokenizer.json")
STATE, AVERAGE = "state.safetensors", "ema.safetensors"
_STEP = re.compile(r"step-(\d+)", re.ASCII)
_SAYS: dict[str, type] = {"step": int, "hash": str, "config": dict, "data": str}

Found = TypeVar("Found")


def step_of(home: Path) -> int:
    """The step that a checkpoint's folder is called by; -1 for what is called otherwise."""
    found = _STEP.fullmatch(home.name)
    return int(found[1]) if found else -1


def checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints, whole or not: the one that `last` leads to, then the newest to the oldest."""
    homes = sorted((p for p in (run / CHECKPOINTS).glob("step-*") if step_of(p) >= 0 and p.is_dir()), key=step_of)
    last = run / LAST
    if not last.is_dir():
        return homes[::-1]
    first = next((p for p in homes if p.samefile(last)), last)
    return [first, *(p for p in reversed(homes) if p != first)]


def read_checkpoint(home: Path, files: Sequence[str] = FILES) -> dict[str, Any]:
    """The record of a checkpoint, its `files` compared with it.  Raises `Damaged`."""
    record = read_record(home / RECORD)
    wrong = [name for name, kind in _SAYS.items() if type(record.get(name)) is not kind]
    if wrong or record["step"] < 0:
        raise Damaged(f"{RECORD} says no `{(*wrong, 'step')[0]}`")
    check_files(home, record, files)
    return record


def first_whole(run: Path, take: Callable[[Path], Found]) -> tuple[Path, Found, dict[Path, Damaged]]:
    """The first checkpoint that `take` does not find damaged, what it gave, and those that it did."""
    damaged: dict[Path, Damaged] = {}
    for home in checkpoints(run):
        try:
            return home, take(home), damaged
        except Damaged as why:
            damaged[home] = why
    if not damaged:
        raise UserError(f"{run} holds no checkpoint", "give the folder of a training run that has saved one")
    told = "\n  ".join(f"{path}: {why}" for path, why in damaged.items())
    raise UserError(
        f"no checkpoint of {run} is whole:\n  {told}", "nothing was changed; bring one back, or train in another `out`"
    )


def tell_choice(run: Path, home: Path, damaged: Mapping[Path, Damaged]) -> None:
    """Say why `home` is taken where it is not what `last` leads to."""
    if damaged:
        said = "; ".join(f"{path} is damaged ({why})" for path, why in damaged.items())
        warnings.warn(f"{said}: {home} is taken", stacklevel=3)
    elif not (run / LAST).is_dir():
        warnings.warn(f"{run / LAST} leads nowhere: {home}, the newest whole checkpoint, is taken", stacklevel=3)


def whole_weights(run: Path) -> Path:
    """The weights of the checkpoint to go on from."""
    home, _, damaged = first_whole(run, lambda home: read_checkpoint(home, (WEIGHTS, TOKENIZER)))
    tell_choice(run, home, damaged)
    return home / WEIGHTS


def check_checkpoint(weights: Path) -> None:
    """Refuse weights that a record lies beside and that are not as it says."""
    if weights.name not in (WEIGHTS, AVERAGE) or not weights.with_name(RECORD).is_file():
        return
    try:
        read_checkpoint(weights.parent, (weights.name, TOKENIZER))
    except Damaged as why:
        raise UserError(
            f"{weights.parent} is damaged: {why}",
            f"give another checkpoint, or the run's folder; a copy of {weights.name} elsewhere is taken as it is",
        ) from why
