"""Rows of a stored table, looked up by number: only they are read, however long the table is.

    table_rows(W, at, scale=None) -> Tensor f32 [N, K]: y[n] = W[at[n]]

Input: W [V, K] as stored (see `weights.widen`), scale [V] for int8; at [N] int32, numbers beyond the table count as its
first or last row.  Output: a buffer of its own.
"""

from __future__ import annotations

from functools import cache

from tinygrad import Tensor, dtypes

from .kernel import UOp, block, buffer, finish, gated, has_blocks, lane, launch, loop
from .products import NATIVE, STORED, _widened

THREADS = 128


def table_rows(W: Tensor, at: Tensor, scale: Tensor | None = None) -> Tensor:
    """See the module."""
    V, K = (int(n) for n in W.shape)
    N = int(at.shape[0])
    y = Tensor.empty(N, K, dtype=dtypes.float32, device=W.device)
    sink = _written(N, V, K, STORED[W.dtype], scale is not None, has_blocks(W.device))
    return launch(sink, [y], [W, at.cast(dtypes.int32), *([] if scale is None else [scale])])[0]


@cache
def _written(N: int, V: int, K: int, stored: str, scaled: bool, blocks: bool) -> UOp:
    """A thread a number."""
    axes: tuple[UOp, ...]
    if blocks:
        n, far, near = block(N, 0), block(-(-K // THREADS), 1), lane(min(THREADS, K), 2)
        k, axes = far * THREADS + near, (n, far, near)
    else:
        n, k = loop(N, 0), loop(K, 1)
        axes = (n, k)
    inside = k < K if blocks and K > THREADS and K % THREADS else None
    W, at = buffer(1, V * K, NATIVE[stored]), buffer(2, N, dtypes.int32)
    row = at[n].load().maximum(0).minimum(V - 1).cast(dtypes.weakint)
    (value,) = _widened(W[gated(row * K + k, inside)].load(), stored, False)
    if scaled:
        value = value * buffer(3, V)[row].load()
    name = f"rows_{stored}_{N}_of_{V}x{K}"
    return finish(name, axes, buffer(0, N * K)[gated(n * K + k, inside)].store(value))
