"""Rows times the matrices of their experts, as operators: a compiled graph keeps them whole, whatever tokens chose.

Input: x [rows, K] sorted by expert, w [E, N, K], and `ends` [E], where each expert's rows end.
Output: [rows, N], with gradients.  torch's grouped product does it where types and sizes allow, else an expert at a
time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_GROUPED = (torch.float32, torch.bfloat16, torch.float16)


def rows_times(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Each row of x [rows, K] times its expert's matrix of w [E, N, K]: [rows, N]."""
    y: Tensor = _RowsTimes.apply(x, w, ends)  # type: ignore[no-untyped-call]
    return y


class _RowsTimes(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
        y: Tensor = _OPS.rows_times(x, w, ends)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, w, ends = ctx.saved_tensors
        dx = _OPS.rows_times(dy, w.mT, ends) if ctx.needs_input_grad[0] else None
        return dx, _OPS.rows_by(dy, x, ends) if ctx.needs_input_grad[1] else None, None


def _rows_times(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    if _aligned(x, w) and x.dtype == w.dtype:
        return F.grouped_mm(x.contiguous(), w.mT, offs=ends)
    return torch.cat([F.linear(x[a:z], m) for (a, z), m in zip(_spans(ends), w.unbind(0), strict=True)])


def _rows_by(y: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    """Σ over an expert's rows of y xᵀ: [E, N, K] of y [rows, N] and x [rows, K]."""
    if _aligned(x, y) and x.dtype == y.dtype:
        return F.grouped_mm(y.contiguous().mT, x.contiguous(), offs=ends)
    return torch.stack([y[a:z].mT @ x[a:z] for a, z in _spans(ends)])


def _aligned(*xs: Tensor) -> bool:
    """Whether torch's grouped product takes them: rows, and those of matrices both ways, are multiples of 16 bytes."""
    sizes = ((n * x.element_size() for n in x.shape[1:]) for x in xs)
    return all(x.dtype in _GROUPED for x in xs) and all(n % 16 == 0 for each in sizes for n in each)


def _spans(ends: Tensor) -> Iterator[tuple[int, int]]:
    found = ends.tolist()
    return zip([0, *found[:-1]], found, strict=True)


# --- operators -----------------------------------------------------------------------------------------------------
def _define() -> tuple[Any, torch.library.Library | None]:
    """The operators, of a namespace that another copy of this package may have made in this process."""
    name = f"cdrmix_grouped_{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]}"
    ops = getattr(torch.ops, name)
    if hasattr(ops, "rows_times"):
        return ops, None
    library = torch.library.Library(name, "FRAGMENT")
    for op, function in (("rows_times", _rows_times), ("rows_by", _rows_by)):
        library.define(f"{op}(Tensor a, Tensor b, Tensor ends) -> Tensor")
        library.impl(op, function, "CompositeExplicitAutograd")
    for op, fake in (("rows_times", _fake_rows), ("rows_by", _fake_matrices)):
        torch.library.register_fake(f"{name}::{op}", fake, lib=library)
    return ops, library


def _fake_rows(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[1])


def _fake_matrices(y: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(ends.shape[0], y.shape[1], x.shape[1])


_OPS, _LIBRARY = _define()
PRODUCT = _OPS.rows_times
"""The operator of `rows_times`, as a `TorchFunctionMode` sees it: x, w, ends."""
