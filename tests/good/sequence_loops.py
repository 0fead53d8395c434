"""The sequence form, run in float64 numpy statement by statement: each over the whole sequence before the next.

Input: a model's cells and their sequence forms, one sequence for each formal, a state and the documents' starts.
Output: the output at every token and the state after the last.  Scans are plain loops, so what is checked is the form.
Where types are decided, what is held is rounded; with all f32 nothing is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cdrmix.ir import walk
from cdrmix.ir.forms import Attend, Chunk, Coupled, Delay, Elementwise, SequenceForm, Sequential
from cdrmix.ir.interp_expr import Frame, expression
from cdrmix.ir.nodes import Apply, Cell, Def, Index, Node, Param, Ref, Top
from cdrmix.ir.types import param_types, rounded
from cdrmix.passes.sequence import sequence_form

Sequences = dict[str, np.ndarray]


@dataclass
class Loops:
    """One cell at one place, its parts below it."""

    cell: Cell
    cells: Mapping[str, Cell]
    weights: Mapping[str, np.ndarray]
    path: str
    form: SequenceForm = field(init=False)

    def __post_init__(self):
        self.form = sequence_form(self.cell)
        self.windows = walk.windows(self.cell)
        self.types = param_types(self.cell)
        self.names = {s.name: s for s in self.cell.states}

    def run(self, inputs: Sequences, state: Sequences, starts: list[bool], pos: int = 0):
        """The outputs, stacked, and the new state; `state` is keyed by full path."""
        self.old, self.new, self.starts = state, {}, starts
        self.frames = []
        count = {h.name: int(state[f"{self.path}.{h.name}.count"]) for h in self.cell.histories}
        seen = max(count.values(), default=0)
        for t, start in enumerate(starts):
            if start:
                pos, seen = 0, 0
            fixed = {Ref("param", p.name): self.weight(p) for p in self.cell.params}
            values = {Ref("input", i.name): rounded(np.asarray(inputs[i.name][t]), i.dtype) for i in self.cell.inputs}
            self.frames.append(Frame({**fixed, **values}, {"pos": pos}, seen))
            pos, seen = pos + 1, seen + 1
        for frame in self.frames:
            longest = max((h.window.size - 1 for h in self.cell.histories), default=0)
            frame.seen = min(frame.seen, longest)
        for stmt in self.form.body:
            self.statement(stmt)
        out = [f.values[Ref("output", "out")] for f in self.frames]
        return np.stack(out), self.new

    def weight(self, p: Param) -> np.ndarray:
        return rounded(np.asarray(self.weights[f"{self.path}.{p.name}"], np.float64), p.dtype)

    def statement(self, stmt):
        match stmt:
            case Def() if stmt.ref.kind == "history":
                self.history(stmt)
            case Def():
                self.define(stmt.ref, [rounded(x, stmt.dtype) for x in self.over(stmt.value, stmt.indices)])
                if stmt.ref.kind == "next":
                    self.new[f"{self.path}.{stmt.ref.name}"] = self.frames[-1].values[stmt.ref]
            case Top():
                self.top(stmt)
            case Apply():
                self.apply(stmt)
            case Delay():
                self.scan((stmt.state,), lambda t, old: (self.frames[t].values[Ref("next", stmt.state)],))
            case Elementwise(combine=None):
                d, b = self.over(stmt.decay, stmt.indices), self.over(stmt.addend, stmt.indices)
                self.scan((stmt.state,), lambda t, old: (d[t] * old[0] + b[t],))
            case Elementwise():
                d, b = self.over(stmt.decay, stmt.indices), self.over(stmt.addend, stmt.indices)
                combine = {"max": np.maximum, "logaddexp": np.logaddexp}[stmt.combine]
                self.scan((stmt.state,), lambda t, old: (combine(old[0] + d[t], b[t]),))
            case Coupled():
                self.coupled(stmt)
            case Chunk():
                self.chunk(stmt)
            case Sequential():
                self.sequential(stmt)
            case Attend():
                self.attend(stmt)
            case _:
                raise TypeError(type(stmt))

    def over(self, n: Node, indices: tuple[Index, ...]) -> list[np.ndarray]:
        """An expression at every token."""
        value = expression(n, self.windows, indices, self.types)
        return [np.asarray(value(f)) for f in self.frames]

    def define(self, ref: Ref, values):
        for f, value in zip(self.frames, values, strict=True):
            assert ref not in f.values or ref.kind == "carry", f"{ref} is defined twice"
            f.values[ref] = value

    def initial(self, name: str) -> np.ndarray:
        s = self.names[name]
        return rounded(np.asarray(expression(s.init, {}, s.indices)(self.frames[0])), s.dtype)

    def scan(self, states: tuple[str, ...], step, keep: bool = True):
        """A loop over the tokens; with `keep`, the states before and after each become known."""
        now = [self.old[f"{self.path}.{s}"] for s in states]
        for t, f in enumerate(self.frames):
            if self.starts[t]:
                now = [self.initial(s) for s in states]
            new = step(t, now)
            for s, before, after in zip(states, now, new, strict=True):
                if keep:
                    f.values[Ref("state", s)], f.values[Ref("next", s)] = before, after
            now = new
        for s, value in zip(states, now, strict=True):
            self.new[f"{self.path}.{s}"] = value

    def coupled(self, stmt: Coupled):
        rows = [[None if d is None else self.over(d, stmt.indices) for d in row] for row in stmt.decay]
        addend = [self.over(a, stmt.indices) for a in stmt.addend]

        def step(t, old):
            return [
                sum((d[t] * x for d, x in zip(row, old, strict=True) if d is not None), start=b[t])
                for row, b in zip(rows, addend, strict=True)
            ]

        self.scan(stmt.states, step)

    def chunk(self, s: Chunk):
        assert sorted(i.name for i in s.order) == sorted(i.name for i in (*s.batch, *s.value, s.key))
        sizes = [int(np.prod([i.axis.size for i in group])) for group in (s.batch, s.value, (s.key,))]
        to = [s.order.index(i) for i in (*s.batch, *s.value, s.key)]
        back = list(np.argsort(to))
        shape = [i.axis.size for i in (*s.batch, *s.value, s.key)]

        def flat(n, *groups):
            values = self.over(n, tuple(i for g in groups for i in g))
            return [v.reshape([int(np.prod([i.axis.size for i in g])) for g in groups]) for v in values]

        decay = {edge: flat(d, s.batch, (s.key,)) for edge, d in s.decay.items()}
        rows = flat(s.value_decay, s.batch, s.value) if s.value_decay is not None else None
        low = [(x, flat(x.a, s.batch, x.rank, (s.key,)), flat(x.b, s.batch, x.rank, (s.key,))) for x in s.low_rank]
        outer = [(x, flat(x.v, s.batch, x.rank, s.value), flat(x.k, s.batch, x.rank, (s.key,))) for x in s.outer]
        asks = [(q, flat(q.q, s.batch, q.lead, (s.key,))) for q in s.queries]

        def step(t, old):
            S = dict(zip(s.states, (x.transpose(to).reshape(sizes) for x in old), strict=True))
            N = {name: np.zeros_like(x) for name, x in S.items()}
            for (target, source), d in decay.items():
                N[target] += S[source] * d[t][:, None] * (1 if rows is None else rows[t][:, :, None])
            for x, a, b in low:
                N[x.target] += np.einsum("hvk,hrk,hrj->hvj", S[x.source], a[t], b[t])
            for x, v, k in outer:
                N[x.target] += np.einsum("hrv,hrk->hvk", v[t], k[t])
            for q, vector in asks:
                found = np.einsum("hvk,hlk->hlv", (N if q.after else S)[q.state], vector[t])
                axes = [i.axis.size for i in (*s.batch, *q.lead, *s.value)]
                self.frames[t].values[Ref("def", q.name)] = found.reshape(axes)
            return [N[name].reshape(shape).transpose(back) for name in s.states]

        self.scan(s.states, step, keep=False)

    def sequential(self, s: Sequential):
        body = [(d, expression(d.value, self.windows, d.indices, self.types)) for d in s.body]

        def step(t, old):
            f = self.frames[t]
            before = {Ref("state", n): x for n, x in zip(s.states, old, strict=True)}
            inner = Frame({**f.values, **before}, f.context, f.seen)
            for d, value in body:
                inner.values[d.ref] = rounded(np.asarray(value(inner)), d.dtype)
            return [inner.values[Ref("next", n)] for n in s.states]

        self.scan(s.states, step)

    def history(self, d: Def):
        window = next(h.window.size for h in self.cell.histories if h.name == d.ref.name)
        path = f"{self.path}.{d.ref.name}"
        past = list(self.old[path][: int(self.old[f"{path}.count"])])
        for f, start, value in zip(self.frames, self.starts, self.over(d.value, d.indices), strict=True):
            past = [rounded(value, d.dtype), *([] if start else past)][:window]
            f.values[d.ref] = np.stack(past)
        kept = np.zeros_like(self.old[path])
        kept[: min(len(past), window - 1)] = past[: window - 1]
        self.new[path], self.new[f"{path}.count"] = kept, np.asarray(min(len(past), window - 1))

    def attend(self, s: Attend):
        for n in (*(p.key for p in s.parts), s.value):
            assert walk.windowed(n, self.windows) == {s.t}
        queries = [expression(p.query, self.windows, (*s.indices, *p.contract), self.types) for p in s.parts]
        keys = [
            expression(p.key, self.windows, (*(i for i in s.indices if i in p.key.free), s.t, *p.contract))
            for p in s.parts
        ]
        value = expression(s.value, self.windows, (*(i for i in s.indices if i in s.value.free), s.t))
        for f in self.frames:
            tokens = min(s.t.axis.size, f.seen + 1)
            v = _spread(value(f), [i in s.value.free for i in s.indices])
            x = 0.0
            for p, query, key in zip(s.parts, queries, keys, strict=True):
                q = query(f)[(..., None, *(slice(None) for _ in p.contract))]
                k = _spread(key(f), [i in p.key.free for i in s.indices])
                x = x + s.scale * (q * k).sum(tuple(range(-len(p.contract), 0)))
            if s.bias is not None:
                bias = expression(s.bias, {}, (*s.indices, s.t))(f)
                x = x + bias[..., :tokens]
            x = np.exp(x - x.max(-1, keepdims=True))
            found = (x / x.sum(-1, keepdims=True) * v).sum(-1)
            f.values[Ref("def", s.name)] = rounded(np.broadcast_to(found, [i.axis.size for i in s.indices]), s.dtype)

    def top(self, s: Top):
        for f, x in zip(self.frames, self.over(s.source, (*s.lead, s.over)), strict=True):
            places = np.argsort(-x, axis=-1, kind="stable")[..., : s.k.axis.size]
            if s.picks is not None:
                f.values[Ref("def", s.picks)] = places
            if s.values is not None:
                f.values[Ref("def", s.values)] = np.take_along_axis(x, places, -1)

    def apply(self, a: Apply):
        assert a.select is None, "banks are not run here"
        part = next(p for p in self.cell.parts if p.name == a.part)
        cell = self.cells[part.cell]
        inner = Loops(cell, self.cells, self.weights, f"{self.path}.{part.name}")
        inputs = {
            formal.name: np.stack([f.values[g.ref].reshape([x.size for x in formal.axes]) for f in self.frames])
            for formal, g in zip(cell.inputs, a.inputs, strict=True)
        }
        out, new = inner.run(inputs, self.old, self.starts)
        self.new |= new
        self.define(Ref("def", a.name), list(out))


def _spread(x: np.ndarray, have: list[bool]) -> np.ndarray:
    """Axes of length one where an index is missing in front."""
    return x[tuple(slice(None) if there else None for there in have)]
