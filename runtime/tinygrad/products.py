"""Matrix products with stored weights, f32 accumulation; the weights are widened in registers.

    row_product(W, x, scale=None, pick=None) -> Tensor f32: y[n, m] = sum[k](W[m, k] * x[n, k])

    W [M, K], x [N, K] -> [N, M].                  scale [M] for int8.
    W [G, M, K], x [G, N, K] -> [G, N, M].         scale [G, M].
    W [E, M, K], pick [G] int32, x [G, N, K] -> [G, N, M], group g by matrix pick[g]; scale [E, M].  Only the chosen
    matrices are read, straight from where they lie: never write `W[pick]` before a product, that copies them.  Where
    pick is negative nothing is read, and the group's answers are 0.

Input: W as stored (float32, half, uint16 = bfloat16 bits, int8 with scale) and realised (the weight's own buffer, or a
reshape of it); x f32 [.., K], any lazy value: a short expression is computed as it is read.
Output: a Tensor of its own buffer; what follows is another kernel.

Three kernels:
- rows (N <= 8 on a device with blocks): `lanes` threads walk a few rows of W together, neighbours reading neighbouring
  16-byte pieces, each weight once; sums meet in shared memory once.
- tiles (larger N): a block holds 16 .. 64 rows by up to 64 tokens, staged through shared memory, 4 x 4 sums a thread;
  each weight is read once for up to 64 tokens.
- loops, on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from tinygrad import Tensor, dtypes

from .inline import Forms, expressions
from .kernel import (
    UOp,
    added,
    block,
    buffer,
    ended,
    finish,
    gated,
    has_blocks,
    lane,
    launch,
    least,
    loop,
    real,
    register,
    shared,
    total,
)

STORED = {dtypes.float32: "f32", dtypes.half: "f16", dtypes.uint16: "bf16", dtypes.int8: "i8"}
BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1}
NATIVE = {"f32": dtypes.float32, "f16": dtypes.half, "bf16": dtypes.uint16, "i8": dtypes.int8}
BUDGET = 1 << 21  # evaluations of costly functions that are cheaper than a kernel
SLIM = 8192  # results that are too few for tiles
FEW = 8  # tokens up to which the weights' bytes, not the sums, are the cost
THREADS = 256  # of a block
SHARED = 8192  # numbers of shared memory, of the 12288 that every device has, for what meets there
BUSY = 32768  # threads that keep a device's memory busy


@dataclass(frozen=True, slots=True)
class Size:
    """`groups` products of N tokens by one of `matrices` M x K matrices."""

    groups: int
    N: int
    M: int
    K: int
    matrices: int
    stored: str
    scaled: bool
    picked: bool

    @property
    def name(self) -> str:
        many = f"{self.groups}x" if self.groups > 1 else ""
        chosen = "_chosen" if self.picked else ""
        return f"product_{self.stored}{chosen}_{many}{self.N}x{self.M}x{self.K}"


def row_product(W: Tensor, x: Tensor, scale: Tensor | None = None, pick: Tensor | None = None) -> Tensor:
    """See the module."""
    alone = W.ndim == 2
    M, K = (int(n) for n in W.shape[-2:])
    N = int(x.shape[-2])
    groups = 1 if alone else int(x.shape[0])
    stored = STORED[W.dtype]
    if stored == "i8" and scale is None:
        raise ValueError("an int8 weight needs its scale")
    size = Size(groups, N, M, K, 1 if alone else int(W.shape[0]), stored, scale is not None, pick is not None)
    if alone and N > FEW and M * N <= SLIM and has_blocks(W.device):
        size = _in_groups(size)
    forms, leaves = expressions([x], *_inlined(N, M, K))
    given = [W, *leaves, *(t for t in (scale, pick) if t is not None)]
    y = Tensor.empty(*(() if alone else (groups,)), N, M, dtype=dtypes.float32, device=W.device)
    return launch(_written(size, forms, has_blocks(W.device)), [y], given)[0]


def _in_groups(size: Size) -> Size:
    """A product with few results: tiles would keep few blocks busy, and for long; a few tokens at a time are more."""
    few = next(n for n in range(FEW, 0, -1) if size.N % n == 0)
    return replace(size, groups=size.N // few, N=few) if few > FEW // 2 else size


def _inlined(N: int, M: int, K: int) -> tuple[int, int]:
    """How many vectors x may be an expression of, and how many costly functions, given that each row computes it."""
    return (3 if N == 1 else 1 if N <= FEW else 0), BUDGET // (N * M * K)


@cache
def _written(size: Size, forms: Forms, blocks: bool) -> UOp:
    if not blocks:
        return _loops(size, forms)
    return _rows(size, forms) if size.N <= FEW else _tiles(size, forms)


class _Operands:
    """The arguments of a kernel and how their elements are read."""

    def __init__(self, size: Size, forms: Forms, widest: int):
        """`widest`: at most so many weights in one load."""
        self.size, self.forms = size, forms
        each, row = BYTES[size.stored], size.K * BYTES[size.stored]
        words = next((n for n in (4, 2, 1) if row % (4 * n) == 0 and 4 * n // each <= widest), 0)
        self.words = words  # 32-bit words of a piece; 0: one weight at a time
        self.per = 4 // each
        self.piece = words * self.per if words else 1
        self.y = buffer(0, size.groups * size.N * size.M)
        weights = size.matrices * size.M * size.K
        if words:
            self.W = buffer(1, weights // self.per, dtypes.float32 if each == 4 else dtypes.uint32)
        else:
            self.W = buffer(1, weights, NATIVE[size.stored])
        self.x = forms.buffers(2)
        slot = 2 + len(self.x)
        self.scale = buffer(slot, size.matrices * size.M) if size.scaled else None
        self.pick = buffer(slot + size.scaled, size.groups, dtypes.int32) if size.picked else None
        self.chosen: UOp | None = None  # whether the group has a matrix at all

    def matrix(self, group: UOp) -> UOp:
        """Which matrix a group uses; a pick beyond the last is the last."""
        if self.pick is None:
            return group if self.size.matrices > 1 else UOp.const(0)
        pick = self.pick[group].load()
        self.chosen = pick >= 0
        return pick.maximum(0).minimum(self.size.matrices - 1).cast(dtypes.weakint)

    def raw(self, row: UOp, piece: UOp, *gates: UOp | None) -> list[UOp]:
        """One piece of a row as it is stored (a row of all matrices one under the other)."""
        each = self.words or 1
        at = row * (self.size.K // self.piece * each) + piece * each
        return [self.W[gated(at + c, *gates, self.chosen)].load() for c in range(each)]

    def widened(self, raw: Sequence[UOp]) -> list[UOp]:
        """The values of a piece."""
        return [v for u in raw for v in _widened(u, self.size.stored, bool(self.words))]

    def weights(self, row: UOp, piece: UOp, gate: UOp | None = None) -> list[UOp]:
        """The values of one piece of a row."""
        return self.widened(self.raw(row, piece, gate))

    def inputs(self, group: UOp, n: UOp | int, piece: UOp, *gates: UOp | None) -> list[UOp]:
        """The values of x that a piece meets."""
        at = (group * self.size.N + n) * self.size.K + piece * self.piece
        return [self.forms.read(0, self.x, at + c, *gates) for c in range(self.piece)]

    def out(self, group: UOp, n: UOp | int, matrix: UOp, row: UOp, value: UOp, *gates: UOp | None) -> UOp:
        """The store of one result."""
        if self.scale is not None:
            value = value * self.scale[matrix * self.size.M + least(row, self.size.M - 1)].load()
        return self.y[gated((group * self.size.N + n) * self.size.M + row, *gates)].store(value)


def _widened(u: UOp, stored: str, word: bool) -> list[UOp]:
    """The f32 values of a loaded word, or of a single weight."""
    match stored, word:
        case "f32", _:
            return [u]
        case "f16", True:
            halves = [u & 0xFFFF, u >> 16]
            return [h.cast(dtypes.uint16).bitcast(dtypes.half).cast(dtypes.float32) for h in halves]
        case "bf16", True:
            return [(u << 16).bitcast(dtypes.float32), (u & 0xFFFF0000).bitcast(dtypes.float32)]
        case "i8", True:
            return [((u << s).bitcast(dtypes.int32) >> 24).cast(dtypes.float32) for s in (24, 16, 8, 0)]
        case "bf16", False:
            return [(u.cast(dtypes.uint32) << 16).bitcast(dtypes.float32)]
    return [u.cast(dtypes.float32)]


def _power(n: int) -> int:
    """The largest power of two that is at most n."""
    return 1 << (max(n, 1).bit_length() - 1)


def _rows(size: Size, forms: Forms) -> UOp:
    """See the module; `lanes` threads a row, `own` rows a thread, `deep` such groups a block."""
    ops = _Operands(size, forms, 16)
    pieces = size.K // ops.piece
    own = _own_rows(size, ops.piece)
    lanes = min(_power(pieces), 32)
    while lanes < THREADS and 2 * lanes <= pieces and (-(-size.M // own)) * lanes * size.groups < BUSY:
        lanes *= 2
    deep, outputs = THREADS // lanes, own * size.N
    while deep > 1 and deep * lanes > 64 and size.M * size.groups < 128 * deep * own:
        deep //= 2
    while deep > 1 and deep * outputs * (lanes + 4) > SHARED:
        deep //= 2
    rows = own * deep
    group = block(size.groups, 0)
    part = block(-(-size.M // rows), 1)
    at, line = lane(lanes, 2), lane(deep, 3)
    steps, rest = divmod(pieces, lanes)
    step = loop(steps, 4)
    matrix = ops.matrix(group)
    row = [(part * deep + line) * own + i for i in range(own)]
    chains = max(1, 4 // outputs)  # separate sums hide the latency of an addition

    def meet(piece: UOp, gate: UOp | None = None) -> list[UOp]:
        w = [ops.weights(matrix * size.M + least(r, size.M - 1), piece, gate) for r in row]
        x = [ops.inputs(group, n, piece, gate) for n in range(size.N)]
        found = []
        for i in range(own):
            for n in range(size.N):
                products = [a * b for a, b in zip(w[i], x[n], strict=True)]
                found += [added(products[c::chains]) if products[c::chains] else real(0) for c in range(chains)]
        return found

    sums = [real(0)] * (outputs * chains)
    if steps:
        sums = [total(s, step) for s in meet(step * lanes + at)]
    if rest:
        last = steps * lanes + at
        sums = [a + b for a, b in zip(sums, meet(last, last < pieces), strict=True)]
    partial = [added(sums[o * chains : (o + 1) * chains]) for o in range(outputs)]
    stores = []
    for o, value, turn in _gathered(partial, at, line, lanes, deep):
        mine = (part * deep + line) * own + o // size.N
        stores.append(ops.out(group, o % size.N, matrix, mine, value, turn, mine < size.M if size.M % rows else None))
    return finish(size.name, (group, part, at, line), *stores)


def _own_rows(size: Size, piece: int) -> int:
    """How many rows share what a thread reads of x."""
    if size.N == 1:
        own = 2 if size.M >= 2048 or (piece > 4 and size.M >= 1024) else 1
    elif size.N < 4:
        own = 2 if size.M >= 1024 else 1
    else:
        rows = size.M * size.groups
        own = 4 if rows >= 512 else 2 if rows >= 256 else 1
    while own > 1 and own * size.N * piece > 256:
        own //= 2
    return own


def _gathered(partial: list[UOp], at: UOp, line: UOp, lanes: int, deep: int) -> list[tuple[UOp | int, UOp, UOp | None]]:
    """Sums over the lanes of a line: which result, its value, and the gate of the lanes that have it."""
    outputs = len(partial)
    if lanes == 1:
        return [(o, p, None) for o, p in enumerate(partial)]
    wide = lanes + 4  # the threads that add up different results read different banks
    board = shared(0, deep * outputs * wide)
    seen = board.after(*(board[(line * outputs + o) * wide + at].store(p) for o, p in enumerate(partial)))
    left = min(16, _power(lanes // outputs)) if lanes >= 64 else 1
    if left > 1:  # in two steps: many lanes add a few each, then a few add those
        o, part = at % outputs, at // outputs
        some = part < left if outputs * left < lanes else None
        each = lanes // left
        from_here = (line * outputs + o) * wide + least(part, left - 1) * each
        second = shared(1, deep * outputs * left + 1)
        spare = deep * outputs * left  # where the lanes without a part put theirs
        place = (line * outputs + o) * left + part
        store = second[place if some is None else some.where(place, spare)].store(_four(seen, from_here, each))
        seen, wide, lanes_left = second.after(store), left, left
    else:
        lanes_left = lanes
    found: list[tuple[UOp | int, UOp, UOp | None]] = []
    for first in range(0, outputs, lanes):
        count = min(lanes, outputs - first)
        o = first + (at if count == lanes else at % count)
        turn = at < count if count < lanes else None
        found.append((o, _four(seen, (line * outputs + o) * wide, lanes_left), turn))
    return found


def _four(board: UOp, first: UOp, count: int) -> UOp:
    """The sum of neighbours, by four sums."""
    chains = min(4, count)
    return added([added([board[first + j].load() for j in range(c, count, chains)]) for c in range(chains)])


def _loops(size: Size, forms: Forms) -> UOp:
    """A CPU's kernel: up to 4 tokens and 2 rows at once, so a weight is used several times while it is at hand."""
    ops = _Operands(size, forms, 8)
    wide = next(n for n in (4, 3, 2, 1) if size.N % n == 0)
    own = 2 if size.M % 2 == 0 else 1
    group, part, first = loop(size.groups, 0), loop(size.M // own, 1), loop(size.N // wide, 2)
    step = loop(size.K // ops.piece, 3)
    matrix = ops.matrix(group)
    row = [part * own + i for i in range(own)]
    tokens = [first * wide + n for n in range(wide)]
    w = [ops.weights(matrix * size.M + r, step) for r in row]
    x = [ops.inputs(group, n, step) for n in tokens]
    chains = min(4, ops.piece)
    stores = []
    for i, r in enumerate(row):
        for n, token in enumerate(tokens):
            products = [a * b for a, b in zip(w[i], x[n], strict=True)]
            sums = [total(added(products[c::chains]), step) for c in range(chains)]
            stores.append(ops.out(group, token, matrix, r, added(sums)))
    return finish(size.name, (group, part, first), *stores)


DEEP = 64  # keys of a stage in shared memory


def _tiles(size: Size, forms: Forms) -> UOp:
    """See the module.  Threads: `tn` x `tm` places of 4 x 4 results, `parts` of them over the keys of a stage.

    What the next stage needs is on its way from memory while this one is summed.
    """
    ops = _Operands(size, forms, 4)
    high, wide = _tile(size)
    tn, tm = high // 4, wide // 4
    parts = THREADS // (tn * tm)
    turns = DEEP // parts // 4
    group, some = block(size.groups, 0), block(-(-size.N // high), 1)
    rows = block(-(-size.M // wide), 2)
    i, j, part = lane(tn, 3), lane(tm, 4), lane(parts, 5)
    thread = (part * tm + j) * tn + i
    matrix = ops.matrix(group)
    stages = -(-size.K // DEEP)
    stage, turn = loop(stages, 6), loop(turns, 7)
    pad = DEEP + 4  # rows of a stage lie in different banks
    left, right = shared(0, wide * pad), shared(1, high * pad)
    piece, across = ops.piece, DEEP // ops.piece  # pieces of a row in a stage
    reads = [(board, thread + n) for board, c in ((left, wide), (right, high)) for n in range(0, c * across, THREADS)]

    def fetched(stage: UOp, gate: UOp | None) -> list[list[UOp]]:
        """What a thread reads for a stage, as it is stored."""
        found = []
        for board, spot in reads:
            r, p = spot // across, stage * across + spot % across
            gates = (gate, None if size.K % DEEP == 0 else p < size.K // piece)
            if board is left:
                found.append(ops.raw(matrix * size.M + least(rows * wide + r, size.M - 1), p, *gates))
            else:
                found.append(ops.inputs(group, least(some * high + r, size.N - 1), p, *gates))
        return found

    def held(values: list[list[UOp]], *later: UOp) -> list[UOp]:
        """They are kept in registers."""
        return [
            keep.after(*later)[i].store(v) for keep, row in zip(ahead, values, strict=True) for i, v in enumerate(row)
        ]

    first = fetched(UOp.const(0), None)
    ahead = [register(2 + n, len(row), row[0].dtype) for n, row in enumerate(first)]
    begun = held(first)
    put = []
    for (board, spot), keep, row in zip(reads, ahead, first, strict=True):
        values = [keep.after(*begun, stage)[i].load() for i in range(len(row))]
        values = ops.widened(values) if board is left else values
        put += [board[spot // across * pad + spot % across * piece + c].store(v) for c, v in enumerate(values)]
    a, b = left.after(*put), right.after(*put)
    coming = held(fetched(stage + 1, stage < stages - 1), *put) if stages > 1 else []
    key = (part * turns + turn) * 4
    w = [[a[(m * tm + j) * pad + key + c].load() for c in range(4)] for m in range(4)]
    x = [[b[(n * tn + i) * pad + key + c].load() for c in range(4)] for n in range(4)]
    sums = register(0, 16)
    running = sums.after(*(sums[o].store(0.0) for o in range(16)), *coming, stage, turn)
    more = [
        running[n * 4 + m].store(added([running[n * 4 + m].load(), *(p * q for p, q in zip(w[m], x[n], strict=True))]))
        for n in range(4)
        for m in range(4)
    ]
    summed = UOp.group(ended(UOp.group(*more), turn), *coming)
    done = sums.after(ended(summed, stage))
    results = [(n * tn + i, m * tm + j, done[n * 4 + m].load()) for n in range(4) for m in range(4)]
    if parts > 1:
        board = shared(2, parts * high * (wide + 1))
        seen = board.after(*(board[(part * high + n) * (wide + 1) + m].store(value) for n, m, value in results))
        results = []
        for skipped in range(0, high * wide, THREADS):
            n, m = (thread + skipped) // wide, (thread + skipped) % wide
            results.append((n, m, added([seen[(p * high + n) * (wide + 1) + m].load() for p in range(parts)])))
    stores = []
    for n, m, value in results:
        token, row = some * high + n, rows * wide + m
        gates = (token < size.N if size.N % high else None, row < size.M if size.M % wide else None)
        stores.append(ops.out(group, token, matrix, row, value, *gates))
    return finish(size.name, (group, some, rows, i, j, part), *stores)


def _tile(size: Size) -> tuple[int, int]:
    """Tokens and rows of a block: as large as leaves enough blocks to fill a device."""
    most = 16 if size.N <= 16 else 32 if size.N <= 32 else 64
    for high, wide in ((most, 64), (most, 32), (most, 16)):
        if size.groups * -(-size.N // high) * -(-size.M // wide) >= 128:
            return high, wide
    return min(most, 32), 16
