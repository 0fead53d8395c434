"""Scans over a block of T tokens, the state updated in place: one kernel each, the state read once and written once.

    linear_scan(decay, addend, s) -> (after [B, T, *S], s_new [B, *S])              s' = decay * s + addend
    max_plus_scan(decay, addend, s, combine) -> (after [B, T, *S], s_new [B, *S])   s' = combine(s + decay, addend)
        decay, addend broadcast to [B, T, *S]; s [B, *S] f32; combine "max" or "logaddexp".
    coupled_scan(decay, addend, states) -> (list of after [B, T, *S], list of s_new [B, *S])
        states: list of F tensors [B, *S]; decay[f][g] broadcasts to [B, T, *S] or None (zero); addend[f] likewise:
        s_f' = sum over g of decay[f][g] * s_g + addend[f].
    chunk_scan: see `chunk.py`, which has it.

Input: operands are any lazy f32 tensors, T from the addends.  A state must be its own realised buffer (a slot, or a
reshape of one): the kernel writes the new value INTO it.  Whatever else reads the state's old value must be realised
before.
Output: the returned s_new IS the slot after the kernel: realise it together with the other outputs of the call, and do
not assign it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import log, prod

from tinygrad import Tensor, dtypes

from .chunk import chunk_scan
from .inline import Forms, expressions
from .kernel import UOp, added, block, buffer, finish, has_blocks, lane, launch, least, loop, real, register

__all__ = ["chunk_scan", "coupled_scan", "linear_scan", "max_plus_scan"]

Shape = tuple[int, ...]
THREADS = 64
INLINED = 8  # vectors that an operand may be an expression of


def linear_scan(decay: Tensor, addend: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """See the module."""
    after, new = coupled_scan([[decay]], [addend], [s])
    return after[0], new[0]


def max_plus_scan(decay: Tensor, addend: Tensor, s: Tensor, combine: str) -> tuple[Tensor, Tensor]:
    """See the module."""
    after, new = _scan([[decay]], [addend], [s], combine)
    return after[0], new[0]


def coupled_scan(
    decay: Sequence[Sequence[Tensor | None]], addend: Sequence[Tensor], states: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """See the module."""
    return _scan(decay, addend, states, "add")


def _scan(
    decay: Sequence[Sequence[Tensor | None]], addend: Sequence[Tensor], states: Sequence[Tensor], combine: str
) -> tuple[list[Tensor], list[Tensor]]:
    B, *S = (int(n) for n in states[0].shape)
    rank = len(S) + 2
    operands = [_ranked(t, rank) for t in addend]
    places: list[tuple[int | None, ...]] = []
    for row in decay:
        found: list[int | None] = []
        for d in row:
            found.append(None if d is None else len(operands))
            if d is not None:
                operands.append(_ranked(d, rank))
        places.append(tuple(found))
    T = max(int(t.shape[1]) for t in operands)
    shapes = tuple(tuple(int(n) for n in t.shape) for t in operands)
    blocks = has_blocks(states[0].device)
    forms, leaves = expressions(operands, INLINED)
    sink = _written((B, T, *S), shapes, forms, tuple(places), combine, blocks)
    after = [Tensor.empty(B, T, *S, dtype=dtypes.float32, device=states[0].device) for _ in states]
    out = launch(sink, [*after, *states], leaves)
    return out[: len(states)], out[len(states) :]


def _ranked(t: Tensor, rank: int) -> Tensor:
    """A f32 tensor of `rank` axes."""
    return t.cast(dtypes.float32).reshape(*[1] * (rank - t.ndim), *t.shape)


def join(combine: str) -> Callable[[UOp, UOp], UOp]:
    """The sum of a max-plus algebra."""
    if combine == "max":
        return lambda a, b: a.maximum(b)

    def soft(a: UOp, b: UOp) -> UOp:
        apart = a.eq(b).where(real(0), a - b)  # two infinities of one sign are not apart
        apart = (apart < 0.0).where(apart, -apart)
        return a.maximum(b) + ((apart * real(1 / log(2))).exp2() + 1.0).log2() * real(log(2))

    return soft


@cache
def _written(
    full: Shape,
    shapes: tuple[Shape, ...],
    forms: Forms,
    places: tuple[tuple[int | None, ...], ...],
    combine: str,
    blocks: bool,
) -> UOp:
    """A thread an element, a loop over the tokens; `places[f][g]`: which operand decays state g into f."""
    B, T, *S = full
    F = len(places)
    items = B * prod(S)
    if blocks:
        far, near = block(-(-items // THREADS), 0), lane(min(THREADS, items), 1)
        at = far * THREADS + near
        gate = at < items if items > THREADS and items % THREADS else None
        axes: tuple[UOp, ...] = (far, near)
        item = least(at, items - 1)
    else:
        at = item = loop(items, 0)
        axes, gate = (at,), None
    t = loop(T, 2)
    after = [buffer(f, items * T) for f in range(F)]
    state = [buffer(F + f, items) for f in range(F)]
    given = forms.buffers(2 * F)
    x = [forms.read(n, given, _place(shape, full, item, t)) for n, shape in enumerate(shapes)]
    began = [s[item].load() for s in state]
    if T > 1:
        held = register(0, F)
        init = [held[f].store(v) for f, v in enumerate(began)]
        running = held.after(*init, t)
        old = [running[f].load() for f in range(F)]
    else:
        old = began
    new = []
    for f, row in enumerate(places):
        if combine == "add":
            new.append(added([x[n] * old[g] for g, n in enumerate(row) if n is not None] + [x[f]]))
        else:
            (n,) = row
            assert n is not None
            new.append(join(combine)(old[f] + x[n], x[f]))
    batch, rest = item // prod(S), item % prod(S)
    place = (batch * T + t) * prod(S) + rest
    said = [after[f][place if gate is None else place.valid(gate)].store(v) for f, v in enumerate(new)]
    last = item if gate is None else item.valid(gate)
    name = f"{'scan' if combine == 'add' else combine}_{'x'.join(map(str, full))}"
    if T == 1:
        return finish(name, axes, *said, *[state[f][last].store(v) for f, v in enumerate(new)])
    kept = [running[f].store(v) for f, v in enumerate(new)]
    done = held.after(UOp.group(*said, *kept).end(t))
    return finish(name, axes, *[state[f][last].store(done[f].load()) for f in range(F)])


def _place(shape: Shape, full: Shape, item: UOp, t: UOp) -> UOp:
    """Where an operand that broadcasts to `full` has the value of an item (batch and element) at a token."""
    at, stride, below = UOp.const(0), 1, 1
    for axis in range(len(full) - 1, -1, -1):
        if axis == 1:
            index: UOp = t
        else:
            index = item // below % full[axis] if axis else item // below
            below *= full[axis]
        if shape[axis] > 1:
            at = at + index * stride
            stride *= shape[axis]
    return at
