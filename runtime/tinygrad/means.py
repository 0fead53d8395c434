"""Means along the last axis, of few long rows: a norm's statistics in one kernel, a row shared by many threads.

    moments(x [B, T, *S, K]) -> (mean [B, T, *S], variance [B, T, *S])    the mean, and the mean square about it
    mean(x), mean_square(x) -> [B, T, *S]

Input: lazy f32 tensors.  Output: buffers of their own; on a device without blocks, lazy tensors.
"""

from __future__ import annotations

from functools import cache
from math import prod

from tinygrad import Tensor, dtypes

from .kernel import UOp, added, block, buffer, finish, gated, has_blocks, lane, launch, least, loop, real, shared, total

THREADS = 256
FEW = 16  # threads that sum what the others found


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """See the module."""
    if not has_blocks(x.device):
        middle = x.mean(-1)
        return middle, (x - middle.unsqueeze(-1)).square().mean(-1)
    middle, spread = _run(x, "moments", 2)
    return middle, spread


def mean(x: Tensor) -> Tensor:
    """See the module."""
    return _run(x, "mean", 1)[0] if has_blocks(x.device) else x.mean(-1)


def mean_square(x: Tensor) -> Tensor:
    """See the module."""
    return _run(x, "mean_square", 1)[0] if has_blocks(x.device) else x.square().mean(-1)


def _run(x: Tensor, what: str, results: int) -> list[Tensor]:
    *rows, K = (int(n) for n in x.shape)
    out = [Tensor.empty(*rows, dtype=dtypes.float32, device=x.device) for _ in range(results)]
    return launch(_written(what, prod(rows), K), out, [x.cast(dtypes.float32)])


@cache
def _written(what: str, rows: int, K: int) -> UOp:
    """A block a row."""
    lanes = 1 << (min(K, THREADS).bit_length() - 1)
    row, at = block(rows, 0), lane(lanes, 1)
    results = 2 if what == "moments" else 1
    x = buffer(results, rows * K)

    def summed(step: int, about: UOp | None, square: bool) -> UOp:
        """The sum over the row, as every thread of the block then has it."""
        steps, rest = divmod(K, lanes)
        place = loop(steps, 2 + step)
        found = [total(_term(x[row * K + place * lanes + at].load(), about, square), place)]
        if rest:
            inside = steps * lanes + at < K
            value = _term(x[gated(row * K + steps * lanes + at, inside)].load(), about, square)
            found.append(inside.where(value, real(0)))
        return _together(added(found), at, lanes, 2 * step)

    first = summed(0, None, what == "mean_square") * (1 / K)
    stores = [first] if results == 1 else [first, summed(1, first, True) * (1 / K)]
    once = at < 1 if lanes > 1 else None
    name = f"{what}_{rows}x{K}"
    return finish(name, (row, at), *(buffer(i, rows)[gated(row, once)].store(v) for i, v in enumerate(stores)))


def _term(value: UOp, about: UOp | None, square: bool) -> UOp:
    value = value if about is None else value - about
    return value * value if square else value


def _together(value: UOp, at: UOp, lanes: int, slot: int) -> UOp:
    """The sum of the lanes' values, for each of them: a few add up their share, all add what those found."""
    if lanes == 1:
        return value
    if lanes <= FEW:
        board = shared(slot, lanes)
        seen = board.after(board[at].store(value))
        return added([seen[j].load() for j in range(lanes)])
    each = lanes // FEW
    board, second = shared(slot, lanes + FEW), shared(slot + 1, FEW + 1)
    seen = board.after(board[at + at // each].store(value))  # shares start in different banks
    mine = least(at, FEW - 1) * (each + 1)
    share = added([seen[mine + j].load() for j in range(each)])
    found = second.after(second[(at < FEW).where(at, FEW)].store(share))
    return added([found[j].load() for j in range(FEW)])
