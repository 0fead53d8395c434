"""Emission of a matrix state's scan (`Chunk`): its operands as [B, T, H, ...], its reads in one pass.

Input: a `Chunk` and the scope.
Output: one call of `chunk_scan` in the scope, which writes the states' slots, and symbols for what each read saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from cdrmix.ir import python as escape
from cdrmix.ir.forms import Chunk
from cdrmix.ir.nodes import Index, Node, Ref

from .casts import full
from .scope import Scope, axes_of
from .statements import Cells, emit_statement, valued
from .states import say_update, slot
from .value import Value, number, permuted, viewed


@emit_statement.register
def _(stmt: Chunk, scope: Scope, cells: Cells) -> None:
    for s in stmt.states:
        say_update(scope, s)
        scope.scans[s] -= 1
    copy = ".clone()" * (scope.scans[stmt.states[0]] > 0)  # a later scan of the state begins where this one does
    writer = _Operands(stmt, scope)
    args = [
        f"q=[{', '.join(writer.flat(q.q, q.lead, q.state) for q in stmt.queries)}]",
        f"after=[{', '.join(str(q.after) for q in stmt.queries)}]",
        f"w={writer.decay()}",
        *writer.addends(),
        f"states=[{', '.join(slot(s) + copy for s in stmt.states)}]",
        *writer.low_rank(),
    ]
    if stmt.value_decay is not None:
        args.append(f"wv={writer.rows(stmt.value_decay, None)}")
    args.append(f'axes="{_letters(stmt)}"')
    answers, new = scope.names.fresh("answers"), scope.names.fresh(f"{stmt.states[0]}_last")
    scope.line(f"{answers}, {new} = chunk_scan(")
    for arg in args:
        scope.line(f"    {arg},")
    scope.line(")")
    for place, s in enumerate(stmt.states if not copy else ()):
        scope.line(f"here.wrote({escape.text(s)}, {new}[{place}])")
    for place, q in enumerate(stmt.queries):
        indices = (*stmt.batch, *q.lead, *stmt.value)
        found = (*writer.batch, *q.lead, *writer.value)
        flat = [_size(stmt.batch), *([_size(q.lead)] if q.lead else []), _size(stmt.value)]
        code = viewed(f"{answers}[{place}]", flat, [i.axis.size for i in found])
        name = scope.let(q.name, permuted(Value(code, "float", found), indices).code, axes_of(indices))
        scope.known(Ref("def", q.name), name, [i.axis.size for i in indices])


def _size(indices: Sequence[Index]) -> int:
    return prod(i.axis.size for i in indices)


def _letters(stmt: Chunk) -> str:
    """What each axis of the state is: batch, value or key."""
    return "".join("k" if i == stmt.key else "h" if i in stmt.batch else "v" for i in stmt.order)


class _Operands:
    """Writes the operands, their axes in the state's order; those along the key lie side by side for coupled states."""

    def __init__(self, stmt: Chunk, scope: Scope):
        self.stmt, self.scope = stmt, scope
        self.batch = tuple(sorted(stmt.batch, key=stmt.order.index))
        self.value = tuple(sorted(stmt.value, key=stmt.order.index))

    def _over(self, n: Node, rank: Sequence[Index] | None, last: Sequence[Index]) -> str:
        """[B, T, H, rank, last], or without the rank when it is None."""
        indices = (*self.batch, *(rank or ()), *last)
        code = full(valued(self.scope, n, indices), indices, self.scope)
        new = [_size(self.stmt.batch), *([] if rank is None else [_size(rank)]), _size(last)]
        return viewed(code, [i.axis.size for i in indices], new)

    def flat(self, n: Node, rank: Sequence[Index] | None, state: str) -> str:
        """A vector along the key, at its state's place."""
        code = self._over(n, rank or None, (self.stmt.key,))
        return self._beside(code, state)

    def _beside(self, code: str, state: str) -> str:
        count, width = len(self.stmt.states), self.stmt.key.axis.size
        at = self.stmt.states.index(state)
        return code if count == 1 else f"beside({code}, {at * width}, {(count - 1 - at) * width})"

    def rows(self, n: Node, rank: Sequence[Index] | None) -> str:
        """A vector along the value."""
        return self._over(n, rank, self.value)

    def decay(self) -> str:
        """None, [B, T, H, 1 | K] or [B, T, H, F, F, K] (source, target)."""
        stmt, scope = self.stmt, self.scope
        if len(stmt.states) > 1:
            indices = (*self.batch, stmt.key)
            nodes = [stmt.decay.get((target, source)) for source in stmt.states for target in stmt.states]
            table = [full(number(0.0) if n is None else valued(scope, n, indices), indices, scope) for n in nodes]
            count = len(stmt.states)
            sizes = [_size(stmt.batch), count, count, stmt.key.axis.size]
            return f"mix([{', '.join(table)}], {', '.join(map(str, sizes))})"
        n = stmt.decay.get((stmt.states[0], stmt.states[0]))
        v = None if n is None else valued(scope, n, (*stmt.batch, stmt.key))
        if v is not None and v.const == 1:
            return "None"
        if n is not None and v is not None and stmt.key in v.dims:
            return self._over(n, None, (stmt.key,))
        if n is None:
            return f"constant(0.0, {_size(stmt.batch)}, 1).expand({scope.lead}, {_size(stmt.batch)}, 1)"
        code = full(valued(scope, n, self.batch), self.batch, scope)
        return viewed(code, [i.axis.size for i in self.batch], [_size(stmt.batch), 1])

    def addends(self) -> list[str]:
        """The keys and values of what is added."""
        if not self.stmt.outer:
            return ["k=None", "v=None"]
        k = [self._beside(self._over(t.k, t.rank, (self.stmt.key,)), t.target) for t in self.stmt.outer]
        v = [self.rows(t.v, t.rank) for t in self.stmt.outer]
        return [f"k={_joined(k)}", f"v={_joined(v)}"]

    def low_rank(self) -> list[str]:
        """The two sides of the low-rank terms."""
        if not self.stmt.low_rank:
            return []
        key = (self.stmt.key,)
        a = [self._beside(self._over(t.a, t.rank, key), t.source) for t in self.stmt.low_rank]
        b = [self._beside(self._over(t.b, t.rank, key), t.target) for t in self.stmt.low_rank]
        return [f"a={_joined(a)}", f"b={_joined(b)}"]


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"joined({', '.join(parts)}, dim=3)"
