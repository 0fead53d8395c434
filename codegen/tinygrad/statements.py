"""How the statements of the array form are written in tinygrad.

Input: a `Function` of `ir/array_statements.py` and the spec's texts.
Output: the statements of a function over [B, T], as `ir/code.py` has them; a comment behind each tells its axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import ClassVar

from cdrmix.ir import array_statements as form
from cdrmix.ir.arrays import Array
from cdrmix.ir.code import Code, call, item, listed, method, name
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

    def wrote(self, state: str, last: Code) -> None:
        """A state's new value, which something has made in its own slot perhaps."""
        self.do(call("here.wrote", quoted(state), last))

    def products(self, stmt: form.Products) -> None:
        asked, made = list[Code](), list[Code]()
        for let, says in zip(stmt.lets, stmt.says, strict=True):
            weight, x = let.value.args
            above = [text for say in says for text in self.equations(say.span)]
            pair = listed(quoted(weight.arg.name), self.of(x))
            asked.append(replace(pair, notes=(*above, axes_of(let.value.dims))))
            made.append(self.spell.fresh(let.name))
        self.assign(made, call("here.products", *asked))

    def moments(self, stmt: form.Moments) -> None:
        found = [self.spell.fresh(stmt.mean), self.spell.fresh(stmt.variance)]
        self.assign(found, call("moments", self.of(stmt.x)), stmt.x.dims[:-1])

    def keep(self, stmt: form.Keep | form.Shift) -> None:
        """A state is the last of a sequence from here on."""
        self.do(call("here.keep", quoted(stmt.state), call("last", self.of(stmt.after))))

    # --- scans -----------------------------------------------------------------------------------------------------
    def shift(self, stmt: form.Shift) -> None:
        move = "shift" if stmt.by == "scan" else "delay"  # a scan has written the slot
        self.define(stmt.before, call(move, self.of(stmt.after), slot(stmt.state)), stmt.after.dims)
        if stmt.by == "equation":
            self.keep(stmt)

    def _decay(self, x: Array | None, indices: Sequence[Index]) -> Code:
        if x is None:
            return name("None")
        given = x.args[0] if x.op == "expand" else x
        return self.spell.constant(given, len(indices)) if given.type == "number" else self.spell.fit(x, indices)

    def scan(self, stmt: form.Scan) -> None:
        given = [self._decay(stmt.decay, stmt.indices), self.of(stmt.addend), slot(stmt.state)]
        if stmt.combine is None:
            scan = call("linear_scan", *given)
        else:
            scan = call("max_plus_scan", *given, quoted(stmt.combine))
        after, last = self.spell.fresh(stmt.after), self.spell.fresh(stmt.last)
        self.assign([after, last], scan, stmt.indices)
        self.wrote(stmt.state, last)

    def mix(self, stmt: form.Mix) -> None:
        rows = [listed(*(self._decay(d, stmt.indices) for d in row), open="[") for row in stmt.decay]
        slots = listed(*map(slot, stmt.states), open="[")
        after, last = ([self.spell.fresh(x) for x in found] for found in (stmt.after, stmt.last))
        scan = call("coupled_scan", listed(*rows, open="["), self.list_of(stmt.addend), slots)
        self.assign([listed(*after), listed(*last)], scan)
        for state, end in zip(stmt.states, last, strict=True):
            self.wrote(state, end)

    def chunk(self, stmt: form.ChunkScan) -> None:
        layout = stmt.layout
        letters = ["k" if i == layout.key else "h" if i in layout.batch else "v" for i in layout.order]
        slots = [method(slot(s), "clone") if stmt.again else slot(s) for s in stmt.states]
        given: dict[str, Code] = {
            "q": listed(*(self.beside(q.q, layout) for q in stmt.asked), open="["),
            "after": listed(*(str(q.after) for q in stmt.asked), open="["),
            "w": self._decays(stmt),
            "k": _joined([self.beside(x, layout) for x in stmt.k]),
            "v": _joined([self.of(x) for x in stmt.v]),
            "states": listed(*slots, open="["),
        }
        if stmt.a:
            given["a"] = _joined([self.beside(x, layout) for x in stmt.a])
            given["b"] = _joined([self.beside(x, layout) for x in stmt.b])
        if stmt.value_decay is not None:
            given["wv"] = self.of(stmt.value_decay)
        given["axes"] = quoted("".join(letters))
        answers, last = self.spell.fresh(stmt.answers), self.spell.fresh(stmt.last)
        self.assign([answers, last], call("chunk_scan", **given))
        for place, s in enumerate(() if stmt.again else stmt.states):
            self.wrote(s, item(last, place))
        for place, q in enumerate(stmt.asked):
            self.answered(q, item(answers, place))

    def padded(self, code: Code, before: int, behind: int) -> Code:
        return call("beside", code, before, behind)

    def _decays(self, stmt: form.ChunkScan) -> Code:
        """None, [B, T, H, 1 | K] or [B, T, H, F, F, K] (source, target)."""
        if stmt.decay is None:
            return name("None")
        if isinstance(stmt.decay, Array):
            return self.of(stmt.decay)
        heads, width = prod(i.axis.size for i in stmt.layout.batch), stmt.layout.key.axis.size
        zero = method(call("constant", "0.0", 1, 1), "expand", *self.spell.sizes, heads, width)
        table = [zero if d is None else self.of(d) for row in stmt.decay for d in row]
        return call("mix", listed(*table, open="["), heads, len(stmt.states), len(stmt.states), width)

    def before(self, state: str) -> Code:
        return method(slot(state), "unsqueeze", 1)

    def stacked(self, every: Code) -> Code:
        return call("tokens", every)

    # --- histories -------------------------------------------------------------------------------------------------
    def entry(self, stmt: form.Entry) -> None:
        entry = self.define(stmt.entry, self.of(stmt.value), stmt.dims)
        old = slot(stmt.history) if stmt.size > 1 else name("None")
        if stmt.size > 1:
            self.wrote(stmt.history, call("remember", old, entry, "here.pos"))
        if stmt.window is not None:
            windows = call("windows", old, entry, "here.pos", stmt.size)
            self.define(stmt.window, windows, (Index("", Axis("window", stmt.size)), *stmt.dims))
        if stmt.there is not None:
            self.define(stmt.there, call("there", "here.pos", stmt.size))

    def attention(self, stmt: form.Attention) -> None:
        given = [self.list_of(stmt.queries)]
        for of in (self._new, self._old):
            given += [listed(*map(of, stmt.keys), open="["), of(stmt.values)]
        given += [name("here.pos"), whole(stmt.values.size), whole(stmt.scale)]
        if stmt.bias is not None:
            given.append(self.of(stmt.bias))
        self.answered(stmt, call("attend", *given))

    def _new(self, side: form.Side) -> Code:
        return self.side(side, self.of(side.entry))

    def _old(self, side: form.Side) -> Code:
        return self.side(side, slot(side.history)) if side.size > 1 else name("None")

    def heads(self, code: Code, table: Code) -> Code:
        return call("heads", code, table)

    # --- parts and banks -------------------------------------------------------------------------------------------
    def part(self, stmt: form.CallPart) -> None:
        given = [viewed(self.of(g.value), g.own, g.axes) for g in stmt.inputs]
        code = call(self.functions[stmt.part.cell], call("here.part", quoted(stmt.part.name)), *given)
        self.define(stmt.name, code, stmt.dims)

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
        self.define(stmt.name, viewed(code, [count, *stmt.out], [i.axis.size for i in stmt.dims]), stmt.dims)


def _joined(parts: Sequence[Code]) -> Code:
    if len(parts) > 1:
        return call("joined", *parts, dim=whole(3))
    return parts[0] if parts else name("None")
