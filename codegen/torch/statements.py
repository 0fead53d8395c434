"""How the statements of the array form are written in PyTorch.

Input: a `Function` of `ir/arrays.py` and the spec's texts.  Output: the statements of a method, as `ir/code.py` has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from cdrmix.ir import array_statements as form
from cdrmix.ir.arrays import Array
from cdrmix.ir.code import (
    COMPARE,
    Assign,
    Atom,
    Choice,
    Code,
    If,
    Infix,
    Keyword,
    Listed,
    Member,
    Statement,
    call,
    item,
    listed,
    method,
    name,
    number,
)
from cdrmix.ir.python import text
from cdrmix.ir.writing import Writer

from .names import attribute
from .spelling import Torch, key, old, reshaped

RESET = name("stream.reset")


def there(what: Code) -> Code:
    """`what is not None`."""
    return Infix("is not", COMPARE, what, name("None"))


def new(state: str) -> Code:
    """A state after the call."""
    return item(name("stream.new"), key(state))


@dataclass(slots=True)
class Method(Writer):
    """Writes the statements of one method."""

    spell: Torch

    def _restart(self, begin: Array | None) -> list[Code]:
        """The last arguments of a scan."""
        return [RESET] if begin is None else [RESET, self.of(begin)]

    def zeros(self, *sizes: int) -> Code:
        """Zeros over the leading axes and these."""
        return self.spell.new("zeros", f"*{self.spell.shape}", *sizes)

    def measure(self, stmt: form.Measure) -> None:
        self.lines.append(If(there(name("stream.sums")), self.inner(stmt.body)))

    def sum(self, stmt: form.Sum) -> None:
        value = self.of(stmt.value)
        value = value if stmt.gradient else method(value, "detach")
        self.assign(item(name("stream.sums"), key(stmt.key)), method(value, "sum", listed(0, 1)))

    def fill(self, stmt: form.Fill) -> None:
        target = self.spell.parameter(stmt.name)
        if stmt.value is None:
            rank = [len(stmt.dims)] if stmt.rule == "orthogonal" else []
            code = call(stmt.rule, target, *map(self.of, stmt.args), *rank, "generator")
        else:
            move = "fill_" if stmt.value.type == "number" else "copy_"
            code = method(target, move, self.spell.fit(stmt.value, stmt.dims))
        self.do(code)

    def keep(self, stmt: form.Keep) -> None:
        after = self.of(stmt.after)
        self.assign(new(stmt.state), after if self.function.mode == "step" else item(after, ":", -1))

    # --- scans -----------------------------------------------------------------------------------------------------
    def delay(self, stmt: form.Delay) -> None:
        scan = call("delay", self.of(stmt.after), old(stmt.state), *self._restart(stmt.begin))
        self.assign([self.spell.fresh(stmt.before), new(stmt.state)], scan)

    def shift(self, stmt: form.Shift) -> None:
        value = call("shift", self.of(stmt.after), old(stmt.state), *self._restart(stmt.begin))
        self.assign(self.spell.fresh(stmt.before), value)

    def scan(self, stmt: form.Scan) -> None:
        given = [self.of(stmt.decay), self.of(stmt.addend), old(stmt.state)]
        restart = self._restart(stmt.begin)
        if stmt.combine is None:
            scan = call("linear_scan", *given, *restart)
        else:
            scan = call("maxplus_scan", *given, Atom(text(stmt.combine)), *restart)
        after = self.spell.fresh(stmt.after)
        self.assign(after, scan)
        self.assign(new(stmt.state), item(after, ":", -1))

    def mix(self, stmt: form.Mix) -> None:
        zero = name(self.spell.names.fresh("zero"))
        self.assign(zero, self.zeros(*(i.axis.size for i in stmt.indices)))
        rows = [stacked([zero if d is None else self.of(d) for d in row], 2) for row in stmt.decay]
        decay = name(self.spell.names.fresh("decay"))
        self.assign(decay, stacked(rows, 2))
        addends, before = stacked(map(self.of, stmt.addend), 2), stacked(map(old, stmt.states), 1)
        restart = [RESET]
        if any(b is not None for b in stmt.begin):
            sizes = [i.axis.size for i in stmt.indices]
            begin = name(self.spell.names.fresh("begin"))
            self.assign(begin, call("torch.stack", Listed("[", tuple(self._beginnings(stmt.begin, sizes)))))
            restart.append(begin)
        mixed = name(self.spell.names.fresh("mixed"))
        self.assign(mixed, call("coupled_scan", decay, addends, before, *restart))
        for place, (state, after) in enumerate(zip(stmt.states, stmt.after, strict=True)):
            one = self.spell.fresh(after)
            self.assign(one, item(mixed, ":", ":", place))
            self.assign(new(state), item(one, ":", -1))

    def _beginnings(self, begin: Sequence[Array | None], sizes: Sequence[int]) -> list[Code]:
        zeros = self.spell.new("zeros", *([listed(*sizes)] if len(sizes) == 1 else sizes))
        return [zeros if b is None else self.of(b) for b in begin]

    def chunk(self, stmt: form.ChunkScan) -> None:
        width = stmt.layout.key.axis.size
        heads, rows = (prod(i.axis.size for i in axes) for axes in (stmt.layout.batch, stmt.layout.value))
        wide = width * len(stmt.states)
        asked: list[Code] = []
        for q in stmt.asked:
            code = self._beside(q.q, width)
            asked.append(Keyword("*", method(code, "unbind", 3)) if q.lead else code)
        after = [str(q.after) for q in stmt.asked for _ in range(q.lead or 1)]
        v = [self.of(x) for x in stmt.v]
        given = {
            "after": Listed("[", tuple(map(Atom, after or ["False"]))),
            "w": self._decay(stmt, heads, width),
            "k": self._end_to_end(stmt.k, width) if stmt.k else self.zeros(heads, 1, wide),
            "v": _cat(v, 3) if v else self.zeros(heads, 1, rows),
            "S0": _cat([self._matrix(stmt.layout, old(s), 1, heads, rows) for s in stmt.states], -1),
        }
        if stmt.a:
            given |= {"a": self._end_to_end(stmt.a, width), "b": self._end_to_end(stmt.b, width)}
        if stmt.value_decay is not None:
            given["wv"] = self.of(stmt.value_decay)
        given["reset"] = RESET
        if any(b is not None for b in stmt.begin):
            begin = self._beginnings(stmt.begin, [i.axis.size for i in stmt.layout.order])
            given["initial"] = _cat([self._matrix(stmt.layout, code, 0, heads, rows) for code in begin], -1)
        vectors = Listed("[", tuple(asked or [self.zeros(heads, wide)]))
        answers, last = self.spell.fresh(stmt.answers), self.spell.fresh(stmt.last)
        self.assign([answers, last], call("chunk_reads", vectors, **given))
        self._last(stmt, last, heads, rows, width)

    def _beside(self, x: form.Beside, width: int) -> Code:
        """The operand at its state's place on the key axis of coupled states, zero at the others'."""
        code, before = self.of(x.x), x.place * width
        behind = (x.count - 1 - x.place) * width
        return code if x.count == 1 else call("F.pad", code, listed(before, behind))

    def _end_to_end(self, parts: Sequence[form.Beside], width: int) -> Code:
        return _cat([self._beside(x, width) for x in parts], 3)

    def _decay(self, stmt: form.ChunkScan, heads: int, width: int) -> Code:
        if stmt.decay is None:
            return name("None")
        if isinstance(stmt.decay, Array):
            return self.of(stmt.decay)
        zero = self.zeros(heads, width)
        return stacked([stacked([zero if d is None else self.of(d) for d in row], 3) for row in stmt.decay], 3)

    def _matrix(self, layout: form.Matrix, code: Code, lead: int, heads: int, rows: int) -> Code:
        """A state in its own order as [H, V, K]."""
        order = [layout.order.index(i) for i in layout.inner]
        if order != sorted(order):
            code = method(code, "permute", *range(lead), *(p + lead for p in order))
        return reshaped(code, [i.axis.size for i in layout.inner], [heads, rows, layout.key.axis.size])

    def _last(self, stmt: form.ChunkScan, last: Code, heads: int, rows: int, width: int) -> None:
        """The states after the last token, each in its own order."""
        cuts = [last]
        if len(stmt.states) > 1:
            cuts = [name(self.spell.names.fresh(f"{s}_last")) for s in stmt.states]
            self.assign(cuts, method(last, "split", width, -1))
        inner = stmt.layout.inner
        back = [inner.index(i) for i in stmt.layout.order]
        for s, code in zip(stmt.states, cuts, strict=True):
            code = reshaped(code, [heads, rows, width], [i.axis.size for i in inner])
            if back != sorted(back):
                code = method(code, "permute", 0, *(p + 1 for p in back))
            self.assign(new(s), code)

    def answer(self, stmt: form.Answer) -> None:
        answers, asked = self.of(stmt.answers), stmt.asked[stmt.place]
        first = sum(q.lead or 1 for q in stmt.asked[: stmt.place])
        if asked.lead:
            code = call("torch.stack", item(answers, f"{first}:{first + asked.lead}"), 3)
        else:
            code = item(answers, first)
        code = reshaped(code, stmt.flat, asked.shape)
        self.assign(self.spell.fresh(stmt.name), self.ordered(code, stmt.found, stmt.dims))

    def before(self, state: str) -> Code:
        return old(state)

    def restarts(self, stmt: form.Loop, t: Code, now: Sequence[Code]) -> list[Statement]:
        found: list[Statement] = []
        for code, begin, dims in zip(now, stmt.begin, stmt.dims, strict=True):
            reset = item(RESET, ":", t, *["None"] * len(dims))
            chosen = call("torch.where", reset, number(0.0) if begin is None else self.of(begin), code)
            found.append(If(there(RESET), (Assign((code,), chosen),)))
        return found

    def stacked(self, every: Code) -> Code:
        return call("torch.stack", every, 1)

    # --- histories -------------------------------------------------------------------------------------------------
    def entry(self, stmt: form.Entry) -> None:
        value = self.of(stmt.value)
        entry = self.spell.fresh(stmt.entry)
        self.assign(entry, value)
        kept = [new(stmt.history), new(f"{stmt.history}.count")]
        if stmt.past is None:
            windows = [self.spell.fresh(x) for x in (stmt.window, stmt.there) if x is not None]
            self.assign([*windows, *kept], call("enter", entry, old(stmt.history), old(f"{stmt.history}.count")))
            return
        past = self.spell.fresh(stmt.past)
        before = [method(name("stream.old"), "get", key(path)) for path in (stmt.history, f"{stmt.history}.count")]
        self.assign(past, Listed("", (*before, RESET)))
        spread = Keyword("*", past)
        self.assign(kept, call("advance", entry, stmt.size, spread))
        if stmt.window is not None and stmt.there is not None:
            windows = [self.spell.fresh(stmt.window), self.spell.fresh(stmt.there)]
            self.assign(windows, call("unfold", entry, stmt.size, spread))

    def attention(self, stmt: form.Attention) -> None:
        new_k, old_k = self._entries(stmt.keys)
        new_v, old_v = self._entries([stmt.values])
        past = stmt.values.past
        assert past is not None
        given = [_cat([self.of(q) for q in stmt.queries], -1), new_k, new_v, number(stmt.window), number(stmt.scale)]
        given += [old_k, old_v, Keyword("*", item(self.of(past), "1:"))]
        bias = {} if stmt.bias is None else {"bias": self.of(stmt.bias)}
        code = reshaped(call("attend", *given, **bias), stmt.flat, stmt.shape)
        self.assign(self.spell.fresh(stmt.name), self.ordered(code, stmt.found, stmt.dims))

    def _entries(self, sides: Sequence[form.Side]) -> tuple[Code, Code]:
        """This call's entries and the older ones, which may be None, their features end to end."""
        found = [(self._side(s, self.of(s.entry)), self._side(s, self._past(s))) for s in sides]
        news, olds = _cat([a for a, _ in found], -1), _cat([b for _, b in found], -1)
        before = self._past(sides[0])
        if olds == before:
            return news, olds
        return news, Choice(before, Infix("is", COMPARE, before, name("None")), olds)

    def _past(self, side: form.Side) -> Code:
        assert side.past is not None
        return item(self.of(side.past), 0)

    def _side(self, side: form.Side, code: Code) -> Code:
        """Entries as [B, T, groups, features]; a key a head unless heads share them."""
        code = reshaped(code, side.declared, side.view)
        if [*side.order] != sorted(side.order):
            code = method(code, "permute", 0, 1, *(p + 2 for p in side.order))
        code = reshaped(code, [side.view[p] for p in side.order], side.flat)
        return code if side.table is None else item(code, ":", ":", Listed("[", tuple(map(number, side.table))))

    # --- parts and banks -------------------------------------------------------------------------------------------
    def part(self, stmt: form.CallPart) -> None:
        mode = self.function.mode
        part: Code = name(f"self.{attribute(stmt.part.name)}")
        part = part if mode == "sequence" else Member(part, "routed" if mode == "rows" else "step")
        context = "rows" if mode == "rows" else "stream"
        code = call(part, *(self.of(g.value) for g in stmt.inputs), context)
        self.assign(self.spell.fresh(stmt.name), code)

    def bank(self, stmt: form.CallBank) -> None:
        bank, path = name(f"self.{attribute(stmt.part.name)}"), key(f"{stmt.part.name}.")
        assert stmt.part.bank is not None
        if stmt.pick is not None and stmt.rows:
            self._rows(stmt, bank, self.of(stmt.pick), stmt.part.bank.axis.size)
            return
        given = Listed("[", tuple(listed(self.of(g.value), str(g.front > 0)) for g in stmt.inputs))
        if stmt.pick is None:
            code = call("run_every", bank, path, given, "stream")
            self.assign(self.spell.fresh(stmt.name), code)
            return
        code = call("run_chosen", bank, path, self.of(stmt.pick), given, "stream", *self._capacity(stmt))
        found = self.spell.fresh(stmt.name)
        limited = stmt.part.capacity > 0
        dropped = name(self.spell.names.fresh(f"{stmt.part.name}_dropped") if limited else "_")
        self.assign([found, dropped], code)
        self._dropped(stmt, dropped)

    def _rows(self, stmt: form.CallBank, bank: Code, pick: Code, experts: int) -> None:
        found = self.spell.fresh(stmt.name)
        routes = name(self.spell.names.fresh("routes"))
        self.assign(routes, call("route", pick, experts, *self._capacity(stmt)))
        inputs = [method(routes, "rows", self.of(g.value), len(g.axes)) for g in stmt.inputs]
        self.assign(found, method(routes, "back", method(bank, "routed", *inputs, routes)))
        self._dropped(stmt, Member(routes, "dropped"))

    def _capacity(self, stmt: form.CallBank) -> list[Code]:
        if stmt.part.capacity <= 0 or self.function.mode != "sequence":
            return []
        return [Choice(number(stmt.part.capacity), name("self.training"), number(0.0))]

    def _dropped(self, stmt: form.CallBank, count: Code) -> None:
        """What found no room is a metric of its own, beside the bank's path."""
        if stmt.part.capacity > 0 and self.function.mode == "sequence":
            kept = self.spell.new("tensor", call("float", count))
            target = item(name("stream.sums"), key(f"{stmt.part.name}.dropped"))
            self.lines.append(If(there(name("stream.sums")), (Assign((target,), kept),)))


def stacked(parts: object, dim: int) -> Code:
    """Tensors along a new axis."""
    return call("torch.stack", Listed("[", tuple(parts)), dim)  # type: ignore[arg-type]


def _cat(parts: Sequence[Code], dim: int) -> Code:
    return parts[0] if len(parts) == 1 else call("torch.cat", Listed("[", tuple(parts)), dim)
