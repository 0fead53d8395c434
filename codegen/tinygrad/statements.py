"""How the statements of the array form are written in tinygrad.

Input: a `Function` of `ir/array_statements.py` and the spec's texts.
Output: the statements of a function over [B, T], as `ir/code.py` has them; a comment behind each tells its axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatchmethod
from math import prod

from cdrmix.diagnose import NOWHERE, Span
from cdrmix.ir import array_statements as form
from cdrmix.ir.array_statements import Function
from cdrmix.ir.arrays import Array
from cdrmix.ir.code import (
    Assign,
    Atom,
    Code,
    Comment,
    For,
    Listed,
    Noted,
    Statement,
    call,
    item,
    listed,
    method,
    name,
)
from cdrmix.ir.code import number as whole
from cdrmix.ir.nodes import Index
from cdrmix.ir.python import comment, equation

from .spelling import Tinygrad, quoted, slot, viewed

UNSAID = frozenset({"view", "turn", "places", "spread"})
"""What is named only because it is used twice: its axes are those of its name."""


def axes_of(indices: Iterable[Index]) -> str:
    """A comment on a tensor's axes."""
    return comment(f"[{', '.join(['B', 'T', *(i.axis.name for i in indices)])}]", 60)


@dataclass(slots=True)
class Writer:
    """Writes the statements of one function, in order; `functions` are the names of the cells' functions."""

    function: Function
    spell: Tinygrad
    sources: Mapping[str, str]
    functions: Mapping[str, str]
    lines: list[Statement] = field(default_factory=list)
    said: Span = NOWHERE

    def body(self) -> tuple[Statement, ...]:
        """The statements of the function."""
        for stmt in self.function.body:
            self.write(stmt)
        return tuple(self.lines)

    def let(self, targets: Code | list[Code], value: Code, note: str = "") -> None:
        """`targets = value  # note`."""
        self.lines.append(Assign(tuple(targets) if isinstance(targets, list) else (targets,), value, note))

    def do(self, function: str, *args: Code | str | int) -> None:
        """A call for what it does."""
        self.lines.append(Assign((), call(function, *args)))

    def of(self, x: Array) -> Code:
        """The code of an array."""
        return self.spell.of(x)

    def _equation(self, span: Span) -> list[str]:
        if span == self.said:
            return []
        self.said = span
        found = equation(span, self.sources)
        return [found] if found else []

    @singledispatchmethod
    def write(self, stmt: object) -> None:
        """The lines of a statement."""
        raise TypeError(type(stmt))

    @write.register
    def _(self, stmt: form.Say) -> None:
        self.lines += map(Comment, self._equation(stmt.span))

    @write.register
    def _(self, stmt: form.Let) -> None:
        value = self.of(stmt.value)
        self.let(self.spell.fresh(stmt.name), value, "" if stmt.value.op in UNSAID else axes_of(stmt.value.dims))

    @write.register
    def _(self, stmt: form.Products) -> None:
        asked, made = list[Code](), list[Code]()
        for let, says in zip(stmt.lets, stmt.says, strict=True):
            weight, x = let.value.args
            pair = listed(quoted(weight.arg.name), self.of(x))
            above = [text for say in says for text in self._equation(say.span)]
            asked.append(Noted(pair, tuple(above), axes_of(let.value.dims)))
            made.append(self.spell.fresh(let.name))
        self.let(made, call("here.products", *asked))

    @write.register
    def _(self, stmt: form.Moments) -> None:
        x = self.of(stmt.x)
        self.let([self.spell.fresh(stmt.mean), self.spell.fresh(stmt.variance)], call("moments", x),
                 axes_of(stmt.x.dims[:-1]))  # fmt: skip

    @write.register
    def _(self, stmt: form.TopK) -> None:
        source = self.of(stmt.source)
        found = [name("_") if x is None else self.spell.fresh(x) for x in (stmt.values, stmt.picks)]
        self.let(found, call("top", source, stmt.k), axes_of(stmt.dims))

    @write.register
    def _(self, stmt: form.Keep) -> None:
        self.do("here.keep", quoted(stmt.state), call("last", self.of(stmt.after)))

    # --- scans -----------------------------------------------------------------------------------------------------
    @write.register
    def _(self, stmt: form.Delay) -> None:
        after = self.of(stmt.after)
        self.let(self.spell.fresh(stmt.before), call("delay", after, slot(stmt.state)), axes_of(stmt.after.dims))
        self.do("here.keep", quoted(stmt.state), call("last", after))

    @write.register
    def _(self, stmt: form.Shift) -> None:
        move = "shift" if stmt.scanned else "delay"  # a scan has written the slot
        value = call(move, self.of(stmt.after), slot(stmt.state))
        self.let(self.spell.fresh(stmt.before), value, axes_of(stmt.after.dims))

    def _wrote(self, state: str, last: Code) -> None:
        self.do("here.wrote", quoted(state), last)

    def _decay(self, x: Array, indices: Sequence[Index]) -> Code:
        given = x.args[0] if x.op == "expand" else x
        return self.spell.broadcast(given if given.type == "number" else x, indices)

    @write.register
    def _(self, stmt: form.Scan) -> None:
        given = [self._decay(stmt.decay, stmt.indices), self.of(stmt.addend), slot(stmt.state)]
        if stmt.combine is None:
            scan = call("linear_scan", *given)
        else:
            scan = call("max_plus_scan", *given, quoted(stmt.combine))
        after, last = self.spell.fresh(stmt.after), self.spell.fresh(stmt.last)
        self.let([after, last], scan, axes_of(stmt.indices))
        self._wrote(stmt.state, last)

    @write.register
    def _(self, stmt: form.Mix) -> None:
        rows = []
        for row in stmt.decay:
            codes = [name("None") if d is None else self._decay(d, stmt.indices) for d in row]
            rows.append(Listed("[", tuple(codes)))
        addends = Listed("[", tuple(map(self.of, stmt.addend)))
        after, last = ([self.spell.fresh(x) for x in found] for found in (stmt.after, stmt.last))
        slots = Listed("[", tuple(map(slot, stmt.states)))
        self.let([listed(*after), listed(*last)], call("coupled_scan", Listed("[", tuple(rows)), addends, slots))
        for state, end in zip(stmt.states, last, strict=True):
            self._wrote(state, end)

    @write.register
    def _(self, stmt: form.ChunkScan) -> None:
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
        self.let([answers, last], call("chunk_scan", **given))
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

    @write.register
    def _(self, stmt: form.Answer) -> None:
        code = viewed(item(self.of(stmt.answers), stmt.place), stmt.flat, [i.axis.size for i in stmt.found])
        self.let(self.spell.fresh(stmt.name), self.spell.ordered(code, stmt.found, stmt.dims), axes_of(stmt.dims))

    @write.register
    def _(self, stmt: form.Loop) -> None:
        """A loop over the tokens, each one's expressions on slices [B, 1, …]."""
        self.lines.append(Comment(f"token by token: {comment(stmt.why, 90)}"))
        now, seen = ([self.spell.fresh(x) for x in found] for found in (stmt.now, stmt.seen))
        for state, code in zip(stmt.states, now, strict=True):
            self.let(code, method(slot(state), "unsqueeze", 1))
        for code in seen:
            self.let(code, Listed("[", ()))
        t = self.spell.fresh(stmt.token)
        outer, sizes, self.lines, self.spell.sizes = self.lines, self.spell.sizes, [], (self.spell.sizes[0], "1")
        for inner in stmt.body:
            self.write(inner)
        for every, after in zip(seen, stmt.after, strict=True):
            self.lines.append(Assign((), method(every, "append", self.of(after))))
        for code, every in zip(now, seen, strict=True):
            self.let(code, item(every, -1))
        body, self.lines, self.spell.sizes = tuple(self.lines), outer, sizes
        self.lines.append(For(t, call("range", sizes[1]), body))
        for local, every, dims in zip(stmt.all, seen, stmt.dims, strict=True):
            self.let(self.spell.fresh(local), call("tokens", every), axes_of(dims))

    # --- histories -------------------------------------------------------------------------------------------------
    @write.register
    def _(self, stmt: form.Entry) -> None:
        value = self.of(stmt.value)
        entry = self.spell.fresh(stmt.entry)
        self.let(entry, value, axes_of(stmt.dims))
        old = slot(stmt.history) if stmt.size > 1 else name("None")
        if stmt.size > 1:
            self._wrote(stmt.history, call("remember", old, entry, "here.pos"))
        if stmt.window is not None:
            windows = call("windows", old, entry, "here.pos", stmt.size)
            axes = f"[{', '.join(['B', 'T', 'window', *(i.axis.name for i in stmt.dims)])}]"
            self.let(self.spell.fresh(stmt.window), windows, comment(axes, 60))
        if stmt.there is not None:
            self.let(self.spell.fresh(stmt.there), call("there", "here.pos", stmt.size))

    @write.register
    def _(self, stmt: form.Attention) -> None:
        sides = [(self._side(s, self.of(s.entry)), self._old(s)) for s in (*stmt.keys, stmt.values)]
        (new_v, old_v), keys = sides[-1], sides[:-1]
        q, new_k, old_k = (Listed("[", tuple(x)) for x in (map(self.of, stmt.queries), *zip(*keys, strict=True)))
        given: list[Code] = [q, new_k, new_v, old_k, old_v, name("here.pos"), whole(stmt.window), whole(stmt.scale)]
        if stmt.bias is not None:
            given.append(self.of(stmt.bias))
        code = viewed(call("attend", *given), stmt.flat, stmt.shape)
        self.let(self.spell.fresh(stmt.name), self.spell.ordered(code, stmt.found, stmt.dims), axes_of(stmt.dims))

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
    @write.register
    def _(self, stmt: form.CallPart) -> None:
        given = [viewed(self.of(g.value), g.own, g.axes) for g in stmt.inputs]
        code = call(self.functions[stmt.part.cell], call("here.part", quoted(stmt.part.name)), *given)
        self.let(self.spell.fresh(stmt.name), code, axes_of(stmt.dims))

    @write.register
    def _(self, stmt: form.CallBank) -> None:
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
        self.let(self.spell.fresh(stmt.name), code, axes_of(stmt.dims))
