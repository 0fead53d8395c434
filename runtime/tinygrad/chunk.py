"""The scan of a matrix state over a block of T tokens, in one kernel that reads the state once and writes it once.

    chunk_scan(q, after, w, k, v, states, a=None, b=None, wv=None, axes="hvk") -> (list of y, list of S_new)

    S' = (S (diag(w) + sum[r] a_r b_r^T)) * wv + sum[m] v_m k_m^T

    q       list of reads: [B, T, H, K], or n vectors that ask at once [B, T, H, n, K]: y = S q
    after   list of bool: the read sees S' (after this token), else S
    w       None (no decay), [B, T, H, 1], [B, T, H, K], or for F coupled states [B, T, H, F, F, K] (source, target):
            S_f' = sum[g] S_g w[g, f]
    k, v    [B, T, H, m, F*K], [B, T, H, m, V], or None, None (no addend)
    a, b    [B, T, H, r, F*K], or None, None
    wv      [B, T, H, V] or None; only without a, b
    states  list of F tensors [B, *axes], f32, each in its own order: `axes` names them, "h" batch (head), "v" value
            (row), "k" key (exactly one).  Several h (or v) axes flatten in the state's order into H (V).
            S[h, i, j] with key j: "hvk"; S[h, j, i] with key j: "hkv".
    returns y as [B, T, H, V] or [B, T, H, n, V], and the states after the last token.

With F states q, k, a, b lie side by side on the key axis (F*K), zero where a state has no part.
Input: operands are any lazy f32 tensors; the states their own realised buffers (slots, or reshapes of slots), which the
kernel writes into.  Output: S_new IS the slot after the kernel: realise it together with y, do not assign it again.

`lanes` threads share a row of S, which stays in registers; a token's sums over the keys meet in shared memory once:
S' q is asked of S, as S (w q + sum[r] a_r (b_r . q)) + sum[m] v_m (k_m . q).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

from tinygrad import Tensor, dtypes

from . import kernel
from .inline import Forms, expressions
from .kernel import UOp, added, block, buffer, ended, finish, gated, has_blocks, lane, launch, least, loop

Keys = Sequence[tuple[UOp, UOp | None]]
Decays = list[list[list[UOp] | None]]  # [source][target][key]; None where nothing multiplies
Vectors = list[list[list[UOp]]]  # [vector][state][key]
Spot = Callable[[int, int, UOp], UOp]  # state, place among the thread's keys, key

THREADS, BUSY = 128, 128  # threads of a block; blocks that keep a device busy
SHARED = 8192  # numbers of shared memory for the sums
INLINED = 6  # vectors that an operand may be an expression of, in a step
MOST = 128  # values a thread may hold of the next token


@dataclass(frozen=True, slots=True)
class Size:
    """What a kernel is made for."""

    B: int
    T: int
    shape: tuple[int, ...]  # of a state, without B
    axes: str
    states: int
    reads: tuple[tuple[int, bool], ...]  # vectors of each, and whether they see S'
    decay: str  # "none", "head", "key" or "mix"
    outer: int
    rank: int
    value_decay: bool

    def along(self, letter: str) -> int:
        """How many places the axes of a letter have together."""
        return prod(n for n, axis in zip(self.shape, self.axes, strict=True) if axis == letter)

    @property
    def name(self) -> str:
        sizes = "x".join(str(n) for n in (self.B, self.T, *self.shape))
        return f"state_{self.decay}_{self.rank}_{self.outer}_{sizes}"


@dataclass(frozen=True, slots=True)
class Operands:
    """What one token brings to a row, at the thread's keys."""

    w: Decays
    q: list[Vectors]
    a: Vectors
    b: Vectors
    k: Vectors
    v: list[UOp]
    wv: list[UOp]

    def loads(self) -> list[UOp]:
        """Each value once."""
        return list(dict.fromkeys(_flat([getattr(self, name) for name in self.__slots__])))

    def replaced(self, values: Sequence[UOp]) -> Operands:
        """The same with other values in place of `loads()`."""
        new = dict(zip(self.loads(), values, strict=True))
        return Operands(*(_mapped(getattr(self, name), new) for name in self.__slots__))


def _flat(x: Any) -> list[UOp]:
    return [] if x is None else [x] if isinstance(x, UOp) else [y for part in x for y in _flat(part)]


def _mapped(x: Any, new: dict[UOp, UOp]) -> Any:
    return x if x is None else new[x] if isinstance(x, UOp) else [_mapped(part, new) for part in x]


def chunk_scan(
    q: Sequence[Tensor],
    after: Sequence[bool],
    w: Tensor | None,
    k: Tensor | None,
    v: Tensor | None,
    states: Sequence[Tensor],
    a: Tensor | None = None,
    b: Tensor | None = None,
    wv: Tensor | None = None,
    axes: str = "hvk",
) -> tuple[list[Tensor], list[Tensor]]:
    """See the module."""
    if wv is not None and a is not None:
        raise ValueError("a decay along the value axis and a low-rank term need the sequential form")
    if axes.count("k") != 1 or (v is None) != (k is None) or (a is None) != (b is None):
        raise ValueError("one key axis; k with v; a with b")
    B, *shape = (int(n) for n in states[0].shape)
    given = [t for t in (*q, w, k, v, a, b, wv) if t is not None]
    if not given:  # nothing changes the state, nothing reads it
        return [], list(states)
    T = int(given[0].shape[1])
    size = Size(
        B,
        T,
        tuple(shape),
        axes,
        len(states),
        tuple((int(x.shape[3]) if x.ndim == 5 else 1, late) for x, late in zip(q, after, strict=True)),
        "none" if w is None else "mix" if w.ndim == 6 else "head" if w.shape[-1] == 1 else "key",
        0 if k is None else int(k.shape[3]),
        0 if a is None else int(a.shape[3]),
        wv is not None,
    )
    if size.decay == "key" and size.along("k") == 1:
        size = Size(**{**{f: getattr(size, f) for f in Size.__slots__}, "decay": "head"})
    H, V = size.along("h"), size.along("v")
    device = states[0].device
    leads = [(B, T, H, n) if x.ndim == 5 else (B, T, H) for x, (n, _) in zip(q, size.reads, strict=True)]
    y = [Tensor.empty(*lead, V, dtype=dtypes.float32, device=device) for lead in leads]
    forms, leaves = expressions(given, INLINED if T == 1 else 0)
    sink = _written(size, forms, has_blocks(device))
    out = launch(sink, [*y, *states], leaves)
    return out[: len(y)], out[len(y) :]


@cache
def _written(size: Size, forms: Forms, blocks: bool) -> UOp:
    return _Scan(size, forms, blocks).sink()


class _Scan:
    """One kernel."""

    def __init__(self, size: Size, forms: Forms, blocks: bool):
        self.size, self.forms, self.blocks = size, forms, blocks
        self.H, self.V, self.K, self.F = size.along("h"), size.along("v"), size.along("k"), size.states
        self.vector = 4 if size.axes[-1] == "k" and self.K % 4 == 0 else 1  # keys of one load
        self.pieces = self.K // self.vector
        rows = size.B * self.H * self.V
        self.lanes = 1
        if blocks:
            late = 1 + size.rank + size.outer  # sums of a read after the token
            sums = size.rank + sum(count * (late if after else 1) for count, after in size.reads)
            while self.lanes < 32 and self.lanes * 16 <= self.K and 2 * self.lanes * sums < SHARED:
                self.lanes *= 2
            lines = THREADS // self.lanes
            while lines > 1 and (
                lines * (sums * self.lanes + 4) > SHARED or (lines * self.lanes > 32 and -(-rows // lines) < BUSY)
            ):
                lines //= 2
            order = (1, 2) if size.axes[-1] == "k" else (2, 1)  # neighbours in the state's own order
            self.line, self.at = lane(lines, order[1]), lane(self.lanes, order[0])
            far = block(-(-rows // lines), 0)
            row = far * lines + self.line
            self.here = row < rows if rows % lines else None
            self.axes: tuple[UOp, ...] = (far, self.line, self.at)
            self.lines = lines
            self.row = least(row, rows - 1)
        else:
            self.row, self.here, self.lines = loop(rows, 0), None, 1
            self.line = self.at = UOp.const(0)
            self.axes = (self.row,)
        self.own = -(-self.pieces // self.lanes)
        self.t = loop(size.T, 3)
        self.batch, self.v = self.row // (self.H * self.V), self.row % self.V
        self._arguments()

    def _arguments(self) -> None:
        size, reads = self.size, len(self.size.reads)
        heads = size.B * size.T * self.H
        self.y = [buffer(n, heads * count * self.V) for n, (count, _) in enumerate(size.reads)]
        self.S = [buffer(reads + f, size.B * prod(size.shape)) for f in range(self.F)]
        self.given = self.forms.buffers(reads + self.F)
        there = {"w": size.decay != "none", "k": size.outer, "v": size.outer, "a": size.rank, "b": size.rank}
        names = [n for n, count in {**there, "wv": size.value_decay}.items() if count]
        self.places = {name: reads + n for n, name in enumerate(names)}  # among the operands

    # --- where things lie -------------------------------------------------------------------------------------------
    def keys(self, axis: int) -> tuple[tuple[UOp, ...], list[tuple[UOp, UOp | None]]]:
        """A pass over the thread's keys: the loop it is in, and the keys of one turn with their gates."""
        if not self.blocks:
            piece = loop(self.pieces, axis)
            return (piece,), [(piece * self.vector + c, None) for c in range(self.vector)]
        found: list[tuple[UOp, UOp | None]] = []
        for p in range(self.own):
            piece = self.at + p * self.lanes
            gate = piece < self.pieces if (p + 1) * self.lanes > self.pieces else None
            found += [(piece * self.vector + c, gate) for c in range(self.vector)]
        return (), found

    def cell(self, key: UOp) -> UOp:
        """Where the row's value at a key lies in a state."""
        size = self.size
        if size.axes == "".join(sorted(size.axes, key="hvk".index)):
            return self.row * self.K + key
        left = {"h": self.row // self.V % self.H, "v": self.v, "k": key}
        place, stride = UOp.const(0), 1
        for n, axis in reversed(list(zip(size.shape, size.axes, strict=True))):
            place = place + left[axis] % n * stride
            left[axis] = left[axis] // n
            stride *= n
        return place + self.batch * stride

    def head(self, t: UOp) -> UOp:
        """The row's place in [B, T, H]."""
        return (self.batch * self.size.T + t) * self.H + self.row // self.V % self.H

    def operands(self, keys: Keys, t: UOp, more: UOp | None = None) -> Operands:
        """What a token brings to a row at some keys; nothing is read where `more` is False."""
        size, head = self.size, self.head(t)

        def one(operand: str | int, at: UOp, gate: UOp | None = None) -> UOp:
            place = self.places[operand] if isinstance(operand, str) else operand
            return self.forms.read(place, self.given, at, gate, more)

        def along(operand: str | int, vector: UOp) -> list[UOp]:
            return [one(operand, vector * self.K + key, gate) for key, gate in keys]

        def vectors(operand: str | int, count: int) -> Vectors:
            return [[along(operand, (head * count + n) * self.F + f) for f in range(self.F)] for n in range(count)]

        def decays() -> Decays:
            if size.decay == "mix":
                return [[along("w", (head * self.F + g) * self.F + f) for f in range(self.F)] for g in range(self.F)]
            every = along("w", head) if size.decay == "key" else [one("w", head)] * len(keys)
            return [[every] * self.F] * self.F

        return Operands(
            [[None] * self.F] * self.F if size.decay == "none" else decays(),
            [vectors(n, count) for n, (count, _) in enumerate(size.reads)],
            vectors("a", size.rank),
            vectors("b", size.rank),
            vectors("k", size.outer),
            [one("v", (head * size.outer + m) * self.V + self.v) for m in range(size.outer)],
            [one("wv", head * self.V + self.v)] if size.value_decay else [],
        )

    def through(self, w: Decays, x: list[list[UOp]], source: int, j: int) -> UOp:
        """What the decay makes of a vector that asks S', at a key of a source state."""
        if self.size.decay == "mix":
            return added([w[source][f][j] * x[f][j] for f in range(self.F)])  # type: ignore[index]
        decay = w[source][source]
        return x[source][j] if decay is None else decay[j] * x[source][j]

    # --- the kernel -------------------------------------------------------------------------------------------------
    def sink(self) -> UOp:
        """See the module."""
        size, F = self.size, self.F
        if size.T == 1:
            said, kept = self.token(self.S, lambda f, i, key: self.cell(key), (self.here,))
            return finish(size.name, self.axes, *said, *kept)
        axes, keys = self.keys(4)
        width = len(keys) if self.blocks else self.K
        held = kernel.register(0, F * width)

        def spot(f: int, i: int, key: UOp) -> UOp:
            return UOp.const(f * width + i) if self.blocks else key + f * width

        init = UOp.group(
            *(
                held[spot(f, i, key)].store(self.S[f][gated(self.cell(key), gate)].load())
                for f in range(F)
                for i, (key, gate) in enumerate(keys)
            )
        )
        begun, given, coming = [ended(init, *axes)], None, []
        first = self.operands(keys, UOp.const(0)) if self.blocks else None
        count = len(first.loads()) if first else 0
        if first and 0 < count <= MOST:  # the next token's operands are on their way while this one is worked on
            ahead = kernel.register(2, count)
            begun += [ahead[n].store(x) for n, x in enumerate(first.loads())]
            given = first.replaced([ahead.after(*begun, self.t)[n].load() for n in range(count)])
        said, kept = self.token([held.after(*begun, self.t)] * F, spot, None, given)
        if given:
            later = self.operands(keys, self.t + 1, self.t < size.T - 1).loads()
            coming = [ahead.after(*said, *kept)[n].store(x) for n, x in enumerate(later)]
        done = held.after(ended(UOp.group(*said, *kept, *coming), self.t))
        axes, keys = self.keys(5)
        last = [
            self.S[f][gated(self.cell(key), gate, self.here)].store(done[spot(f, i, key)].load())
            for f in range(F)
            for i, (key, gate) in enumerate(keys)
        ]
        return finish(size.name, (*self.axes, *axes), *last)

    def token(
        self, held: Sequence[UOp], spot: Spot, stored: tuple[UOp | None] | None, given: Operands | None = None
    ) -> tuple[list[UOp], list[UOp]]:
        """The stores of one token: what the reads saw, and the state.

        `spot(state, i, key)` is a value's place in `held`; `stored` are the gates of stores when that is memory.
        """
        size = self.size
        axes, keys = self.keys(6)

        def values(held: Sequence[UOp], keys: Keys) -> list[list[UOp]]:
            place = [(i, key, None if stored is None else gate) for i, (key, gate) in enumerate(keys)]
            return [[held[f][gated(spot(f, i, key), gate)].load() for i, key, gate in place] for f in range(self.F)]

        old, x = values(held, keys), given or self.operands(keys, self.t)
        sums = [_dot(old, vector) for vector in x.a]
        for (_, late), q in zip(size.reads, x.q, strict=True):
            for vector in q:
                asked = [[self.through(x.w, vector, g, j) for j in range(len(keys))] for g in range(self.F)]
                sums.append(_dot(old, asked if late else vector))
                if late:
                    sums += [_dot(other, vector) for other in (*x.b, *x.k)]
        sums, posted = self.together(sums, axes)
        said = self.answers(sums, x)
        if not self.blocks:
            axes, keys = self.keys(7)
            held = [one.after(*posted) for one in held]
            old, x = values(held, keys), self.operands(keys, self.t)
        kept = []
        for f in range(self.F):
            for i, (key, gate) in enumerate(keys):
                new = self.decayed(old, x.w, f, i)
                new = new * x.wv[0] if x.wv else new
                terms = zip([*sums[: size.rank], *x.v], [*x.b, *x.k], strict=True)
                place = gated(spot(f, i, key), *(() if stored is None else (gate, *stored)))
                kept.append(held[f][place].store(added([new, *(c * y[f][i] for c, y in terms)])))
        return said, [ended(UOp.group(*kept), *axes)]

    def answers(self, sums: Sequence[UOp], x: Operands) -> list[UOp]:
        """The stores of what the reads saw, from the sums over the keys."""
        size, at = self.size, self.size.rank
        said: list[UOp] = []
        for y, (count, late) in zip(self.y, size.reads, strict=True):
            for n in range(count):
                value, at = sums[at], at + 1
                if late:
                    value = value * x.wv[0] if x.wv else value
                    also = [c * sums[at + i] for i, c in enumerate([*sums[: size.rank], *x.v])]
                    value, at = added([value, *also]), at + len(also)
                turn = None if self.lanes == 1 else self.at.eq(len(said) % self.lanes)
                said.append(y[gated((self.head(self.t) * count + n) * self.V + self.v, turn, self.here)].store(value))
        return said

    def decayed(self, old: list[list[UOp]], w: Decays, f: int, i: int) -> UOp:
        """A state's value after the decay."""
        if self.size.decay == "mix":
            return added([old[g][i] * w[g][f][i] for g in range(self.F)])  # type: ignore[index]
        decay = w[f][f]
        return old[f][i] if decay is None else old[f][i] * decay[i]

    def together(self, sums: list[UOp], axes: tuple[UOp, ...]) -> tuple[list[UOp], list[UOp]]:
        """Sums over all keys, from those over the thread's own; and the stores they are read after."""
        if not sums or (self.blocks and self.lanes == 1):
            return sums, []
        if not self.blocks:
            board = kernel.register(1, len(sums))
            posted = [board[n].store(kernel.total(s, *axes)) for n, s in enumerate(sums)]
            seen = board.after(*posted)
            return [seen[n].load() for n in range(len(sums))], posted
        wide = len(sums) * self.lanes + 4  # neighbouring rows in different banks
        board = kernel.shared(0, self.lines * wide)
        posted = [board[self.line * wide + n * self.lanes + self.at].store(s) for n, s in enumerate(sums)]
        seen = board.after(*posted)
        return [
            added([seen[self.line * wide + n * self.lanes + j].load() for j in range(self.lanes)])
            for n in range(len(sums))
        ], posted


def _dot(x: list[list[UOp]], y: list[list[UOp]]) -> UOp:
    return added([p * q for one, other in zip(x, y, strict=True) for p, q in zip(one, other, strict=True)])
