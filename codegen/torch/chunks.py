"""Emission of a matrix state's scan (`Chunk`): its operands as [B, T, H, ...], its reads in one pass.

Input: a `Chunk` and the scope of a `forward`.
Output: one call of `chunk_reads` in the scope, the states after the last token in `stream.new`, and symbols for what
each read saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from cdrmix.ir.forms import Chunk
from cdrmix.ir.nodes import Axis, Index, Node, Ref

from .casts import full
from .scans import Uses, declared, emit_scan, initial, key, old, operand, shape, state_span
from .scope import Scope, Symbol
from .statements import valued
from .value import atom, reshaped


@emit_scan.register
def _(stmt: Chunk, scope: Scope, uses: Uses) -> None:
    states = [declared(scope, s) for s in stmt.states]
    for s in stmt.states:
        scope.say(state_span(scope, s))
    layout = _Layout(stmt)
    args = [_asked(stmt, layout, scope)]
    after = [str(q.after) for q in stmt.queries for _ in range(_count(q.lead))] or ["False"]
    args.append(f"after=[{', '.join(after)}]")
    w = _decay(stmt, layout, scope)
    args.append(f"w={w}")
    args += _addends(stmt, layout, scope)
    args.append(f"S0={_begin(scope, layout, [old(s) for s in stmt.states], 1)}")
    if stmt.low_rank:
        a = [_block(layout, t.source, _flat(scope, layout, t.a, t.rank, (stmt.key,)), 3) for t in stmt.low_rank]
        b = [_block(layout, t.target, _flat(scope, layout, t.b, t.rank, (stmt.key,)), 3) for t in stmt.low_rank]
        args += [f"a={_cat(a, 3)}", f"b={_cat(b, 3)}"]
    if stmt.value_decay is not None:
        args.append(f"wv={_flat(scope, layout, stmt.value_decay, None, stmt.value)}")
    args.append("reset=stream.reset")
    begins = [initial(scope, s) for s in states]
    if any(b is not None for b in begins):
        sizes = ", ".join(str(i.axis.size) for i in stmt.order)
        filled = [b if b is not None else f"{scope.data}.new_zeros({sizes})" for b in begins]
        args.append(f"initial={_begin(scope, layout, filled, 0)}")
    answers = scope.names.fresh("answers")
    last = scope.names.fresh(f"{stmt.states[0]}_last")
    scope.line(f"{answers}, {last} = chunk_reads(")
    for arg in args:
        scope.line(f"    {arg},")
    scope.line(")")
    _store(stmt, layout, scope, last)
    _answered(stmt, scope, answers)


class _Layout:
    """How a chunk's axes become [B, T, H, ..., V | K]."""

    def __init__(self, stmt: Chunk):
        self.stmt = stmt
        self.states = stmt.states
        self.batch = [i.axis.size for i in stmt.batch]
        self.value = [i.axis.size for i in stmt.value]
        self.heads, self.rows, self.width = prod(self.batch), prod(self.value), stmt.key.axis.size
        self.inner = (*stmt.batch, *stmt.value, stmt.key)


def _count(indices: Sequence[Index]) -> int:
    return prod(i.axis.size for i in indices)


def _flat(scope: Scope, layout: _Layout, n: Node, rank: Sequence[Index] | None, last: Sequence[Index]) -> str:
    """An operand over batch, rank and `last` as [B, T, H, rank, last], or without the rank when it is None."""
    indices = (*layout.stmt.batch, *(rank or ()), *last)
    code = operand(scope, n, indices)
    middle = [] if rank is None else [_count(rank)]
    new = [layout.heads, *middle, _count(last)]
    if [i.axis.size for i in indices] == new:
        return code
    return reshaped(atom(code), [i.axis.size for i in indices], new)


def _block(layout: _Layout, state: str, code: str, dims: int) -> str:
    """The operand at its state's place on the key axis of coupled states, zero at the others'."""
    if len(layout.states) == 1:
        return code
    at = layout.states.index(state) * layout.width
    return f"F.pad({code}, ({at}, {(len(layout.states) - 1) * layout.width - at}))"


def _cat(parts: Sequence[str], dim: int) -> str:
    return parts[0] if len(parts) == 1 else f"torch.cat([{', '.join(parts)}], {dim})"


def _asked(stmt: Chunk, layout: _Layout, scope: Scope) -> str:
    """The vectors that the reads put to the state."""
    found = []
    for q in stmt.queries:
        if q.lead:
            code = _block(layout, q.state, _flat(scope, layout, q.q, q.lead, (stmt.key,)), 3)
            found.append(f"*{atom(code)}.unbind(3)")
        else:
            found.append(_block(layout, q.state, _flat(scope, layout, q.q, None, (stmt.key,)), 2))
    if not found:  # nothing reads the state in this cell, but it is saved
        wide = layout.width * len(layout.states)
        found = [f"{scope.data}.new_zeros({shape(scope, ())}, {layout.heads}, {wide})"]
    return f"[{', '.join(found)}]"


def _decay(stmt: Chunk, layout: _Layout, scope: Scope) -> str:
    if len(stmt.states) > 1:
        zero = f"{scope.data}.new_zeros({shape(scope, ())}, {layout.heads}, {layout.width})"
        columns = []
        for source in stmt.states:
            row = [
                _flat(scope, layout, stmt.decay[target, source], None, (stmt.key,))
                if (target, source) in stmt.decay
                else zero
                for target in stmt.states
            ]
            columns.append(f"torch.stack([{', '.join(row)}], 3)")
        return f"torch.stack([{', '.join(columns)}], 3)"
    n = stmt.decay.get((stmt.states[0], stmt.states[0]))
    if n is None:
        return f"{scope.data}.new_zeros({shape(scope, ())}, {layout.heads}, 1)"
    v = valued(scope, n, (*stmt.batch, stmt.key))
    if v.const == 1:
        return "None"
    if stmt.key in v.dims:
        return _flat(scope, layout, n, None, (stmt.key,))
    one = Index("one", Axis("", 1))
    code = full(v, (*stmt.batch, one), scope)
    return reshaped(atom(code), [*layout.batch, 1], [layout.heads, 1])


def _addends(stmt: Chunk, layout: _Layout, scope: Scope) -> list[str]:
    if not stmt.outer:
        wide = layout.width * len(layout.states)
        lead = shape(scope, ())
        return [
            f"k={scope.data}.new_zeros({lead}, {layout.heads}, 1, {wide})",
            f"v={scope.data}.new_zeros({lead}, {layout.heads}, 1, {layout.rows})",
        ]
    k = [_block(layout, t.target, _flat(scope, layout, t.k, t.rank, (stmt.key,)), 3) for t in stmt.outer]
    v = [_flat(scope, layout, t.v, t.rank, stmt.value) for t in stmt.outer]
    return [f"k={_cat(k, 3)}", f"v={_cat(v, 3)}"]


def _begin(scope: Scope, layout: _Layout, codes: Sequence[str], lead: int) -> str:
    """States in their own order as one [B, H, V, K]."""
    found = []
    order = [layout.stmt.order.index(i) for i in layout.inner]
    sizes = [i.axis.size for i in layout.inner]
    for code in codes:
        if order != sorted(order):
            dims = [*range(lead), *(p + lead for p in order)]
            code = f"{atom(code)}.permute({', '.join(map(str, dims))})"
        found.append(reshaped(atom(code), sizes, [layout.heads, layout.rows, layout.width]))
    return _cat(found, -1)


def _store(stmt: Chunk, layout: _Layout, scope: Scope, last: str) -> None:
    """The states after the last token, each in its own order."""
    cuts = [last]
    if len(stmt.states) > 1:
        cuts = [scope.names.fresh(f"{s}_last") for s in stmt.states]
        scope.line(f"{', '.join(cuts)} = {last}.split({layout.width}, -1)")
    sizes = [i.axis.size for i in layout.inner]
    back = [layout.inner.index(i) for i in stmt.order]
    for s, code in zip(stmt.states, cuts, strict=True):
        code = reshaped(code, [layout.heads, layout.rows, layout.width], sizes)
        if back != sorted(back):
            code = f"{code}.permute(0, {', '.join(str(p + 1) for p in back)})"
        scope.line(f"stream.new[{key(s)}] = {code}")


def _answered(stmt: Chunk, scope: Scope, answers: str) -> None:
    """Names for what the reads saw, [batch, lead, value]."""
    at = 0
    for q in stmt.queries:
        sizes = [i.axis.size for i in (*stmt.batch, *q.lead, *stmt.value)]
        count = _count(q.lead)
        if q.lead:
            code = f"torch.stack({answers}[{at}:{at + count}], 3)"
            flat = [prod(i.axis.size for i in stmt.batch), count, _count(stmt.value)]
        else:
            code = f"{answers}[{at}]"
            flat = [prod(i.axis.size for i in stmt.batch), _count(stmt.value)]
        at += count
        name = scope.let(q.name, reshaped(code, flat, sizes))
        scope.symbols[Ref("def", q.name)] = Symbol(name, "float", tuple(sizes), (True,) * len(sizes), True)
