"""Stored weights as f32 values.

    widen(w, scale=None) -> Tensor f32

Input: a weight as the artefact stores it: float32, half, uint16 (the bits of a bfloat16) or int8 with `scale` f32 (w's
shape without the last axis: one factor a row).
Output: its values in f32, same shape; lazy, so it fuses into whatever reads it.  Matrix products do not need it:
`products.row_product` widens in registers.
"""

from __future__ import annotations

from tinygrad import Tensor, dtypes


def widen(w: Tensor, scale: Tensor | None = None) -> Tensor:
    """See the module."""
    if w.dtype == dtypes.uint16:
        return (w.cast(dtypes.uint32) * 65536).bitcast(dtypes.float32)
    if w.dtype == dtypes.int8:
        if scale is None:
            raise ValueError("an int8 weight needs its scale")
        return w.cast(dtypes.float32) * scale.unsqueeze(-1)
    return w.cast(dtypes.float32)
