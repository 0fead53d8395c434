"""A matrix state's scan (`Chunk`): its operands as [B, T, H, …], its reads in one pass.

Input: a `Chunk` and the draft.  Output: a `ChunkScan` and the names of what each read saw.

The batch axes are one axis H, in the state's own order, the value axes one axis V; coupled states lie side by side
along the key K.  The library cuts T into chunks, joined pair by pair within by doubling (Hillis & Steele 1986, "Data
parallel algorithms"); low-rank terms meet there in the WY/UT form (Bischof & Van Loan 1987; Yang et al. 2024,
arXiv:2406.06484).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cdrmix.ir.array_statements import Asked, Beside, ChunkScan, Matrix
from cdrmix.ir.arrays import Array
from cdrmix.ir.forms import Chunk
from cdrmix.ir.nodes import Axis, Index, Node, Ref
from cdrmix.ir.walk import size

from .draft import Draft
from .elements import over, valued
from .scans import beginning, declared, scan, update_of
from .values import flat, full, number


@scan.register
def _(stmt: Chunk, draft: Draft) -> None:
    for s in stmt.states:
        draft.say(update_of(draft, s))
    batch, value = (tuple(i for i in stmt.order if i in axes) for axes in (stmt.batch, stmt.value))
    layout = Matrix(stmt.order, batch, value, stmt.key)
    key = (stmt.key,)

    def made(n: Node, rank: Sequence[Index] | None, last: Sequence[Index]) -> Array:
        """An operand as [H, R, last], or [H, last] without a rank."""
        return _operand(n, batch, rank, last, draft)

    def beside(n: Node, rank: Sequence[Index] | None, state: str) -> Beside:
        """A vector along the keys of its state."""
        return Beside(made(n, rank, key), stmt.states.index(state), len(stmt.states))

    asked = []
    for q in stmt.queries:
        vectors = beside(q.q, q.lead or None, q.state)  # [H, (L,) K]
        groups = [batch, *([q.lead] if q.lead else []), value]
        dims, found = (*stmt.batch, *q.lead, *stmt.value), (*batch, *q.lead, *value)
        asked.append(Asked(draft.local(q.name), vectors, q.after, q.lead, tuple(map(size, groups)), found, dims))
    decay = _decay(stmt, batch, draft)
    k = tuple(beside(t.k, t.rank, t.target) for t in stmt.outer)  # [H, R, K]
    v = tuple(made(t.v, t.rank, value) for t in stmt.outer)  # [H, R, V]
    a = tuple(beside(t.a, t.rank, t.source) for t in stmt.low_rank)  # [H, R, K]
    b = tuple(beside(t.b, t.rank, t.target) for t in stmt.low_rank)  # [H, R, K]
    value_decay = made(stmt.value_decay, None, value) if stmt.value_decay is not None else None  # [H, V]
    begin = tuple(beginning(draft, declared(draft, s)) for s in stmt.states)
    answers, last = draft.local("answers"), draft.local(f"{stmt.states[0]}_last")
    for place, earlier in enumerate(draft.statements):
        if isinstance(earlier, ChunkScan) and earlier.states[0] in stmt.states:
            draft.statements[place] = replace(earlier, again=True)
    draft.add(ChunkScan(answers, last, stmt.states, layout, tuple(asked), decay, k, v, a, b, value_decay, begin))
    for q, read in zip(stmt.queries, asked, strict=True):
        draft.known(Ref("def", q.name), read.name, read.dims)


def _operand(
    n: Node, batch: Sequence[Index], rank: Sequence[Index] | None, last: Sequence[Index], draft: Draft
) -> Array:
    x = over(draft, n, (*batch, *(rank or ()), *last))
    return flat(x, ("H", batch), *([] if rank is None else [("R", rank)]), ("L", last))


def _decay(stmt: Chunk, batch: Sequence[Index], draft: Draft) -> Array | tuple[tuple[Array | None, ...], ...] | None:
    """None, [H, 1 | K], or a table by source and target of [H, K]."""
    key = (stmt.key,)
    if len(stmt.states) > 1:
        pairs = [[stmt.decay.get((target, source)) for target in stmt.states] for source in stmt.states]
        return tuple(tuple(None if n is None else _operand(n, batch, None, key, draft) for n in row) for row in pairs)
    n = stmt.decay.get((stmt.states[0], stmt.states[0]))
    if n is None:
        one = Index("H", Axis("H", size(batch))), Index("L", Axis("L", 1))
        return full(number(0.0), one, draft)
    x = valued(draft, n, (*batch, stmt.key))
    if x.const == 1:
        return None
    if stmt.key in x.dims:
        return _operand(n, batch, None, key, draft)
    return flat(over(draft, n, batch), ("H", batch), ("L", ()))
