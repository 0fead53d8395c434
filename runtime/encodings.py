"""How an artefact holds the numbers of a tensor: the table of encodings, for who writes weights and who reads them.

An encoding turns a tensor's f32 values [..., K] into *planes*, tensors of `weights.safetensors` by the suffix of their
names, and back: the numbers themselves under the tensor's own name and, where they are whole numbers or such, an f32
`.scale` for each row or group of a row, by which the numbers are multiplied.  numpy alone; it travels with artefacts.

Adding one is a record here and a spelling in each backend that reads it (`docs/extending.md`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

Array = np.ndarray
Shape = tuple[int, ...]

SCALE = ".scale"
"""The suffix of the plane that holds the scales."""

ROW = 0
"""As a group: all of a row, the last axis."""

GONE = 0.01
"""The share of a tensor's values that may become zero before it is worth a word."""

LEAST = np.float32(1e-45)
"""The least number above zero that f32 holds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of a safetensors file: its shape, and the type of its numbers as safetensors names it."""

    shape: Shape
    dtype: str = "F32"

    @property
    def in_blocks(self) -> Entry | None:
        """The same plane as the `cpu` target's products read it (`runtime/c/matrix.h`), where whole blocks make it up.

        [rows / 16, columns / n, 16, n]: 16 rows side by side, n elements of each (`TOGETHER`).  Whole numbers of 8 bits
        become 128 more, as unsigned ones; of eight nibbles those 4 columns apart share a byte.
        """
        rows, each = math.prod(self.shape[:-1]), TOGETHER.get(self.dtype)
        if each is None or not self.shape or rows % BLOCK or self.shape[-1] % each:
            return None
        return Entry((rows // BLOCK, self.shape[-1] // each, BLOCK, each), "U8" if self.dtype == "I8" else self.dtype)


@dataclass(frozen=True, slots=True)
class Encoding:
    """One way of holding f32 values.

    `dtype` is what safetensors calls the numbers and `held` numpy's type for them (bits, where numpy has no such
    number); `largest` is the largest of them, to which a scale brings the largest value of its group, and beyond which
    values without a scale are clipped.  `group` is how many elements of a row share a scale; `ROW`: all; None: there is
    no scale.  `shorten` takes f32 values within `largest` to the nearest numbers, ties to even, and `lengthen` back.
    """

    name: str
    dtype: str
    held: str
    largest: float
    shorten: Callable[[Array], Array]
    lengthen: Callable[[Array], Array]
    group: int | None = None

    def planes(self, shape: Shape) -> dict[str, Entry]:
        """The planes of a tensor of this shape, by suffix."""
        planes = {"": Entry(shape, self.dtype)}
        if self.group is not None:
            planes[SCALE] = Entry(shape[:-1] + self._groups(shape))
        return planes

    def bytes(self, shape: Shape) -> int:
        """What a tensor of this shape takes."""
        return sum(np.dtype(HELD[p.dtype]).itemsize * math.prod(p.shape) for p in self.planes(shape).values())

    def narrow(self, x: Array, weight: Array | None = None) -> dict[str, Array]:
        """A tensor's planes; `x` is [..., K] in f32, `weight` [..., K] how much the square of each error counts."""
        x = np.asarray(x, np.float32, order="C")  # keeps a scalar a scalar
        if self.group is None:
            return {"": self.shorten(self._clipped(x))}
        scale = self.scales(x, weight)
        return self.planes_of(self.numbers(x, scale), scale)

    def scales(self, x: Array, weight: Array | None = None) -> Array:
        """The scales of values [..., K], in f32: those of rows [...], or the best of a few for groups [..., groups]."""
        if not self.group:
            return np.asarray(self._largest_of_groups(x) / np.float32(self.largest), np.float32)
        flat = self._grouped(x)
        counts = None if weight is None else self._grouped(np.broadcast_to(weight, x.shape))
        found = [
            _best_scales(self, flat[at : at + AT_ONCE], None if counts is None else counts[at : at + AT_ONCE])
            for at in range(0, len(flat), AT_ONCE)
        ]
        return np.concatenate([*found, np.empty(0, np.float32)]).reshape(x.shape[:-1] + self._groups(x.shape))

    def numbers(self, x: Array, scale: Array) -> Array:
        """The whole numbers, in f32, nearest to values in units of their scales (`scales`)."""
        ratio = x / self.spread(np.where(scale == 0, np.float32(1), scale), x.shape)
        return np.asarray(np.clip(np.rint(ratio), *self.limits))

    def planes_of(self, numbers: Array, scale: Array) -> dict[str, Array]:
        """The planes of whole numbers and scales."""
        return {"": self.shorten(numbers), SCALE: scale}

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest number."""
        return -self.largest, self.largest

    def tries(self, x: Array) -> Iterator[Array]:
        """Scales that are tried for groups [n, group]; each is one a group."""
        most = np.max(np.abs(x), axis=-1) / np.float32(self.largest)
        yield from (most * np.float32(1 + 0.004 * k) for k in range(5))

    def kept(self, scale: Array) -> Array:
        """Scales as the plane holds them, in f32."""
        return scale

    def widen(self, planes: Mapping[str, Array], shape: Sequence[int]) -> Array:
        """The f32 values, a tensor of this shape, that planes stand for."""
        x = self.lengthen(planes[""])
        return x if self.group is None else np.asarray(x * self.spread(planes[SCALE], x.shape))

    def loss(self, x: Array) -> str:
        """What finite values lose beyond rounding, for people; nothing where they lose no more."""
        if math.isinf(self.largest):
            return ""
        x = np.abs(np.asarray(x, np.float32))
        if self.group is not None:
            most, each = self._largest_of_groups(x), "rows" if self.group == ROW else "groups"
            tiny = np.count_nonzero((most > 0) & (most < np.float32(self.largest) * LEAST))
            return f"{tiny} {each} of values too small for a scale became 0" if tiny else ""
        if clipped := int(np.count_nonzero(x > self.largest)):
            return f"{clipped} of {x.size} values are beyond {self.largest:g} and were clipped, up to {x.max():g}"
        nonzero = np.count_nonzero(x)
        gone = nonzero - np.count_nonzero(self.lengthen(self.shorten(x)))
        return f"{gone} of {x.size} values are so small that they became 0" if gone > nonzero * GONE else ""

    def _clipped(self, x: Array) -> Array:
        return x if math.isinf(self.largest) else np.clip(x, -self.largest, self.largest)  # NaN stays NaN

    # --- scales ------------------------------------------------------------------------------------------------------
    def _groups(self, shape: Shape) -> Shape:
        """The axis of groups that scales have behind those of the rows: none where a row has one."""
        return (-(-shape[-1] // self.group),) if self.group else ()

    def _largest_of_groups(self, x: Array) -> Array:
        if not self.group:
            return np.asarray(np.max(np.abs(x), axis=-1, initial=0))
        largest = np.max(np.abs(self._grouped(x)), axis=-1)
        return np.asarray(largest.reshape(x.shape[:-1] + self._groups(x.shape)))

    def _grouped(self, x: Array) -> Array:
        """Every group of values [..., K] as a row [n, group], padded with zeros."""
        assert self.group
        padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % self.group)])
        return padded.reshape(-1, self.group)

    def spread(self, scale: Array, shape: Shape) -> Array:
        """Each value's scale, or one a row to go with all of them."""
        return np.repeat(scale, self.group, axis=-1)[..., : shape[-1]] if self.group else scale[..., None]


@dataclass(frozen=True, slots=True)
class Nibbles(Encoding):
    """Whole numbers from -8 to 7, two in a byte, the first in its low half; a group's scale is in f16."""

    def planes(self, shape: Shape) -> dict[str, Entry]:
        """The planes of a tensor of this shape, by suffix: whole groups of bytes, and their scales."""
        assert self.group
        groups = -(-shape[-1] // self.group)
        return {"": Entry((*shape[:-1], groups * self.group // 2), "U8"), SCALE: Entry((*shape[:-1], groups), "F16")}

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest number."""
        return -8.0, 7.0

    def tries(self, x: Array) -> Iterator[Array]:
        """Scales that bring the value farthest from zero to one of these numbers."""
        farthest = np.take_along_axis(x, np.abs(x).argmax(-1, keepdims=True), -1)[:, 0]  # with its sign
        yield from (self.kept(farthest / np.float32(to)) for to in (-8.0, -7.0, -7.4, -7.7, -8.4, 7.0))

    def kept(self, scale: Array) -> Array:
        """Scales as f16 holds them."""
        return np.asarray(np.clip(scale, -65504, 65504), np.float16).astype(np.float32)

    def planes_of(self, numbers: Array, scale: Array) -> dict[str, Array]:
        """The planes of whole numbers and scales."""
        assert self.group
        padded = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, -numbers.shape[-1] % self.group)])
        held = (padded + 8).astype(np.uint8)
        return {"": held[..., 0::2] | held[..., 1::2] << 4, SCALE: scale.astype(np.float16)}

    def widen(self, planes: Mapping[str, Array], shape: Sequence[int]) -> Array:
        """The f32 values, a tensor of this shape, that planes stand for."""
        assert self.group
        pairs, scale = planes[""], planes[SCALE].astype(np.float32)
        numbers = np.stack([pairs & 15, pairs >> 4], -1).reshape(*pairs.shape[:-1], -1).astype(np.float32) - 8
        return np.asarray(numbers * np.repeat(scale, self.group, axis=-1))[..., : shape[-1]]

    def loss(self, x: Array) -> str:
        """What is lost beyond rounding: groups whose scale f16 does not hold."""
        most = np.max(np.abs(np.asarray(x, np.float32)), initial=0)
        return f"values up to {most:g} are beyond {self.largest * 65504:g}" if most > self.largest * 65504 else ""


AT_ONCE = 1 << 13
"""Groups whose scales are looked for at once: what is computed of them stays in a processor's cache."""


def _best_scales(encoding: Encoding, x: Array, weight: Array | None) -> Array:
    """Of the scales that are tried for groups x [n, K], and those best for the numbers that they lead to, each group's
    with the least sum of squared errors, each times its weight [n, K]."""
    found, least = np.zeros(len(x), np.float32), np.full(len(x), np.inf, np.float32)
    counts = np.float32(1) if weight is None else weight
    unit = np.max(np.abs(x), axis=-1)
    unit = np.where(unit == 0, np.float32(1), unit)
    shares = x / unit[:, None]  # their squares are within f32
    for scale in encoding.tries(x):
        for _ in range(2):
            numbers = np.clip(np.rint(x / np.where(scale == 0, 1, scale)[:, None]), *encoding.limits)
            error = (counts * np.square(shares - numbers * (scale / unit)[:, None])).sum(-1)
            better = error < least
            least[better], found[better] = error[better], scale[better]
            squares = (counts * np.square(numbers)).sum(-1)
            scale = encoding.kept((counts * shares * numbers).sum(-1) / np.where(squares == 0, 1, squares) * unit)
    return found


def _to_bf16(x: Array) -> Array:
    bits = x.view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def _from_bf16(x: Array) -> Array:
    return np.asarray((x.astype(np.uint32) << 16).view(np.float32))


def _to_i8(x: Array) -> Array:
    return np.asarray(np.rint(x), np.int8)


def _to_f32(x: Array) -> Array:
    return x.astype(np.float32)


ENCODINGS: Mapping[str, Encoding] = MappingProxyType(
    {
        e.name: e
        for e in (
            Encoding("f32", "F32", "<f4", float("inf"), _to_f32, _to_f32),
            Encoding("f16", "F16", "<f2", 65504.0, lambda x: x.astype(np.float16), _to_f32),
            Encoding("bf16", "BF16", "<u2", (2 - 2**-7) * 2.0**127, _to_bf16, _from_bf16),
            Encoding("i8", "I8", "<i1", 127.0, _to_i8, _to_f32, group=ROW),
            Encoding("i8g32", "I8", "<i1", 127.0, _to_i8, _to_f32, group=32),
            Nibbles("i4", "U8", "|u1", 8.0, _to_i8, _to_f32, group=32),
        )
    }
)
"""The encodings by name."""

HELD: Mapping[str, str] = MappingProxyType({e.dtype: e.held for e in ENCODINGS.values()})
"""The numpy type of each type of safetensors; what numpy has no type for is held by its bits."""


# --- planes in blocks of rows ----------------------------------------------------------------------------------------
BLOCK = 16
"""Rows of a block."""

TOGETHER: Mapping[str, int] = MappingProxyType({"F32": 1, "F16": 1, "BF16": 2, "I8": 4, "U8": 4})
"""Elements of a row that stand side by side in a block; those of nibbles are bytes."""


def to_blocks(plane: Array, entry: Entry) -> Array:
    """A plane row by row, as the `Entry` says, in blocks (`Entry.in_blocks`)."""
    x = _by_fours(plane) if entry.dtype == "U8" else plane.view(np.uint8) ^ 128 if entry.dtype == "I8" else plane
    each = TOGETHER[entry.dtype]
    return np.ascontiguousarray(x.reshape(-1, BLOCK, entry.shape[-1] // each, each).swapaxes(1, 2))


def by_rows(plane: Array, entry: Entry) -> Array:
    """A plane row by row, as the `Entry` says, of one that lies so or in blocks."""
    if plane.shape == entry.shape:
        return plane
    x = np.ascontiguousarray(plane.swapaxes(1, 2))
    if entry.dtype == "U8":
        low, high = x & 15, x >> 4  # columns 0 to 3 of eight, and the other four
        x = np.concatenate([low[..., 0::2] | low[..., 1::2] << 4, high[..., 0::2] | high[..., 1::2] << 4], -1)
    elif entry.dtype == "I8":
        x = (x ^ 128).view(np.int8)
    return x.reshape(entry.shape)


def _by_fours(pairs: Array) -> Array:
    """Nibbles of eight columns, two neighbours in a byte, as four bytes of a column and the fourth after it."""
    n = np.stack([pairs & 15, pairs >> 4], -1).reshape(-1, 2, 4)
    return np.asarray(n[:, 0] | n[:, 1] << 4)


# --- files -----------------------------------------------------------------------------------------------------------
def read_file(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """The tensors of a safetensors file, mapped: nothing is read before it is used; and what its header says besides.

    Raises `ValueError` for what is no such file, `OSError` for one that cannot be read.
    """
    data = np.memmap(path, np.uint8, "r")
    size = int.from_bytes(data[:8].tobytes(), "little")
    try:
        header: dict[str, Any] = json.loads(data[8 : 8 + size].tobytes())
        said = dict(header.pop("__metadata__", {}))
        return {name: _tensor(data[8 + size :], entry) for name, entry in header.items()}, said
    except (KeyError, TypeError, AttributeError, RecursionError) as e:
        raise ValueError(f"{path} is damaged: {e!r}") from e


def _tensor(data: Array, entry: Mapping[str, Any]) -> Array:
    begin, end = entry["data_offsets"]
    return np.asarray(data[begin:end].view(HELD[entry["dtype"]]).reshape(entry["shape"]))


def widen_all(planes: Mapping[str, Array], tensors: Iterable[Mapping[str, Any]]) -> dict[str, Array]:
    """The f32 values of a file's tensors, by path; `tensors` are those wanted, as a manifest lists them."""
    found = {}
    for tensor in tensors:
        path, encoding = tensor["path"], ENCODINGS[tensor["stored"]]
        entries = encoding.planes(tuple(tensor["shape"]))
        held = {suffix: by_rows(planes[path + suffix], entry) for suffix, entry in entries.items()}
        found[path] = encoding.widen(held, tensor["shape"])
    return found


def read_values(folder: str | Path) -> dict[str, Array]:
    """The f32 values of an artefact's weights by path, as its manifest says that they are held."""
    folder = Path(folder)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    planes, _ = read_file(folder / "weights.safetensors")
    return widen_all(planes, manifest["tensors"])
