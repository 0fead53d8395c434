"""Choosing: the largest k, the largest one, one drawn from a distribution; all on the device, static shapes.

    top(values [..., E], k) -> (values [..., k], picks [..., k] int32)    largest first, ties by the lowest place
    argmax(logits [..., V]) -> [...] int32                                ties by the lowest place
    sample(logits [B, V], temperature [B], top_p [B], top_k, u [B]) -> [B] int32
        the token whose share of the probability (softmax(logits / temperature) over the top_k most likely, cut to the
        smallest set that reaches top_p) holds u in [0, 1).  temperature <= 0: argmax.

To `top` NaN counts as minus infinity; a pick is always in [0, E), and the k picks are different places.  `argmax` and
`sample` give -1 where nothing can be chosen: where a logit is NaN, or the largest is not finite.

Input: lazy or realised f32 tensors.  Output: `top` tensors of their own buffers.
A value's rank is how many beat it: every value writes itself to the place of its rank, no two to the same, none beyond.
Longer rows than `WIDE` are cut in pieces, whose best are ranked again.
"""

from __future__ import annotations

from functools import cache
from math import inf, log, prod

from tinygrad import Tensor, dtypes

from .kernel import UOp, block, buffer, finish, gated, has_blocks, lane, launch, least, loop, real, shared, total

WIDE = 1024  # values ranked among each other
PIECE = 256
THREADS = 128


def top(values: Tensor, k: int, nan: float = -inf) -> tuple[Tensor, Tensor]:
    """See the module.  `nan` is what NaN counts as."""
    *lead, E = (int(n) for n in values.shape)
    if not 0 < k <= E:
        raise ValueError(f"{k} of {E} values")
    rows = prod(lead)
    best, picks, width = values.cast(dtypes.float32).reshape(rows, E), None, E
    while width > WIDE and width > max(PIECE, 2 * k):
        best, picks = _ranked(best, picks, rows, width, max(PIECE, 2 * k), k, nan)
        width = int(best.shape[1])
    best, picks = _ranked(best, picks, rows, width, width, k, nan)
    return best.reshape(*lead, k), picks.reshape(*lead, k)


def argmax(logits: Tensor) -> Tensor:
    """See the module."""
    best, picks = top(logits, 1, inf)
    return _sound(best).where(picks, -1).squeeze(-1)


def _sound(best: Tensor) -> Tensor:
    """Whether something can be chosen, where NaN comes first: [..., 1]."""
    return best[..., :1].abs() < inf


def sample(logits: Tensor, temperature: Tensor, top_p: Tensor, top_k: int, u: Tensor) -> Tensor:
    """See the module."""
    best, picks = top(logits, min(top_k, int(logits.shape[-1])), inf)
    B, k = (int(n) for n in best.shape)
    if k == 1:
        return _sound(best).where(picks, -1).reshape(B)
    if has_blocks(logits.device) and k <= THREADS:
        out = Tensor.empty(B, dtype=dtypes.int32, device=logits.device)
        return launch(_drawn(B, k), [out], [best, picks, *(t.cast(dtypes.float32) for t in (temperature, top_p, u))])[0]
    cold = temperature <= 0
    heat = cold.where(1.0, temperature).unsqueeze(-1)  # [B, 1]
    weight = ((best - best[:, :1]) / heat).exp().contiguous()  # [B, k]
    place = Tensor.arange(k)
    up_to = place.reshape(1, k, 1) >= place.reshape(1, 1, k)
    reached = up_to.where(weight.unsqueeze(1), 0.0).sum(-1)  # [B, k]: the weight of a place and those before it
    inside = (reached - weight) < top_p.unsqueeze(-1) * weight.sum(-1, keepdim=True)
    inside = (inside | (place == 0)).contiguous()
    kept = inside.where(weight, 0.0).sum(-1, keepdim=True)
    passed = (inside & (reached <= u.unsqueeze(-1) * kept)).sum(-1, keepdim=True)
    last = inside.sum(-1, keepdim=True) - 1
    turn = cold.unsqueeze(-1).where(0, passed.minimum(last))
    return _sound(best).where((place == turn).where(picks, 0).sum(-1, keepdim=True), -1).reshape(B).cast(dtypes.int32)


@cache
def _drawn(B: int, k: int) -> UOp:
    """The same in one kernel, a block a row and a thread a value."""
    row, j, i, n = block(B, 0), lane(k, 1), loop(k, 2), loop(k, 3)
    token, best, picks = buffer(0, B, dtypes.int32), buffer(1, B * k), buffer(2, B * k, dtypes.int32)
    heat, top_p, u = (buffer(3 + s, B)[row].load() for s in range(3))
    cold = heat <= 0.0
    apart = (best[row * k + j].load() - best[row * k].load()) / cold.where(real(1), heat)
    weight, reached, inside = (shared(s, k) for s in range(3))
    weight = weight.after(weight[j].store((apart * real(1 / log(2))).exp2()))
    own, other = weight[j].load(), weight[i].load()
    up_to, every = total((i <= j).where(other, real(0)), i), total(other, i)
    there = (up_to - own < top_p * every) | j.eq(0)
    put = [reached[j].store(up_to), inside[j].store(there.where(real(1), real(0)))]
    reached, inside = reached.after(*put), inside.after(*put)
    kept = total(inside[n].load() * weight[n].load(), n)
    last = loop(k, 4)
    passed = total(((inside[last].load() > 0.0) & (reached[last].load() <= u * kept)).cast(dtypes.int32), last)
    turn = passed.minimum(total(inside[last].load(), last).cast(dtypes.int32) - 1).maximum(0)
    at = row * k + cold.where(0, turn).cast(dtypes.weakint)
    first = best[row * k].load()
    chosen = ((first < inf) & (first > -inf)).where(picks[at].load(), -1)
    return finish(f"draw_{B}_of_{k}", (row, j), token[gated(row, j.eq(0))].store(chosen))


def _ranked(
    best: Tensor, picks: Tensor | None, rows: int, width: int, piece: int, k: int, nan: float
) -> tuple[Tensor, Tensor]:
    """The best k of each piece of a row, side by side: [rows, pieces * k], and where they stood in the first row."""
    pieces = -(-width // piece)
    out = Tensor.empty(rows, pieces * k, dtype=dtypes.float32, device=best.device)
    places = Tensor.empty(rows, pieces * k, dtype=dtypes.int32, device=best.device)
    sink = _written(rows, width, piece, k, picks is not None, has_blocks(best.device), nan)
    found = launch(sink, [out, places], [best] if picks is None else [best, picks])
    return found[0], found[1]


@cache
def _written(rows: int, width: int, piece: int, k: int, again: bool, blocks: bool, nan: float) -> UOp:
    """A value a thread: it counts the values of its piece that beat it."""
    pieces = -(-width // piece)
    best, picks = buffer(0, rows * pieces * k), buffer(1, rows * pieces * k, dtypes.int32)
    values = buffer(2, rows * width)
    before = buffer(3, rows * width, dtypes.int32) if again else None
    if blocks:
        threads = min(THREADS, piece)
        row, part = block(rows, 0), block(pieces, 1)
        far, near = block(-(-piece // threads), 2), lane(threads, 3)
        mine = least(far * threads + near, piece - 1)  # spare threads repeat the last value
        axes: tuple[UOp, ...] = (row, part, far, near)
    else:
        row, part, mine = loop(rows, 0), loop(pieces, 1), loop(piece, 2)
        axes = (row, part, mine)
    other = loop(piece, 4)

    def value(place: UOp) -> tuple[UOp, UOp]:
        """The value at a place of the piece, and what it counts as; nothing lies beyond the row."""
        at = part * piece + place
        found = values[row * width + least(at, width - 1)].load()
        counts = found.ne(found).where(real(nan), found)
        return found, counts if width % piece == 0 else (at < width).where(counts, real(-inf))

    (own, counts), (_, rival) = value(mine), value(other)
    beaten = (counts < rival) | (rival.eq(counts) & (other < mine))
    rank = total(beaten.cast(dtypes.int32), other).cast(dtypes.weakint)
    to = gated((row * pieces + part) * k + rank, rank < k)
    at = least(part * piece + mine, width - 1)
    place = at.cast(dtypes.int32) if before is None else before[row * width + at].load()
    name = f"{'top' if nan < 0 else 'choose'}_{k}_{rows}x{width}"
    return finish(name, axes, best[to].store(own), picks[to].store(place))
