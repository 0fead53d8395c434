"""What a model costs, from its text alone: parameters, bytes and arithmetic of one token.

Input: a `Model`.
Output: a `Cost`, by line of the stack and in total.

`active` counts what one token touches: of a bank, the chosen instances; of an embedding, the row it reads.
A FLOP is one float operation on one element; a multiply-add is two, and a function such as `exp` one.  Histories are
counted full.  Each cell is worked out once, however many places it stands at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import numpy as np

from cdrmix.ir import walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Apply, Cell, DType, Index, Model, Node, Param, Ref, Stored
from cdrmix.ir.ops import OPS
from cdrmix.runtime.encodings import ENCODINGS, HELD

Held = TypeVar("Held", bound=str)

BYTES = {"f32": 4, "bf16": 2, "f16": 2} | {dtype: np.dtype(held).itemsize for dtype, held in HELD.items()}
"""Of an element, by its type or by what safetensors calls what it is held in."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Parameters stored and active, FLOPs a token, and the elements of streaming state, by dtype where it matters."""

    stored: int = 0
    active: int = 0
    flops: int = 0
    weights: tuple[tuple[DType | Stored, int], ...] = ()
    read: tuple[tuple[DType | Stored, int], ...] = ()
    state: tuple[tuple[DType, int], ...] = ()

    def weight_bytes(self, work: str = "f32") -> int:
        """Bytes of the stored parameters and buffers when the working type is `work`."""
        return _bytes(self.weights, work)

    def read_bytes(self, work: str = "f32") -> int:
        """Bytes of the parameters that one token reads."""
        return _bytes(self.read, work)

    def state_bytes(self, work: str = "f32") -> int:
        """Bytes of one session's states and histories when the working type is `work`."""
        return _bytes(self.state, work)


@dataclass(frozen=True, slots=True)
class LineCost:
    """The share of one line of the stack; tied tensors count where they are owned."""

    path: str
    amount: Amount


@dataclass(frozen=True, slots=True)
class Cost:
    """A model's lines and their sum."""

    lines: tuple[LineCost, ...]
    total: Amount


def cost(model: Model) -> Cost:
    """The model's cost."""
    return _Counter(model).whole()


def flops(n: Node) -> int:
    """FLOPs to compute `n` at every value of its free indices, shared operands once each."""
    own = 0
    if n.dtype in FLOATS and (each := OPS[n.op].flops):
        own = each * _elements((*n.free, *walk.bound(n)))
    return own + sum(flops(a) for a in n.args)


def _elements(indices: Iterable[Index]) -> int:
    return prod(i.axis.size for i in set(indices))


def _elements_held(p: Param, n: int) -> list[tuple[DType | Stored, int]]:
    """`n` elements of a parameter by the type they are held in, with their scales."""
    if p.stored == "f32":
        return [(p.dtype, n)]
    row = p.indices[-1].axis.size
    return [(plane.dtype, n * prod(plane.shape) // row) for plane in ENCODINGS[p.stored].planes((row,)).values()]


def _bytes(elements: Iterable[tuple[DType | Stored, int]], work: str) -> int:
    return sum(BYTES[work if dtype == "work" else dtype] * n for dtype, n in elements)


def _sum(amounts: Iterable[Amount]) -> Amount:
    found = list(amounts)
    return Amount(
        sum(a.stored for a in found),
        sum(a.active for a in found),
        sum(a.flops for a in found),
        _gathered(a.weights for a in found),
        _gathered(a.read for a in found),
        _gathered(a.state for a in found),
    )


def _gathered(groups: Iterable[Iterable[tuple[Held, int]]]) -> tuple[tuple[Held, int], ...]:
    counts: dict[Held, int] = {}
    for group in groups:
        for dtype, n in group:
            counts[dtype] = counts.get(dtype, 0) + n
    return tuple(sorted(counts.items()))


class _Counter:
    def __init__(self, model: Model):
        self.source = model
        self.flops_of: dict[str, int] = {}
        self.runs_of: dict[str, dict[str, int]] = {}
        self.touched_of: dict[str, dict[str, int]] = {}

    def whole(self) -> Cost:
        ties = set(self.source.ties)
        lines = []
        for line in self.source.lines:
            found = [self.place(i.path, self.source.cells[i.cell], 1, 1, ties) for i in line.chain]
            if line.residual:
                found.append(Amount(flops=prod(a.size for a in self.source.cells[line.chain[-1].cell].out_axes)))
            lines.append(LineCost(line.path, _sum(found)))
        return Cost(tuple(lines), _sum(line.amount for line in lines))

    def place(self, path: str, cell: Cell, instances: int, runs: int, ties: set[str]) -> Amount:
        """`instances` of a cell, of which one token runs `runs`."""
        touched = self.touched(cell)
        stored = active = 0
        weights: list[tuple[DType | Stored, int]] = []
        read: list[tuple[DType | Stored, int]] = []
        for p in cell.params:
            size = prod(i.axis.size for i in p.indices)
            once = min(size, touched.get(p.name, 0))
            active += runs * once
            read += _elements_held(p, runs * once)
            if f"{path}.{p.name}" not in ties:
                stored += instances * size
                weights += _elements_held(p, instances * size)
        weights += [(b.dtype, instances * prod(i.axis.size for i in b.indices)) for b in cell.buffers]
        state = [(s.dtype, instances * prod(i.axis.size for i in s.indices)) for s in cell.states]
        state += [(h.dtype, instances * (h.window.size - 1) * prod(a.size for a in h.axes)) for h in cell.histories]
        own = Amount(stored, active, runs * self.flops(cell), tuple(weights), tuple(read), tuple(state))
        inner = [own]
        for part in cell.parts:
            many = instances * (part.bank.axis.size if part.bank else 1)
            ran = runs * self.runs(cell).get(part.name, 0)
            inner.append(self.place(f"{path}.{part.name}", self.source.cells[part.cell], many, ran, ties))
        return _sum(inner)

    def flops(self, cell: Cell) -> int:
        """Of the cell's own body, parts left out."""
        if cell.name not in self.flops_of:
            self.flops_of[cell.name] = sum(flops(n) for s in cell.body for n in walk.roots(s))
        return self.flops_of[cell.name]

    def runs(self, cell: Cell) -> dict[str, int]:
        """How often one token runs each part."""
        if cell.name not in self.runs_of:
            applied = [s for s in cell.body if isinstance(s, Apply)]
            self.runs_of[cell.name] = {a.part: _elements(a.lead) for a in applied}
        return self.runs_of[cell.name]

    def touched(self, cell: Cell) -> dict[str, int]:
        """How many elements of each param one token reads, at most."""
        if cell.name not in self.touched_of:
            found: dict[str, int] = {}
            read = [m for s in cell.body for n in walk.roots(s) for m in walk.reads(n)]
            for m in (*read, *(m for s in cell.states for m in walk.reads(s.init))):
                if m.arg.ref.kind == "param":
                    found[m.arg.ref.name] = found.get(m.arg.ref.name, 0) + _elements(m.free)
            given = {g.ref for s in cell.body if isinstance(s, Apply) for g in s.inputs}
            found |= {p.name: _elements(p.indices) for p in cell.params if Ref("param", p.name) in given}
            self.touched_of[cell.name] = found
        return self.touched_of[cell.name]
