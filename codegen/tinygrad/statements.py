"""How the statements of the array form are written in tinygrad.

Input: a `Function` of `ir/array_statements.py` and the spec's texts.
Output: the statements of a function over [B, T], as `ir/code.py` has them; a comment behind each tells its axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import ClassVar

from cdrmix.ir import array_statements as form
from cdrmix.ir.arrays import Array
from cdrmix.ir.code import (
    Atom,
    Code,
    Listed,
    Noted,
    call,
    item,
    listed,
    method,
    name,
)
from cdrmix.ir.code import number as whole
from cdrmix.ir.nodes import Axis, Index
from cdrmix.ir.writing import Writer, axes_of

from .spelling import Tinygrad, quoted, slot, viewed


@dataclass(slots=True)
class Function(Writer):
    """Writes the statements of one function; `functions` are the names of the cells' functions."""

    spell: Tinygrad
    functions: Mapping[str, str] = field(default_factory=dict)

    axes: ClassVar[bool] = True

    def products(self, stmt: form.Products) -> None:
        asked, made = list[Code](), list[Code]()
        for let, says in zip(stmt.lets, stmt.says, strict=True):
            weight, x = let.value.args
            pair = listed(quoted(weight.arg.name), self.of(x))
            above = [text for say in says for text in self.equations(say.span)]
            asked.append(Noted(pair, tuple(above), axes_of(let.value.dims)))
            made.append(self.spell.fresh(let.name))
        self.assign(made, call("here.products", *asked))

    def moments(self, stmt: form.Moments) -> None:
        x = self.of(stmt.x)
        found = [self.spell.fresh(stmt.mean), self.spell.fresh(stmt.variance)]
        self.assign(found, call("moments", x), stmt.x.dims[:-1])

    def keep(self, stmt: form.Keep) -> None:
        self.do(call("here.keep", quoted(stmt.state), call("last", self.of(stmt.after))))

    # --- scans -----------------------------------------------------------------------------------------------------
    def delay(self, stmt: form.Delay) -> None:
        after = self.of(stmt.after)
        self.assign(self.spell.fresh(stmt.before), call("delay", after, slot(stmt.state)), stmt.after.dims)
        self.do(call("here.keep", quoted(stmt.state), call("last", after)))

    def shift(self, stmt: form.Shift) -> None:
        move = "shift" if stmt.scanned else "delay"  # a scan has written the slot
        value = call(move, self.of(stmt.after), slot(stmt.state))
        self.assign(self.spell.fresh(stmt.before), value, stmt.after.dims)

    def _wrote(self, state: str, last: Code) -> None:
        self.do(call("here.wrote", quoted(state), last))

    def _decay(self, x: Array, indices: Sequence[Index]) -> Code:
        given = x.args[0] if x.op == "expand" else x
        return self.spell.broadcast(given if given.type == "number" else x, indices)

    def scan(self, stmt: form.Scan) -> None:
        given = [self._decay(stmt.decay, stmt.indices), self.of(stmt.addend), slot(stmt.state)]
        if stmt.combine is None:
            scan = call("linear_scan", *given)
        else:
            scan = call("max_plus_scan", *given, quoted(stmt.combine))
        after, last = self.spell.fresh(stmt.after), self.spell.fresh(stmt.last)
        self.assign([after, last], scan, stmt.indices)
        self._wrote(stmt.state, last)

    def mix(self, stmt: form.Mix) -> None:
        rows = []
        for row in stmt.decay:
            codes = [name("None") if d is None else self._decay(d, stmt.indices) for d in row]
            rows.append(Listed("[", tuple(codes)))
        addends = Listed("[", tuple(map(self.of, stmt.addend)))
        after, last = ([self.spell.fresh(x) for x in found] for found in (stmt.after, stmt.last))
        slots = Listed("[", tuple(map(slot, stmt.states)))
        self.assign([listed(*after), listed(*last)], call("coupled_scan", Listed("[", tuple(rows)), addends, slots))
        for state, end in zip(stmt.states, last, strict=True):
            self._wrote(state, end)

    def chunk(self, stmt: form.ChunkScan) -> None:
        width = stmt.layout.key.axis.size
        letters = ["k" if i == stmt.layout.key else "h" if i in stmt.layout.batch else "v" for i in stmt.layout.order]
        slots = [method(slot(s), "clone") if stmt.again else slot(s) for s in stmt.states]
        given: dict[str, Code] = {
            "q": Listed("[", tuple(self._beside(q.q, width) for q in stmt.asked)),
            "after": Listed("[", tuple(Atom(str(q.after)) for q in stmt.asked)),
            "w": self._decays(stmt, width),
            "k": self._joined([self._beside(x, width) for x in stmt.k]),
            "v": self._joined([self.of(x) for x in stmt.v]),
            "states": Listed("[", tuple(slots)),
        }
        if stmt.a:
            given["a"] = self._joined([self._beside(x, width) for x in stmt.a])
            given["b"] = self._joined([self._beside(x, width) for x in stmt.b])
        if stmt.value_decay is not None:
            given["wv"] = self.of(stmt.value_decay)
        given["axes"] = quoted("".join(letters))
        answers, last = self.spell.fresh(stmt.answers), self.spell.fresh(stmt.last)
        self.assign([answers, last], call("chunk_scan", **given))
        for place, s in enumerate(() if stmt.again else stmt.states):
            self._wrote(s, item(last, place))

    def _beside(self, x: form.Beside, width: int) -> Code:
        """A vector along the keys of one of several coupled states."""
        code, behind = self.of(x.x), (x.count - 1 - x.place) * width
        return code if x.count == 1 else call("beside", code, x.place * width, behind)

    def _joined(self, parts: Sequence[Code]) -> Code:
        if len(parts) > 1:
            return call("joined", *parts, dim=whole(3))
        return parts[0] if parts else name("None")

    def _decays(self, stmt: form.ChunkScan, width: int) -> Code:
        """None, [B, T, H, 1 | K] or [B, T, H, F, F, K] (source, target)."""
        if stmt.decay is None:
            return name("None")
        if isinstance(stmt.decay, Array):
            return self.of(stmt.decay)
        heads, count = prod(i.axis.size for i in stmt.layout.batch), len(stmt.states)
        zero = method(call("constant", "0.0", 1, 1), "expand", *self.spell.sizes, heads, width)
        table = [zero if d is None else self.of(d) for row in stmt.decay for d in row]
        return call("mix", Listed("[", tuple(table)), heads, count, count, width)

    def answer(self, stmt: form.Answer) -> None:
        code = viewed(item(self.of(stmt.answers), stmt.place), stmt.flat, [i.axis.size for i in stmt.found])
        self.assign(self.spell.fresh(stmt.name), self.ordered(code, stmt.found, stmt.dims), stmt.dims)

    def before(self, state: str) -> Code:
        return method(slot(state), "unsqueeze", 1)

    def stacked(self, every: Code) -> Code:
        return call("tokens", every)

    # --- histories -------------------------------------------------------------------------------------------------
    def entry(self, stmt: form.Entry) -> None:
        value = self.of(stmt.value)
        entry = self.spell.fresh(stmt.entry)
        self.assign(entry, value, stmt.dims)
        old = slot(stmt.history) if stmt.size > 1 else name("None")
        if stmt.size > 1:
            self._wrote(stmt.history, call("remember", old, entry, "here.pos"))
        if stmt.window is not None:
            windows = call("windows", old, entry, "here.pos", stmt.size)
            self.assign(self.spell.fresh(stmt.window), windows, (Index("", Axis("window", stmt.size)), *stmt.dims))
        if stmt.there is not None:
            self.assign(self.spell.fresh(stmt.there), call("there", "here.pos", stmt.size))

    def attention(self, stmt: form.Attention) -> None:
        sides = [(self._side(s, self.of(s.entry)), self._old(s)) for s in (*stmt.keys, stmt.values)]
        (new_v, old_v), keys = sides[-1], sides[:-1]
        q, new_k, old_k = (Listed("[", tuple(x)) for x in (map(self.of, stmt.queries), *zip(*keys, strict=True)))
        given: list[Code] = [q, new_k, new_v, old_k, old_v, name("here.pos"), whole(stmt.window), whole(stmt.scale)]
        if stmt.bias is not None:
            given.append(self.of(stmt.bias))
        code = viewed(call("attend", *given), stmt.flat, stmt.shape)
        self.assign(self.spell.fresh(stmt.name), self.ordered(code, stmt.found, stmt.dims), stmt.dims)

    def _old(self, side: form.Side) -> Code:
        return self._side(side, slot(side.history)) if side.size > 1 else name("None")

    def _side(self, side: form.Side, code: Code) -> Code:
        """Entries as [B, T, groups, features]; a key a head unless heads share them."""
        code = viewed(code, side.declared, side.view)
        if [*side.order] != sorted(side.order):
            code = method(code, "permute", 0, 1, *(p + 2 for p in side.order))
        code = viewed(code, [side.view[p] for p in side.order], side.flat)
        return code if side.table is None else call("heads", code, Listed("[", tuple(map(whole, side.table))))

    # --- parts and banks -------------------------------------------------------------------------------------------
    def part(self, stmt: form.CallPart) -> None:
        given = [viewed(self.of(g.value), g.own, g.axes) for g in stmt.inputs]
        code = call(self.functions[stmt.part.cell], call("here.part", quoted(stmt.part.name)), *given)
        self.assign(self.spell.fresh(stmt.name), code, stmt.dims)

    def bank(self, stmt: form.CallBank) -> None:
        assert stmt.part.bank is not None
        lead, count = [i.axis.size for i in stmt.lead], prod(i.axis.size for i in stmt.lead)
        head = [quoted(stmt.part.name), whole(stmt.part.bank.axis.size), name(self.functions[stmt.part.cell])]
        given = []
        for g in stmt.inputs:
            old = [*lead, *g.own] if g.front else g.own
            given.append(viewed(self.of(g.value), old, [count if g.front else 1, *g.axes]))
        if stmt.pick is None:
            code = call("here.every", *head, *given)
        else:
            code = call("here.chosen", *head, viewed(self.of(stmt.pick), lead, [count]), *given)
        code = viewed(code, [count, *stmt.out], [i.axis.size for i in stmt.dims])
        self.assign(self.spell.fresh(stmt.name), code, stmt.dims)
