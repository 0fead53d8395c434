"""One safetensors file that all ranks write and read at once, each the rows it holds.

Input: a file on a disk that all ranks see, and tensors by name, of which each rank has some rows.
Output: the same bytes whatever the number of ranks, so that any number of them, and whoever else knows the format, can
read the file.  A rank writes and reads its own rows alone: no rank ever holds a whole tensor that it has a share of.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cdrmix.record import Damaged
from cdrmix.train.ranks import Ranks
from cdrmix.train.shard import keeps, own, own_rows

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Share:
    """What a rank has of a tensor: `rows` are where each stretch of its rows begins, and the stretch."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: tuple[tuple[int, Tensor], ...]

    @classmethod
    def of(cls, x: Tensor, ranks: Ranks) -> Share:
        """This rank's share of a tensor, sharded or not: nothing, where another writes the same."""
        rows = ((own_rows(x).start, own(x)),) if keeps(x, ranks) else ()
        return cls(tuple(x.shape), x.dtype, rows)

    @classmethod
    def of_batch(cls, x: Tensor, batch: int, rows: Sequence[slice]) -> Share:
        """Its rows of a batch, one stretch after the other in x."""
        stretches = x.split([r.stop - r.start for r in rows])
        found = tuple((r.start, part) for r, part in zip(rows, stretches, strict=True))
        return cls((batch, *x.shape[1:]), x.dtype, found)


Kind = tuple[str, tuple[int, ...]]
"""The type of a tensor, as torch calls it, and its shape."""


def kind_of(x: Tensor | Share) -> Kind:
    """The kind of a tensor, or of one that a rank has a share of."""
    return str(x.dtype).removeprefix("torch."), tuple(x.shape)


def write_tensors(file: Path, tensors: Mapping[str, Share], ranks: Ranks) -> None:
    """Write the file, and let it be on the disk.  Raises OSError at all ranks."""
    order = sorted(tensors, key=lambda n: (-tensors[n].dtype.itemsize, n))  # so every tensor is aligned
    header, begins, at = dict[str, Any](), dict[str, int](), 0
    for name in order:
        x = tensors[name]
        begins[name], size = at, prod(x.shape) * x.dtype.itemsize
        header[name] = {"dtype": _NAMES[x.dtype], "shape": list(x.shape), "data_offsets": [at, at := at + size]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    start = 8 + len(text)

    def begin() -> None:
        with file.open("xb") as f:
            f.write(len(text).to_bytes(8, "little") + text)
            f.truncate(start + at)

    def write() -> None:
        with file.open("r+b", buffering=0) as f:
            for name in order:
                x = tensors[name]
                row = prod(x.shape[1:]) * x.dtype.itemsize
                for first, rows in x.rows:
                    _write_at(f.fileno(), start + begins[name] + first * row, rows)
            os.fsync(f.fileno())

    ranks.once(begin)
    ranks.together(write)


def _write_at(handle: int, at: int, x: Tensor) -> None:
    left = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    while left:
        done = os.pwrite(handle, left[: 1 << 30], at)
        left, at = left[done:], at + done


def kinds_of(file: Path) -> dict[str, Kind]:
    """Type and shape of each tensor of a file.  Raises `Damaged`."""
    try:
        with safe_open(str(file), "pt") as f:
            slices = {name: f.get_slice(name) for name in f.keys()}  # noqa: SIM118 (it is no mapping)
            called = {name: str(dtype).removeprefix("torch.") for dtype, name in _NAMES.items()}
            return {
                name: (called.get(x.get_dtype(), x.get_dtype()), tuple(x.get_shape())) for name, x in slices.items()
            }
    except (OSError, SafetensorError, ValueError, KeyError) as e:
        raise Damaged(f"{file.name}: {e}") from e


def read_rows(file: Path, into: Mapping[str, Tensor]) -> None:
    """Fill tensors, sharded or not, with what the file has of them: a rank reads its own rows."""
    with safe_open(str(file), "pt") as f, torch.no_grad():
        for name, x in into.items():
            mine, rows = own(x), own_rows(x)
            if mine.numel():
                mine.copy_(f.get_slice(name)[rows] if x.dim() else f.get_tensor(name))


def read_batch(file: Path, rows: Sequence[slice]) -> dict[str, Tensor]:
    """These rows of all tensors of a file, one stretch after the other."""
    with safe_open(str(file), "pt") as f:
        return {name: torch.cat([f.get_slice(name)[r] for r in rows]) for name in f.keys()}  # noqa: SIM118
