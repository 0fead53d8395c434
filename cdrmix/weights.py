"""Weights on disk: a streaming safetensors writer, and files that appear whole or not at all.

Input: (path, shape) and a function that makes one tensor at a time, so a model larger than memory can be written.
Output: a file that the safetensors library, torch and the C runtime map; its data starts at a multiple of 64 bytes.
"""

from __future__ import annotations

import errno
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from cdrmix.diagnose import UserError
from cdrmix.ir.layout import Weight, weights
from cdrmix.ir.nodes import Model
from cdrmix.progress import over
from cdrmix.runtime.encodings import HELD, Entry
from cdrmix.runtime.outputs import output
from cdrmix.runtime.saved import FINGERPRINT

ALIGN = 64

SHOWN = 8
"""How many mismatches are told."""

UNKNOWN = "?" * 16
"""A fingerprint that is not known yet."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk, a used-up quota, a file that may not grow."""


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that appears whole or not at all, as `runtime.outputs` writes it.  Raises `UserError`."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(output(path))
        except OSError as e:
            raise UserError(f"cannot write {path}: {e.strerror}", "give a place that can be written") from e
        try:
            yield file
        except OSError as e:
            if e.errno not in NO_SPACE or e.filename is not None:
                raise  # of what the writer read
            raise UserError(f"cannot write {path}: {e.strerror}", "make room, or give another place") from e


def write_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], make: Callable[[str], np.ndarray]) -> None:
    """Write float32 tensors, in the order of `shapes`, one in memory at a time."""
    write_tensors(path, {name: Entry(shape) for name, shape in shapes.items()}, make)


def write_tensors(
    path: Path,
    entries: Mapping[str, Entry],
    make: Callable[[str], np.ndarray],
    fingerprint: Callable[[], int] | None = None,
) -> None:
    """Write tensors, those of whole cache lines first and of the types with the most bytes, one in memory at a time.

    `fingerprint`, where given, is asked for when all are made, and put into the header.
    """
    header: dict[str, object] = {} if fingerprint is None else {"__metadata__": {FINGERPRINT: UNKNOWN}}
    units = {name: np.dtype(HELD[entry.dtype]).itemsize for name, entry in entries.items()}
    at, sizes = 0, {name: units[name] * math.prod(entry.shape) for name, entry in entries.items()}
    order = sorted(entries, key=lambda name: (sizes[name] % ALIGN > 0, -units[name]))  # keeps all aligned
    for name in order:
        entry, end = entries[name], at + sizes[name]
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGN)
    with atomic(path) as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name in over(order, f"writing {path.name}", len(order), "tensors"):
            tensor = np.asarray(make(name), dtype=HELD[entries[name].dtype], order="C")
            if tensor.shape != entries[name].shape:
                raise ValueError(f"{name}: made {tensor.shape}, declared {entries[name].shape}")
            f.write(tensor.tobytes())
        if fingerprint is not None:
            f.seek(8 + text.index(UNKNOWN.encode()))
            f.write(f"{fingerprint():016x}".encode())


def owners(model: Model) -> list[Weight]:
    """The tensors a file holds: every weight that owns its storage."""
    return [w for w in weights(model) if w.owner == w.path]


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, dict[str, Entry]]]:
    """A safetensors file, by the library's reader, and what it holds.  Raises `UserError` for what is none."""
    try:
        file = safe_open(str(path), framework="numpy")
        slices = {n: file.get_slice(n) for n in file.keys()}  # noqa: SIM118 (not a dict)
        entries = {n: Entry(tuple(x.get_shape()), x.get_dtype()) for n, x in slices.items()}
    except (SafetensorError, OSError) as e:
        raise UserError(
            f"{path} is not a readable safetensors file ({e})", "give the checkpoint that training wrote"
        ) from e
    with file:
        yield file, entries


def check_tensors(path: Path, want: Mapping[str, Entry], name: str) -> None:
    """Refuse a file whose tensors are not these, row by row or in blocks, and say which."""
    with opened(path) as (_, held):
        have = {n: want[n] if n in want and entry == want[n].in_blocks else entry for n, entry in held.items()}
    shared = [(n, have[n], entry) for n, entry in want.items() if n in have]
    wrong = [f"{n}: {h.shape} in the file, {w.shape} in the spec" for n, h, w in shared if h.shape != w.shape]
    wrong += [f"{n}: {h.dtype} in the file, not {w.dtype}" for n, h, w in shared if h.dtype != w.dtype]
    wrong += [f"{n}: missing in the file" for n in want if n not in have]
    wrong += [f"{n}: not in the spec" for n in have if n not in want]
    refuse_misfit(path, name, wrong)


def refuse_misfit(path: Path, name: str, wrong: Sequence[str]) -> None:
    """Refuse a file that does not fit the model `name`, where anything is wrong, and say the first of what is."""
    if wrong:
        more = f"\n  … and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UserError(
            f"{path} does not fit {name}:\n  " + "\n  ".join(wrong[:SHOWN]) + more,
            "use the spec and the --set options the checkpoint was trained with",
        )
