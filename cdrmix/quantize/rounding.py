"""The planes of a model's tensors in any encoding, rounded by what the text showed.

Input: f32 values by path and the moments that `products.Collect` found.  Output: planes, each made once, and how far
they are from the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod, sqrt

import numpy as np

from cdrmix.packing import Planes
from cdrmix.quantize.feedback import damped, round_with, shares
from cdrmix.quantize.products import Moments
from cdrmix.runtime.encodings import ENCODINGS


@dataclass(frozen=True, slots=True)
class Off:
    """How far a tensor is from its values: the relative RMS error of its weights, and of the products with it over the
    text, where it is multiplied with vectors."""

    weights: float
    products: float | None


class Rounding:
    """Rounds tensors, and remembers them."""

    def __init__(self, values: Mapping[str, np.ndarray], moments: Mapping[str, Moments]):
        self.values, self.moments = values, moments
        self._planes: dict[tuple[str, str], Planes] = {}

    def planes(self, path: str, to: str) -> Planes:
        """A tensor's planes."""
        if (path, to) not in self._planes:
            self._planes[path, to] = self._round(path, to)
        return self._planes[path, to]

    def values_of(self, path: str, to: str) -> np.ndarray:
        """What its planes stand for."""
        value = self.values[path]
        return value if to == "f32" else ENCODINGS[to].widen(self.planes(path, to), value.shape)

    def off(self, path: str, to: str) -> Off:
        """How far its planes are from its values."""
        value, seen = self.values[path], self._seen(path)
        whole = float(np.square(value, dtype=np.float64).sum()) or 1.0
        lost = float(np.square(self.values_of(path, to) - value, dtype=np.float64).sum())
        weights = sqrt(lost / whole)
        if seen is None:
            return Off(weights, None)
        moments = self.moments[path]
        pairs = zip(_bank(value, seen), _bank(self.values_of(path, to), seen), strict=True)
        found = [
            shares(W, held, damped(moments.of[n].numpy()), moments.turned)
            for n, (W, held) in enumerate(pairs)
            if n in moments.of
        ]
        return Off(weights, sqrt(sum(a for a, _ in found) / (sum(b for _, b in found) or 1.0)))

    def _round(self, path: str, to: str) -> Planes:
        encoding, value, seen = ENCODINGS[to], self.values[path], self._seen(path)
        if seen is None or encoding.group is None:
            return encoding.narrow(value)
        moments = self.moments[path]
        each = [
            round_with(encoding, W, damped(moments.of[n].numpy()), moments.turned)
            if n in moments.of
            else encoding.narrow(W)
            for n, W in enumerate(_bank(value, seen))
        ]
        shapes = {suffix: plane.shape for suffix, plane in encoding.planes(value.shape).items()}
        return {suffix: np.stack([planes[suffix] for planes in each]).reshape(shapes[suffix]) for suffix in shapes}

    def _seen(self, path: str) -> int | None:
        """How many matrices a tensor is, where products with them were seen; None elsewhere."""
        if path not in self.moments or not self.moments[path].of:
            return None
        moments, shape = self.moments[path], self.values[path].shape
        width = len(next(iter(moments.of.values())))
        if len(shape) < 2 or shape[-2 if moments.turned else -1] != width:
            return None
        return prod(shape[:-2])


def _bank(x: np.ndarray, matrices: int) -> np.ndarray:
    """A tensor as its matrices."""
    return x.reshape(matrices, *x.shape[-2:])
