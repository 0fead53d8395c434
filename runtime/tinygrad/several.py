"""Several products of few tokens in one launch: a token's many small matrices are not worth a kernel each.

    row_products(W, x, scale) -> list of y[i][n, m] = sum[k](W[i][m, k] * x[i][n, k])

Input: W[i] [M_i, K_i] as stored, x[i] [N, K_i] lazy f32, scale[i] [M_i] or None: see `products.row_product`.
Output: a list of [N, M_i], each a buffer of its own.

One kernel for those of one stored type where that pays: N <= 8, a device with blocks.  Its blocks are shared out among
the products; the x that differ are put side by side first, in one kernel.  Else each product is a launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, reduce

from tinygrad import Tensor, dtypes
from tinygrad.dtype import DType

from .kernel import UOp, added, block, buffer, finish, gated, has_blocks, lane, launch, least, loop, real, total
from .products import BYTES, FEW, NATIVE, STORED, THREADS, _gathered, _power, _widened, row_product

MOST = 8  # products of one launch


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows and keys of each product; `place`: which of the `inputs` put side by side it reads."""

    N: int
    M: tuple[int, ...]
    K: tuple[int, ...]
    place: tuple[int, ...]
    inputs: int
    stored: str

    @property
    def name(self) -> str:
        """What the kernel is called."""
        return f"products_{self.stored}_{self.N}x{'_'.join(map(str, self.M))}x{max(self.K)}"


def row_products(W: Sequence[Tensor], x: Sequence[Tensor], scale: Sequence[Tensor | None]) -> list[Tensor]:
    """See the module."""
    found: dict[int, Tensor] = {}
    alike: dict[tuple[DType, int], list[int]] = {}
    for i, (w, v) in enumerate(zip(W, x, strict=True)):
        alike.setdefault((w.dtype, int(v.shape[0])), []).append(i)
    for (_, n), places in alike.items():
        for some in (places[at : at + MOST] for at in range(0, len(places), MOST)):
            if len(some) > 1 and n <= FEW and has_blocks(W[0].device):
                made = _one_launch([W[i] for i in some], [x[i] for i in some], [scale[i] for i in some])
                found |= dict(zip(some, made, strict=True))
            else:
                found |= {i: row_product(W[i], x[i], scale[i]) for i in some}
    return [found[i] for i in range(len(W))]


def _one_launch(W: Sequence[Tensor], x: Sequence[Tensor], scale: Sequence[Tensor | None]) -> list[Tensor]:
    distinct = {v.uop: v.cast(dtypes.float32) for v in x}
    M, K = tuple(int(w.shape[0]) for w in W), tuple(int(w.shape[1]) for w in W)
    wide = [v.pad((0, max(K) - int(v.shape[1]))) for v in distinct.values()]
    beside = wide[0].stack(*wide[1:]) if len(wide) > 1 else wide[0]
    place = tuple([*distinct].index(v.uop) for v in x)
    sizes = Sizes(int(x[0].shape[0]), M, K, place, len(wide), STORED[W[0].dtype])
    out = [Tensor.empty(sizes.N, m, dtype=dtypes.float32, device=W[0].device) for m in M]
    return launch(_written(sizes), out, [*W, beside, *(s for s in scale if s is not None)])


@cache
def _written(sizes: Sizes) -> UOp:
    """`lanes` threads a row, `own` rows a thread, `deep` such groups a block; a block is of one product."""
    ops = _Operands(sizes)
    last = max(ops.pieces)
    own = 2 if sum(sizes.M) >= 2048 and 2 * sizes.N * ops.piece <= 128 else 1
    lanes = min(_power(last), 32)
    deep = THREADS // lanes
    rows, outputs = own * deep, own * sizes.N
    starts = [sum(-(-m // rows) for m in sizes.M[:i]) for i in range(len(sizes.M) + 1)]
    part, at, line = block(starts[-1], 0), lane(lanes, 1), lane(deep, 2)
    mine = [(part >= a) & (part < b) for a, b in zip(starts, starts[1:], strict=False)]
    first = ((part - _of(mine, starts)) * deep + line) * own  # of the rows of this block's product

    def meet(piece: UOp, gate: UOp | None = None) -> list[UOp]:
        w = [ops.weights(mine, first + r, piece, gate) for r in range(own)]
        x = [ops.given(_of(mine, sizes.place), n, piece, gate) for n in range(sizes.N)]
        return [added([a * b for a, b in zip(row, v, strict=True)]) for row in w for v in x]

    steps, rest = divmod(last, lanes)
    step = loop(steps, 3)
    sums = [total(s, step) for s in meet(step * lanes + at)] if steps else [real(0)] * outputs
    if rest:
        spare = steps * lanes + at
        sums = [a + b for a, b in zip(sums, meet(spare, spare < last), strict=True)]
    stores = []
    for o, value, turn in _gathered(sums, at, line, lanes, deep):
        stores += ops.out(mine, first + o // sizes.N, o % sizes.N, value, turn)
    return finish(sizes.name, (part, at, line), *stores)


class _Operands:
    """The arguments of the kernel and how their elements are read; `mine` says which product a block is of."""

    def __init__(self, sizes: Sizes):
        self.sizes, count, each = sizes, len(sizes.M), BYTES[sizes.stored]
        self.words = next((n for n in (4, 2, 1) if all(k * each % (4 * n) == 0 for k in sizes.K)), 0)
        self.piece = self.words * 4 // each if self.words else 1
        self.pieces = [k // self.piece for k in sizes.K]
        word = dtypes.float32 if each == 4 else dtypes.uint32
        self.y = [buffer(i, sizes.N * m) for i, m in enumerate(sizes.M)]
        self.W = [
            buffer(count + i, m * k * each // 4 if self.words else m * k, word if self.words else NATIVE[sizes.stored])
            for i, (m, k) in enumerate(zip(sizes.M, sizes.K, strict=True))
        ]
        self.x = buffer(2 * count, sizes.inputs * sizes.N * max(sizes.K))
        scales = sizes.M if sizes.stored == "i8" else ()
        self.scale = [buffer(2 * count + 1 + i, m) for i, m in enumerate(scales)]

    def weights(self, mine: Sequence[UOp], row: UOp, piece: UOp, gate: UOp | None) -> list[UOp]:
        """The values of one piece of a row."""
        each = self.words or 1
        found: list[list[UOp]] = []
        for i, (W, m, pieces) in enumerate(zip(self.W, self.sizes.M, self.pieces, strict=True)):
            at = least(row, m - 1) * (pieces * each) + piece * each
            short = piece < pieces if pieces < max(self.pieces) else None
            found.append([W[gated(at + c, mine[i], gate, short)].load() for c in range(each)])
        raw = [reduce(_either, loads) for loads in zip(*found, strict=True)]
        return [v for u in raw for v in _widened(u, self.sizes.stored, bool(self.words))]

    def given(self, place: UOp, n: int, piece: UOp, gate: UOp | None) -> list[UOp]:
        """The values of x that a piece meets."""
        at = (place * self.sizes.N + n) * max(self.sizes.K) + piece * self.piece
        return [self.x[gated(at + c, gate)].load() for c in range(self.piece)]

    def out(self, mine: Sequence[UOp], row: UOp, n: UOp | int, value: UOp, turn: UOp | None) -> list[UOp]:
        """The stores of one result, of which one happens."""
        stores = []
        for i, m in enumerate(self.sizes.M):
            v = value * self.scale[i][gated(least(row, m - 1), mine[i])].load() if self.scale else value
            stores.append(self.y[i][gated(n * m + row, turn, mine[i], row < m)].store(v))
        return stores


def _of(mine: Sequence[UOp], values: Sequence[int]) -> UOp:
    """The value of the product that a block is of."""
    found = UOp.const(values[len(mine) - 1])
    for gate, value in zip(reversed(mine[:-1]), reversed(values[: len(mine) - 1]), strict=True):
        found = gate.where(UOp.const(value), found)
    return found


def _either(a: UOp, b: UOp) -> UOp:
    """The one of two loads that is not zero."""
    return a | b if a.dtype == dtypes.uint32 else a + b
