"""A matrix state's scan (`Chunk`): its operands as [B, T, H, …], its reads in one pass.

Input: a `Chunk` and the draft.  Output: a `ChunkScan` and the names of what each read saw.

The batch axes are one axis H, in the state's own order, the value axes one axis V; coupled states lie side by side
along the key K.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from cdrmix.ir.array_statements import Answer, Asked, Beside, ChunkScan, Matrix
from cdrmix.ir.arrays import Array
from cdrmix.ir.forms import Chunk, Query
from cdrmix.ir.nodes import Axis, Index, Node, Ref

from .casts import full, viewed
from .draft import Draft
from .elements import valued
from .scans import beginning, declared, over, scan, update_of


@scan.register
def _(stmt: Chunk, draft: Draft) -> None:
    for s in stmt.states:
        draft.say(update_of(draft, s))
        draft.scans[s] -= 1
    operands = _Operands(stmt, draft)
    asked = tuple(operands.asked(q) for q in stmt.queries)
    decay = operands.decay()
    key, low, outer = (stmt.key,), stmt.low_rank, stmt.outer
    k = tuple(operands.beside(operands.flat(t.k, t.rank, key), t.target) for t in outer)
    v = tuple(operands.flat(t.v, t.rank, operands.value) for t in outer)
    a = tuple(operands.beside(operands.flat(t.a, t.rank, key), t.source) for t in low)
    b = tuple(operands.beside(operands.flat(t.b, t.rank, key), t.target) for t in low)
    value_decay = operands.flat(stmt.value_decay, None, operands.value) if stmt.value_decay is not None else None
    begin = tuple(beginning(draft, declared(draft, s)) for s in stmt.states)
    layout = Matrix(stmt.order, operands.batch, operands.value, stmt.key)
    answers, last = draft.local("answers"), draft.local(f"{stmt.states[0]}_last")
    again = draft.scans[stmt.states[0]] > 0
    draft.add(ChunkScan(answers, last, stmt.states, layout, asked, decay, k, v, a, b, value_decay, begin, again))
    for place, q in enumerate(stmt.queries):
        dims = (*stmt.batch, *q.lead, *stmt.value)
        name = draft.local(q.name)
        found = (*operands.batch, *q.lead, *operands.value)
        flat = (_size(stmt.batch), *((_size(q.lead),) if q.lead else ()), _size(stmt.value))
        draft.add(Answer(name, Array("local", arg=answers, lead=True), place, asked, flat, dims, found))
        draft.known(Ref("def", q.name), name, dims)


def _size(indices: Sequence[Index]) -> int:
    return prod(i.axis.size for i in indices)


def _flat(name: str, size: int) -> Index:
    return Index(name, Axis(name, size))


class _Operands:
    """Makes the operands, their axes in the state's order."""

    def __init__(self, stmt: Chunk, draft: Draft):
        self.stmt, self.draft = stmt, draft
        self.batch = tuple(sorted(stmt.batch, key=stmt.order.index))
        self.value = tuple(sorted(stmt.value, key=stmt.order.index))
        self.heads = _flat("H", _size(self.batch))

    def flat(self, n: Node, rank: Sequence[Index] | None, last: Sequence[Index]) -> Array:
        """An operand over batch, rank and `last` as [H, R, last], or [H, last] without a rank."""
        indices = (*self.batch, *(rank or ()), *last)
        x = over(self.draft, n, indices)
        middle = () if rank is None else (_flat("R", _size(rank)),)
        dims = (self.heads, *middle, _flat("L", _size(last)))
        return viewed(x, [i.axis.size for i in indices], [i.axis.size for i in dims], dims)

    def asked(self, q: Query) -> Asked:
        """A read, its vectors [H, (lead,) K]."""
        vectors = self.beside(self.flat(q.q, q.lead or None, (self.stmt.key,)), q.state)
        shape = tuple(i.axis.size for i in (*self.batch, *q.lead, *self.value))
        return Asked(vectors, q.after, _size(q.lead) if q.lead else 0, shape)

    def beside(self, x: Array, state: str) -> Beside:
        """The operand at its state's place on the key axis of coupled states."""
        return Beside(x, self.stmt.states.index(state), len(self.stmt.states))

    def decay(self) -> Array | tuple[tuple[Array | None, ...], ...] | None:
        """None, [H, 1 | K], or a table by source and target of [H, K]."""
        stmt, draft, key = self.stmt, self.draft, (self.stmt.key,)
        if len(stmt.states) > 1:
            pairs = [[stmt.decay.get((target, source)) for target in stmt.states] for source in stmt.states]
            return tuple(tuple(None if n is None else self.flat(n, None, key) for n in row) for row in pairs)
        n = stmt.decay.get((stmt.states[0], stmt.states[0]))
        one = (self.heads, _flat("L", 1))
        if n is None:
            return Array("expand", (Array("number", arg=0.0, type="number", const=0.0),), True, "float", one, True)
        x = valued(draft, n, (*self.batch, stmt.key))
        if x.const == 1:
            return None
        if stmt.key in x.dims:
            return self.flat(n, None, key)
        x = full(valued(draft, n, self.batch), self.batch, draft)
        return viewed(x, [i.axis.size for i in self.batch], [self.heads.axis.size, 1], one)
