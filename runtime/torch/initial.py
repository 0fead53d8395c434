"""The init rules that draw random numbers.

Input: a parameter, with the axes of the banks around it in front, and the generator to draw from.
Output: the parameter, filled in place.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def orthogonal(w: Tensor, gain: float, axes: int, generator: Generator | None = None) -> None:
    """Each matrix gets orthonormal rows or columns, whichever are fewer, times the gain.

    `axes` are the parameter's own: a matrix is of the last two, and a vector is one row.
    """
    rows, columns = (w.shape[-2] if axes > 1 else 1), (w.shape[-1] if axes else 1)
    for matrix in w.reshape(-1, rows, columns).unbind(0):
        drawn = torch.randn(max(rows, columns), min(rows, columns), generator=generator)
        q, r = torch.linalg.qr(drawn)
        q = q * r.diagonal().sign()
        matrix.copy_(gain * (q if rows >= columns else q.T))


def uniform(w: Tensor, low: float, high: float, generator: Generator | None = None) -> None:
    """Uniform between low and high."""
    w.copy_(low + (high - low) * torch.rand(w.shape, generator=generator))


def normal(w: Tensor, std: float, generator: Generator | None = None) -> None:
    """Normal with mean zero."""
    w.copy_(std * torch.randn(w.shape, generator=generator))
