"""Weights on disk: a streaming safetensors writer, and checkpoints matched to a model.

Input: (path, shape) and a function that makes one tensor at a time, so a model larger than memory can be written.
Output: a file that the safetensors library, torch and the C runtime map; its data starts at a multiple of 64 bytes.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from cdrmix.diagnose import UserError
from cdrmix.ir.layout import Weight, weights
from cdrmix.ir.nodes import Model

ALIGN = 64


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that appears whole or not at all: written beside its name, synced, renamed."""
    if path.is_dir():
        raise UserError(f"{path} is a folder", "give a file to write")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        file = part.open("wb")
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror}", "give a place that can be written") from e
    try:
        with file as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        part.unlink(missing_ok=True)


def write_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], make: Callable[[str], np.ndarray]) -> None:
    """Write float32 tensors, in the order of `shapes`, one in memory at a time."""
    header: dict[str, object] = {}
    at = 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGN)
    with atomic(path) as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            tensor = np.asarray(make(name), dtype="<f4", order="C")
            if tensor.shape != shape:
                raise ValueError(f"{name}: made {tensor.shape}, declared {shape}")
            f.write(tensor.tobytes())


def owners(model: Model) -> list[Weight]:
    """The tensors a file holds: every weight that owns its storage."""
    return [w for w in weights(model) if w.owner == w.path]


def find_weights(checkpoint: Path) -> Path:
    """The weights of a checkpoint: the file itself, a checkpoint's or an artefact's folder, or a run's last one."""
    for found in (checkpoint, checkpoint / "weights.safetensors", checkpoint / "last" / "weights.safetensors"):
        if found.is_file():
            return found
    raise UserError(
        f"no weights at {checkpoint}", "give a .safetensors file, a checkpoint folder, or the folder of a training run"
    )


def check_weights(model: Model, path: Path) -> None:
    """Refuse a file whose tensors are not the model's, and say which."""
    try:
        with safe_open(str(path), framework="numpy") as f:
            slices = {name: f.get_slice(name) for name in f.keys()}  # noqa: SIM118 (not a dict)
            have = {name: tuple(x.get_shape()) for name, x in slices.items()}
            kinds = {name: x.get_dtype() for name, x in slices.items()}
    except (SafetensorError, OSError) as e:
        raise UserError(
            f"{path} is not a readable safetensors file ({e})", "give the checkpoint that training wrote"
        ) from e
    want = {w.path: w.shape for w in owners(model)}
    wrong = [f"{n}: {have[n]} in the file, {s} in the spec" for n, s in want.items() if n in have and have[n] != s]
    wrong += [f"{n}: {kinds[n]} in the file, not F32" for n in want if kinds.get(n, "F32") != "F32"]
    wrong += [f"{n}: missing in the file" for n in want if n not in have]
    wrong += [f"{n}: not in the spec" for n in have if n not in want]
    if wrong:
        more = f"\n  … and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise UserError(
            f"{path} does not fit {model.name}:\n  " + "\n  ".join(wrong[:8]) + more,
            "use the spec and the --set options the checkpoint was trained with",
        )


def read_weights(model: Model, path: Path) -> dict[str, np.ndarray]:
    """The model's tensors, by owner path, from a file that `check_weights` accepts."""
    check_weights(model, path)
    with safe_open(str(path), framework="numpy") as f:
        return {w.path: f.get_tensor(w.path) for w in owners(model)}
