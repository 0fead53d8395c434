"""numpy as a library of arrays, in float64: how it is written, and what is called.  `docs/extending.md` explains it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from cdrmix.ir import array_statements as form
from cdrmix.ir.array_statements import Function, Traits
from cdrmix.ir.arrays import Array
from cdrmix.ir.code import Assign, Code, call, flat, item, listed, name, number, written
from cdrmix.ir.nodes import Index
from cdrmix.ir.ops import OPS
from cdrmix.ir.python import Names, text
from cdrmix.ir.spelling import Spelling
from cdrmix.ir.writing import Writer

TRAITS = Traits(frozenset({"sequence", "step"}))
Tensor = np.ndarray[Any, Any]


class Numpy(Spelling):
    """`here` is what a cell is given; every primitive is called by what the table of ops says that it means."""

    infinity, functions = "np.inf", {"einsum": "np.einsum"} | {op: f"op_{op}" for op, row in OPS.items() if row.numpy}

    def stored_(self, x: Array) -> Code:
        return call("here.weight", text(x.arg.name), listed(*(x.arg.sizes or x.arg.shape)))

    def old_(self, x: Array) -> Code:
        return call("here.state", text(x.arg))

    def places_(self, x: Array) -> Code:
        return call("np.arange", x.arg.axis.size)

    def context_(self, x: Array) -> Code:
        return name("here.pos")

    def cast_(self, x: Array) -> Code:
        return call("np.asarray", self.of(x.args[0]), {"bool": "bool", "int": "int"}.get(x.type, "float"))

    def expand_(self, x: Array) -> Code:
        sizes = listed(*["*lead"] * x.arg, *(i.axis.size for i in x.dims))
        return call("np.broadcast_to", self.fit(x.args[0], x.dims), sizes)

    def spread_(self, x: Array) -> Code:
        code = item(self.of(x.args[0]), "...", *(":" if there else "None" for there in x.arg[0]))
        return call("np.broadcast_to", code, listed(*["*lead"] * x.args[0].lead, *x.arg[1]))

    def view_(self, x: Array) -> Code:
        return call("view", self.of(x.args[0]), len(x.arg[0]), listed(*x.arg[1]))

    def permuted(self, x: Array, dims: tuple[Index, ...]) -> Code:
        return call("axes", self.of(x), *(x.dims.index(d) for d in dims))

    def flip_(self, x: Array) -> Code:
        return item(self.of(x.args[0]), "...", "::-1", *[":"] * (len(x.dims) - x.arg - 1))

    def logsumexp_(self, x: Array) -> Code:
        return call("op_logsumexp", self.of(x.args[0]), listed(*(x.args[0].position(i) for i in x.arg)))

    def rows_(self, x: Array) -> Code:
        """Computed places: the axes they stand at made the last ones, [*rest, *at], and read there."""
        of, *places = x.args
        rest = [d for p, d in enumerate(of.dims) if p not in x.arg[0]]
        found = [i for i in x.dims if i not in rest]
        order = [*(of.dims.index(d) for d in rest), *x.arg[0]]
        at = [self.fit(p, found) for p in places]
        code = call("take", call("axes", self.of(of), *order), len(rest), len(found), *at)
        return call("axes", code, *([*rest, *found].index(d) for d in x.dims))

    index_ = pick_ = rows_


class NumpyWriter(Writer):
    """Every statement but equations is a call of the runtime."""

    def keep(self, stmt: form.Keep) -> None:
        self.do(call("here.keep", text(stmt.state), self.of(stmt.after)))  # of a step: no loop is among these ops

    def shift(self, stmt: form.Shift) -> None:
        after = self.of(stmt.after)
        self.assign(self.spell.fresh(stmt.before), call("delay", after, call("here.state", text(stmt.state))))
        self.do(call("here.keep", text(stmt.state), item(after, ":", -1)))

    def scan(self, stmt: form.Scan) -> None:
        given = self.spell.fit(stmt.decay, stmt.indices), self.of(stmt.addend), text(stmt.combine or "")
        after = self.spell.fresh(stmt.after)
        self.assign(after, call("scan", *given, call("here.state", text(stmt.state))))
        self.do(call("here.keep", text(stmt.state), item(after, ":", -1)))

    def chunk(self, stmt: form.ChunkScan) -> None:
        def beside(found: Iterable[form.Beside]) -> Code:
            return listed(*(self.of(x.x) for x in found), open="[")

        (state,), layout = stmt.states, stmt.layout
        order = [layout.order.index(i) for i in layout.inner]
        sizes = [prod(i.axis.size for i in axes) for axes in (layout.batch, layout.value, (layout.key,))]
        decay = self.of(stmt.decay) if isinstance(stmt.decay, Array) else name("1.0")
        rows = name("1.0") if stmt.value_decay is None else item(self.of(stmt.value_decay), "...", "None")
        asked = [beside(q.q for q in stmt.asked), listed(*(str(q.after) for q in stmt.asked), open="[")]
        added = [beside(stmt.k), listed(*map(self.of, stmt.v), open="["), beside(stmt.a), beside(stmt.b)]
        code = call("here.chunk", text(state), *asked, decay, rows, *added, listed(*order), listed(*sizes))
        answers = self.spell.fresh(stmt.answers)
        self.assign(answers, code)
        for place, q in enumerate(stmt.asked):
            code = call("view", item(answers, place), 3, listed(*(i.axis.size for i in q.found)))
            self.assign(self.spell.fresh(q.name), call("axes", code, *(q.found.index(i) for i in q.dims)))

    def entry(self, stmt: form.Entry) -> None:
        entry = self.spell.fresh(stmt.entry)
        self.assign(entry, self.of(stmt.value))
        found = [name("_") if x is None else self.spell.fresh(x) for x in (stmt.window, stmt.there)]
        self.assign(found, call("here.windows", text(stmt.history), entry, stmt.size))

    def attention(self, stmt: form.Attention) -> None:
        sides = [(s.history, s.view, s.order, s.flat, s.table) for s in (*stmt.keys, stmt.values)]
        bias = number(0) if stmt.bias is None else self.of(stmt.bias)
        queries = listed(*map(self.of, stmt.queries), open="[")
        found = call("here.attend", queries, repr(sides), number(stmt.scale), bias)
        code = call("view", found, 2, listed(*(i.axis.size for i in stmt.found)))
        self.assign(self.spell.fresh(stmt.name), call("axes", code, *(stmt.found.index(i) for i in stmt.dims)))

    def part(self, stmt: form.CallPart) -> None:
        given = (call("view", self.of(g.value), len(g.own), listed(*g.axes)) for g in stmt.inputs)
        head = (text(stmt.part.name), text(stmt.part.cell), "lead")
        self.assign(self.spell.fresh(stmt.name), call("here.call", *head, *given))

    def bank(self, stmt: form.CallBank) -> None:
        given = (listed(self.of(g.value), g.front, listed(*g.axes)) for g in stmt.inputs)
        pick = name("None") if stmt.pick is None else self.of(stmt.pick)
        head = (text(stmt.part.name), text(stmt.part.cell), stmt.part.bank.axis.size, len(stmt.lead), pick)
        self.assign(self.spell.fresh(stmt.name), call("here.bank", *head, *given))


def function_of(made: Function, sources: dict[str, str]) -> str:
    spell = Numpy(Names({"np", "here", "lead", "view", "axes", "take", "delay", "scan", "top"}))
    inputs = [flat(spell.fresh(x)) for x in made.inputs]
    body = [Assign((spell.fresh(x),), call("here.carries.get", text(c))) for c, x in made.above]
    body += NumpyWriter(made, spell, sources).body()
    body += [Assign((), call("here.carries.__setitem__", text(c), spell.of(x))) for c, x in made.gives]
    body.append(Assign((), spell.of(made.result), returns=True))
    return f"def run(here, lead, {', '.join(inputs)}):\n    " + "\n    ".join(written(body, 4))


def view(x: Tensor, old: int, new: tuple[int, ...]) -> Tensor:
    return x.reshape(*x.shape[: x.ndim - old], *new)


def axes(x: Tensor, *order: int) -> Tensor:
    return np.moveaxis(x, [p - len(order) for p in order], range(-len(order), 0)) if order else x


def take(x: Tensor, rest: int, found: int, *given: Tensor) -> Tensor:
    places = np.broadcast_arrays(*(np.asarray(p, int) for p in given))
    lead = places[0].shape[: places[0].ndim - found]
    x = np.broadcast_to(x, (*lead, *x.shape[x.ndim - rest - len(places) :])) if lead else x
    each = [x[at][(..., *(p[at] for p in places))] for at in np.ndindex(*lead)]
    return np.reshape(each, (*lead, *each[0].shape)) if lead else x[(..., *places)]


def top(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    places = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(x, places, -1), places


def delay(after: Tensor, old: Tensor) -> Tensor:
    return np.concatenate([old[:, None], after[:, :-1]], 1)


def scan(decay: Tensor, addend: Tensor, combine: str, s: Tensor) -> Tensor:
    found, decay = [s], np.broadcast_to(decay, addend.shape)
    for d, x in zip(np.moveaxis(decay, 1, 0), np.moveaxis(addend, 1, 0), strict=True):
        found.append(OPS[combine].numpy(found[-1] + d, x) if combine else d * found[-1] + x)
    return np.stack(found[1:], 1)


@dataclass
class Here:
    """What a cell is given: tensors by their paths below `path`; `at` is the instance of each bank around it."""

    program: Any
    old: dict[str, Tensor]
    pos: Tensor
    path: str = ""
    new: dict[str, Tensor] = field(default_factory=dict)
    carries: dict[str, Tensor] = field(default_factory=dict)
    at: tuple[int, ...] = ()
    seen: dict[str, Any] = field(default_factory=dict)

    def weight(self, name: str, sizes: tuple[int, ...]) -> Tensor:
        return self.program.weights[self.path + name][self.at].reshape(sizes)

    def state(self, name: str) -> Tensor:
        return self.old[self.path + name]

    def keep(self, name: str, value: Tensor) -> None:
        self.new[self.path + name] = value

    def call(self, part: str, cell: str, lead: tuple[int, ...], *inputs: Tensor, at: tuple[int, ...] = ()) -> Tensor:
        inner = replace(self, path=f"{self.path}{part}.", at=(*self.at, *at), seen={})
        return self.program.run(cell, inner, lead, *inputs)

    def bank(self, part: str, cell: str, count: int, n: int, pick: Any, *given: Any) -> Tensor:
        pick, lead, found = np.arange(count) if pick is None else pick, self.pos.shape, 0.0
        shape = (*lead, *pick.shape[-n:])
        inputs = [(x if front else x.reshape(*lead, *[1] * n, *own), own) for x, front, own in given]
        for e in range(count):
            y = self.call(part, cell, shape, *(np.broadcast_to(x, (*shape, *own)) for x, own in inputs), at=(e,))
            found = np.where((pick == e).reshape(*pick.shape, *[1] * (y.ndim - len(shape))), y, found)
        return np.asarray(found)

    def windows(self, name: str, entry: Tensor, size: int) -> tuple[Tensor, Tensor]:
        old, count, ages = self.state(name), self.state(f"{name}.count"), np.arange(size)
        line = np.concatenate([old[:, ::-1], entry.reshape(len(entry), -1, *old.shape[2:])], 1)
        window = np.stack([line[:, size - 1 - a :][:, : line.shape[1] - size + 1] for a in ages], 2)
        there = ages <= (count[:, None] + np.arange(window.shape[1]))[..., None]
        self.keep(name, line[:, ::-1][:, : size - 1])
        self.keep(f"{name}.count", np.minimum(count + window.shape[1], size - 1))
        found = window.reshape(*self.pos.shape, *window.shape[2:]), there.reshape(*self.pos.shape, size)
        return self.seen.setdefault(name, found)

    def attend(self, q: list[Tensor], sides: list[Any], scale: float, bias: Any) -> Tensor:
        def heads(name: str, sizes: Any, order: Any, flat: Any, table: Any) -> Tensor:
            x = axes(view(self.seen[name][0], len(order), sizes), *order).reshape(*self.pos.shape, -1, *flat)
            return x[..., np.repeat(np.arange(flat[0]), q[0].shape[-2] // flat[0]) if table is None else table, :]

        *keys, values = (heads(*side) for side in sides)
        scores = np.einsum("...hn,...whn->...hw", np.concatenate(q, -1), np.concatenate(keys, -1)) * scale + bias
        scores = np.where(self.seen[sides[-1][0]][1][..., None, :], scores, -np.inf)
        return np.einsum("...hw,...whn->...hn", OPS["softmax"].numpy(scores, -1), values)

    def chunk(self, name, asked, after, decay, rows, k, v, a, b, order, sizes):
        S, found = axes(self.state(name), *order), [[] for _ in asked]
        inner, S = S.shape, S.reshape(len(S), *sizes)
        for t in range(self.pos.shape[1]):
            new = S * (decay[:, t, :, None] if np.ndim(decay) else decay) * (rows[:, t] if np.ndim(rows) else rows)
            new = new + sum(np.einsum("bhvk,bhrk,bhrj->bhvj", S, x[:, t], y[:, t]) for x, y in zip(a, b, strict=True))
            new = new + sum(np.einsum("bhrv,bhrk->bhvk", x[:, t], y[:, t]) for x, y in zip(v, k, strict=True))
            for out, x, now in zip(found, asked, after, strict=True):
                out.append(np.einsum("bhvk,bhlk->bhlv", new if now else S, x[:, t].reshape(*S.shape[:2], -1, sizes[2])))
            S = new
        self.keep(name, axes(S.reshape(inner), *np.argsort(order)))
        return [np.stack(out, 1) for out in found]
