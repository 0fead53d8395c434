"""How the statements of the array form are written in PyTorch.

Input: a `Function` of `ir/arrays.py` and the spec's texts.  Output: the statements of a method, as `ir/code.py` has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from cdrmix.ir import array_statements as form
from cdrmix.ir.arrays import Array
from cdrmix.ir.code import (
    Assign,
    Code,
    Statement,
    call,
    choice,
    infix,
    item,
    listed,
    member,
    method,
    name,
    named,
    number,
    prefix,
    when,
)
from cdrmix.ir.python import text
from cdrmix.ir.spelling import reordered
from cdrmix.ir.walk import size
from cdrmix.ir.writing import Writer

from .names import attribute
from .spelling import Torch, key, old

RESET = name("stream.reset")


def there(what: Code) -> Code:
    """`what is not None`."""
    return infix("is not", what, name("None"))


def new(state: str) -> Code:
    """A state after the call."""
    return item(name("stream.new"), key(state))


@dataclass(slots=True)
class Method(Writer):
    """Writes the statements of one method."""

    spell: Torch
    unfolded: list[Assign] = field(default_factory=list)

    def needed(self, body: Sequence[Statement]) -> tuple[Statement, ...]:
        """Without the windows that nothing reads, their sums being convolutions."""
        found = list(body)
        for windows in self.unfolded:
            others = [s for s in found if s is not windows]
            if not named(others) & named([replace(windows, value=name(""))]):
                found = others
        return tuple(found)

    def _restart(self, begin: Array | None) -> list[Code]:
        """The last arguments of a scan."""
        return [RESET] if begin is None else [RESET, self.of(begin)]

    def zeros(self, *sizes: int) -> Code:
        """Zeros over the leading axes and these."""
        return self.spell.new("zeros", f"*{self.spell.shape}", *sizes)

    def measured(self, *body: Statement) -> None:
        """What is done only where the caller measures."""
        self.lines.append(when(there(name("stream.sums")), *body))

    def measure(self, stmt: form.Measure) -> None:
        self.measured(*self.inner(stmt.body))

    def sum(self, stmt: form.Sum) -> None:
        value = self.of(stmt.value)
        value = value if stmt.gradient else method(value, "detach")
        self.assign(item(name("stream.sums"), key(stmt.key)), method(value, "sum", listed(0, 1)))

    def fill(self, stmt: form.Fill) -> None:
        target = self.spell.parameter(stmt.name)
        if stmt.value is None:
            rank = [len(stmt.dims)] if stmt.rule == "orthogonal" else []
            self.do(call(stmt.rule, target, *map(self.of, stmt.args), *rank, "generator"))
        else:
            move = "fill_" if stmt.value.type == "number" else "copy_"
            self.do(method(target, move, self.spell.fit(stmt.value, stmt.dims)))

    def keep(self, stmt: form.Keep) -> None:
        after = self.of(stmt.after)
        self.assign(new(stmt.state), after if self.function.mode == "step" else item(after, ":", -1))

    # --- scans -----------------------------------------------------------------------------------------------------
    def shift(self, stmt: form.Shift) -> None:
        given = [self.of(stmt.after), old(stmt.state), *self._restart(stmt.begin)]
        if stmt.by == "equation":
            self.assign([self.spell.fresh(stmt.before), new(stmt.state)], call("delay", *given))
        else:
            self.define(stmt.before, call("shift", *given))

    def scan(self, stmt: form.Scan) -> None:
        given = [self.of(stmt.decay), self.of(stmt.addend), old(stmt.state)]
        combine = [] if stmt.combine is None else [name(text(stmt.combine))]
        scan = call("maxplus_scan" if combine else "linear_scan", *given, *combine, *self._restart(stmt.begin))
        self.assign(new(stmt.state), item(self.define(stmt.after, scan), ":", -1))

    def mix(self, stmt: form.Mix) -> None:
        sizes = [i.axis.size for i in stmt.indices]
        zero = self.define("zero", self.zeros(*sizes))
        rows = [stacked([zero if d is None else self.of(d) for d in row], 2) for row in stmt.decay]
        decay = self.define("decay", stacked(rows, 2))
        addends, before = stacked(map(self.of, stmt.addend), 2), stacked(map(old, stmt.states), 1)
        restart = [RESET]
        if any(b is not None for b in stmt.begin):
            begin = call("torch.stack", listed(*self._beginnings(stmt.begin, sizes), open="["))
            restart.append(self.define("begin", begin))
        mixed = self.define("mixed", call("coupled_scan", decay, addends, before, *restart))
        for place, (state, after) in enumerate(zip(stmt.states, stmt.after, strict=True)):
            one = self.define(after, item(mixed, ":", ":", place))
            self.assign(new(state), item(one, ":", -1))

    def _beginnings(self, begin: Sequence[Array | None], sizes: Sequence[int]) -> list[Code]:
        zeros = self.spell.new("zeros", *([listed(*sizes)] if len(sizes) == 1 else sizes))
        return [zeros if b is None else self.of(b) for b in begin]

    def chunk(self, stmt: form.ChunkScan) -> None:
        layout, width = stmt.layout, stmt.layout.key.axis.size
        heads, rows = (prod(i.axis.size for i in axes) for axes in (layout.batch, layout.value))
        wide = width * len(stmt.states)
        asked: list[Code] = []
        for q in stmt.asked:
            code = self.beside(q.q, layout)
            asked.append(prefix("*", method(code, "unbind", 3)) if q.lead else code)
        after = [str(q.after) for q in stmt.asked for _ in range(size(q.lead))]
        given = {
            "after": listed(*after or ["False"], open="["),
            "w": self._decay(stmt, heads, width),
            "k": self._end_to_end(stmt.k, layout) if stmt.k else self.zeros(heads, 1, wide),
            "v": _cat(map(self.of, stmt.v), 3) if stmt.v else self.zeros(heads, 1, rows),
            "S0": _cat([self._matrix(layout, old(s), 1, heads, rows) for s in stmt.states], -1),
        }
        if stmt.a:
            given |= {"a": self._end_to_end(stmt.a, layout), "b": self._end_to_end(stmt.b, layout)}
        if stmt.value_decay is not None:
            given["wv"] = self.of(stmt.value_decay)
        given["reset"] = RESET
        if any(b is not None for b in stmt.begin):
            begin = self._beginnings(stmt.begin, [i.axis.size for i in layout.order])
            given["initial"] = _cat([self._matrix(layout, code, 0, heads, rows) for code in begin], -1)
        vectors = listed(*asked or [self.zeros(heads, wide)], open="[")
        answers, last = self.spell.fresh(stmt.answers), self.spell.fresh(stmt.last)
        self.assign([answers, last], call("chunk_reads", vectors, **given))
        self._last(stmt, last, heads, rows, width)
        first = 0
        for q in stmt.asked:
            end = first + size(q.lead)
            found = call("torch.stack", item(answers, f"{first}:{end}"), 3) if q.lead else item(answers, first)
            self.answered(q, found)
            first = end

    def padded(self, code: Code, before: int, behind: int) -> Code:
        return call("F.pad", code, listed(before, behind))

    def _end_to_end(self, parts: Sequence[form.Beside], layout: form.Matrix) -> Code:
        return _cat([self.beside(x, layout) for x in parts], 3)

    def _decay(self, stmt: form.ChunkScan, heads: int, width: int) -> Code:
        if stmt.decay is None:
            return name("None")
        if isinstance(stmt.decay, Array):
            return self.of(stmt.decay)
        zero = self.zeros(heads, width)
        return stacked([stacked([zero if d is None else self.of(d) for d in row], 3) for row in stmt.decay], 3)

    def _matrix(self, layout: form.Matrix, code: Code, lead: int, heads: int, rows: int) -> Code:
        """A state in its own order as [H, V, K]."""
        code = reordered(code, [layout.order.index(i) for i in layout.inner], lead)
        return self.spell.reshaped(code, [i.axis.size for i in layout.inner], [heads, rows, layout.key.axis.size])

    def _last(self, stmt: form.ChunkScan, last: Code, heads: int, rows: int, width: int) -> None:
        """The states after the last token, each in its own order."""
        cuts = [last]
        if len(stmt.states) > 1:
            cuts = [name(self.spell.names.fresh(f"{s}_last")) for s in stmt.states]
            self.assign(cuts, method(last, "split", width, -1))
        inner = stmt.layout.inner
        for s, code in zip(stmt.states, cuts, strict=True):
            code = self.spell.reshaped(code, [heads, rows, width], [i.axis.size for i in inner])
            self.assign(new(s), reordered(code, [inner.index(i) for i in stmt.layout.order], 1))

    def before(self, state: str) -> Code:
        return old(state)

    def restarts(self, stmt: form.Loop, t: Code, now: Sequence[Code]) -> list[Statement]:
        found: list[Statement] = []
        for code, begin, dims in zip(now, stmt.begin, stmt.dims, strict=True):
            reset = item(RESET, ":", t, *["None"] * len(dims))
            chosen = call("torch.where", reset, number(0.0) if begin is None else self.of(begin), code)
            found.append(when(there(RESET), Assign((code,), chosen)))
        return found

    def stacked(self, every: Code) -> Code:
        return call("torch.stack", every, 1)

    # --- histories -------------------------------------------------------------------------------------------------
    def entry(self, stmt: form.Entry) -> None:
        entry = self.define(stmt.entry, self.of(stmt.value))
        paths = (stmt.history, f"{stmt.history}.count")
        kept = [new(path) for path in paths]
        if stmt.past is None:
            windows = [self.spell.fresh(x) for x in (stmt.window, stmt.there) if x is not None]
            self.assign([*windows, *kept], call("enter", entry, *map(old, paths)))
            return
        before = [method(name("stream.old"), "get", key(path)) for path in paths]
        spread = prefix("*", self.define(stmt.past, listed(*before, RESET, open="")))
        self.assign(kept, call("advance", entry, stmt.size, spread))
        if stmt.window is not None and stmt.there is not None:
            windows = [self.spell.fresh(stmt.window), self.spell.fresh(stmt.there)]
            self.assign(windows, call("unfold", entry, stmt.size, spread))
            self.unfolded.append(self.lines[-1])  # type: ignore[arg-type]
            self.spell.convolved[stmt.window] = entry, spread

    def attention(self, stmt: form.Attention) -> None:
        new_k, old_k = self._entries(stmt.keys)
        new_v, old_v = self._entries([stmt.values])
        past = stmt.values.past
        assert past is not None
        given = [_cat(map(self.of, stmt.queries), -1), new_k, new_v, number(stmt.values.size), number(stmt.scale)]
        given += [old_k, old_v, prefix("*", item(self.of(past), "1:"))]
        bias = {} if stmt.bias is None else {"bias": self.of(stmt.bias)}
        self.answered(stmt, call("attend", *given, **bias))

    def _entries(self, sides: Sequence[form.Side]) -> tuple[Code, Code]:
        """This call's entries and the older ones, which may be None, their features end to end."""
        news, olds = (_cat([self.side(s, of(s)) for s in sides], -1) for of in (self._now, self._past))
        before = self._past(sides[0])
        if olds == before:
            return news, olds
        return news, choice(before, infix("is", before, name("None")), olds)

    def _now(self, side: form.Side) -> Code:
        return self.of(side.entry)

    def _past(self, side: form.Side) -> Code:
        assert side.past is not None
        return item(self.of(side.past), 0)

    def heads(self, code: Code, table: Code) -> Code:
        return item(code, ":", ":", table)

    # --- parts and banks -------------------------------------------------------------------------------------------
    def part(self, stmt: form.CallPart) -> None:
        mode = self.function.mode
        part: Code = name(f"self.{attribute(stmt.part.name)}")
        part = part if mode == "sequence" else member(part, "routed" if mode == "rows" else "step")
        context = "rows" if mode == "rows" else "stream"
        self.define(stmt.name, call(part, *(self.of(g.value) for g in stmt.inputs), context))

    def bank(self, stmt: form.CallBank) -> None:
        bank, path = name(f"self.{attribute(stmt.part.name)}"), key(f"{stmt.part.name}.")
        assert stmt.part.bank is not None
        if stmt.pick is not None and stmt.rows:
            self._rows(stmt, bank, self.of(stmt.pick), stmt.part.bank.axis.size)
            return
        given = listed(*(listed(self.of(g.value), str(g.front > 0)) for g in stmt.inputs), open="[")
        if stmt.pick is None:
            self.define(stmt.name, call("run_every", bank, path, given, "stream"))
            return
        code = call("run_chosen", bank, path, self.of(stmt.pick), given, "stream", *self._capacity(stmt))
        measured = self.function.mode == "sequence"
        routes = name(self.spell.names.fresh("routes") if measured else "_")
        self.assign([self.spell.fresh(stmt.name), routes], code)
        self._routed(stmt, routes)

    def _rows(self, stmt: form.CallBank, bank: Code, pick: Code, experts: int) -> None:
        found = self.spell.fresh(stmt.name)
        routes = self.define("routes", call("route", pick, experts, *self._capacity(stmt)))
        inputs = [method(routes, "rows", self.of(g.value), len(g.axes)) for g in stmt.inputs]
        self.assign(found, method(routes, "back", method(bank, "routed", *inputs, routes)))
        self._routed(stmt, routes)

    def _capacity(self, stmt: form.CallBank) -> list[Code]:
        if stmt.part.capacity <= 0 or self.function.mode != "sequence":
            return []
        return [choice(number(stmt.part.capacity), name("self.training"), number(0.0))]

    def _routed(self, stmt: form.CallBank, routes: Code) -> None:
        """How often each expert was chosen is measured beside the bank's path; so is what found no room."""
        if self.function.mode != "sequence":
            return
        found = {"routed": method(member(routes, "chosen"), "float")}
        if stmt.part.capacity > 0:
            found["dropped"] = self.spell.new("tensor", call("float", member(routes, "dropped")))
        sums = name("stream.sums")
        self.measured(*(Assign((item(sums, key(f"{stmt.part.name}.{what}")),), x) for what, x in found.items()))


def stacked(parts: Iterable[Code], dim: int) -> Code:
    """Tensors along a new axis."""
    return call("torch.stack", listed(*parts, open="["), dim)


def _cat(parts: Iterable[Code], dim: int) -> Code:
    first, *more = parts
    return call("torch.cat", listed(first, *more, open="["), dim) if more else first
