"""Weights that people have, matched to a model.

Input: a `.safetensors` file, a `.pth` of torch, or a folder that holds one, and a model.  Output: a function that gives
the model's tensors in float32, one in memory at a time.  A file that does not fit is refused with what is missing, what
is left over, and which of them are near each other; nothing in a file is ever run.

Types narrower than float32 are widened exactly.  Where the spec ties tensors, a file may hold any or all of the copies,
as long as they are equal.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from cdrmix.diagnose import UserError
from cdrmix.ir.layout import weights
from cdrmix.ir.nodes import Model
from cdrmix.runs import LAST, WEIGHTS, check_checkpoint, checkpoints, whole_weights
from cdrmix.runtime.encodings import Entry, by_rows
from cdrmix.weights import SHOWN, opened, owners, refuse_misfit

Read = Callable[[str], np.ndarray]

EXACT = {"F32", "F16", "BF16"}
"""The types that float32 holds."""

NESTED = ("state_dict", "model_state_dict", "model", "module")
"""Where training scripts keep the tensors inside a `.pth`."""


def find_weights(checkpoint: Path) -> Path:
    """The weights of a checkpoint: the file itself, a checkpoint's or an artefact's folder, or a run's last whole one.

    What training wrote is compared with its record.
    """
    run = checkpoint.parent if checkpoint.name == LAST and checkpoint.is_symlink() else checkpoint
    for found in (checkpoint, checkpoint / WEIGHTS):
        if found.is_file() and (run == checkpoint or not checkpoints(run)):
            check_checkpoint(found)
            return found
    if checkpoints(run):
        return whole_weights(run)
    raise UserError(
        f"no weights at {checkpoint}",
        "give a .safetensors or .pth file, a checkpoint folder, or the folder of a training run",
    )


def check_weights(model: Model, path: Path) -> None:
    """Refuse a file whose tensors are not the model's, and say which."""
    with reading(model, path):
        pass


def read_weights(model: Model, path: Path) -> dict[str, np.ndarray]:
    """The model's tensors, by owner path, from a file that `check_weights` accepts."""
    with reading(model, path) as read:
        return {w.path: read(w.path) for w in owners(model)}


@contextmanager
def reading(model: Model, path: Path) -> Iterator[Read]:
    """What gives a tensor in float32 by its owner's path.  Raises `UserError` for a file that does not fit."""
    with _tensors(path) as found:
        entries, read = _by_rows(model, *found)
        names = _match(model, path, entries, read)
        yield lambda owner: read(names[owner])


@contextmanager
def _tensors(path: Path) -> Iterator[tuple[Mapping[str, Entry], Read]]:
    """The tensors of a file and what reads one, whatever its format."""
    try:
        with path.open("rb") as f:
            start = f.read(2)
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}", "give a checkpoint that can be read") from e
    if start in (b"PK", b"\x80\x02"):  # a zip archive or a bare pickle: torch's new format and its old one
        yield _torch_file(path)
        return
    with opened(path) as (file, entries):
        yield entries, lambda name: _widened(path, file, name, entries[name])


def _widened(path: Path, file: Any, name: str, entry: Entry) -> np.ndarray:
    if entry.dtype != "BF16":
        return np.asarray(file.get_tensor(name), np.float32)
    with safe_open(str(path), framework="pt") as twin:  # numpy has no such type
        return np.asarray(twin.get_tensor(name).float().numpy())


def _torch_file(path: Path) -> tuple[Mapping[str, Entry], Read]:
    """A `.pth`, by torch's reader of plain tensors, which runs nothing that stands in the file."""
    import torch

    try:
        with path.open("rb") as f:
            mapped = f.read(2) == b"PK"
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as e:  # torch raises what it likes for a damaged file
        why = str(e).strip().split("\n")[0]
        raise UserError(
            f"{path} holds more than tensors, or is damaged ({why})",
            "save what `module.state_dict()` gives, by `safetensors.torch.save_file` or `torch.save`",
        ) from e
    for key in NESTED:
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
            break
    tensors = {str(n): x for n, x in held.items() if isinstance(x, torch.Tensor)} if isinstance(held, dict) else {}
    if not tensors:
        raise UserError(f"{path} holds no tensors by name", "save what `module.state_dict()` gives")
    types = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    entries = {
        n: Entry(tuple(x.shape), types.get(x.dtype, str(x.dtype).removeprefix("torch."))) for n, x in tensors.items()
    }
    return entries, lambda name: np.asarray(tensors[name].detach().to(torch.float32).numpy())


def _by_rows(model: Model, entries: Mapping[str, Entry], read: Read) -> tuple[Mapping[str, Entry], Read]:
    """The same of a file that has planes in blocks, as an artefact in 16 bits may."""
    rows = {w.path: Entry(w.shape, entries[w.path].dtype) for w in weights(model) if w.path in entries}
    laid = {n: entry for n, entry in rows.items() if entry.dtype in EXACT and entry.in_blocks == entries[n]}
    return {**entries, **laid}, lambda name: by_rows(read(name), laid[name]) if name in laid else read(name)


def _match(model: Model, path: Path, have: Mapping[str, Entry], read: Read) -> dict[str, str]:
    """The name in the file of each of the model's tensors, by the owner's path."""
    copies: dict[str, list[str]] = {w.path: [w.path] for w in owners(model)}
    for w in weights(model):
        if w.path != w.owner:
            copies[w.owner].append(w.path)
    want = {w.path: w.shape for w in owners(model)}
    found = {owner: [n for n in names if n in have] for owner, names in copies.items()}
    spare = sorted(have.keys() - {n for names in copies.values() for n in names})
    wrong = [text for owner, names in found.items() for n in names if (text := _unlike(n, have[n], want[owner]))] or [
        f"{', '.join(names)}: tied in the spec, and not equal in the file"
        for names in found.values()
        if any(not np.array_equal(read(names[0]), read(n)) for n in names[1:])
    ]
    for owner in (owner for owner, names in found.items() if not names):
        near = _nearest(owner, want[owner], spare, have) if len(wrong) < SHOWN else ""  # only where it will be shown
        wrong.append(f"{owner}: missing in the file{near}")
    wrong += [f"{n}: not in the spec" for n in spare]
    refuse_misfit(path, model.name, wrong)
    return {owner: names[0] for owner, names in found.items()}


def _unlike(name: str, found: Entry, shape: tuple[int, ...]) -> str:
    """What keeps a tensor of the file from being the spec's."""
    if found.shape != shape:
        turned = ": transposed?" if len(shape) == 2 and found.shape == shape[::-1] else ""
        return f"{name}: {found.shape} in the file, {shape} in the spec{turned}"
    return "" if found.dtype in EXACT else f"{name}: {found.dtype} in the file, not F32, F16 or BF16"


def _nearest(name: str, shape: tuple[int, ...], spare: Sequence[str], have: Mapping[str, Entry]) -> str:
    """The tensor of the file that may be meant: of this shape, or of as many numbers, and the nearest by name."""
    same = [n for n in spare if have[n].shape == shape]
    alike = same or [n for n in spare if math.prod(have[n].shape) == math.prod(shape)]
    near = difflib.get_close_matches(name, alike, n=1, cutoff=0.0)
    return f"; the nearest there is {near[0]} {have[near[0]].shape}" if near else ""
