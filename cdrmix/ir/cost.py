"""What a model costs, from its text alone: parameters, bytes and arithmetic of one token.

Input: a `Model`.
Output: a `Cost`, by line of the stack and in total.

`active` counts what one token touches: of a bank, the chosen instances; of an embedding, the row it reads.
A FLOP is one float operation on one element; a multiply-add is two, and a function such as `exp` one.  Histories are
counted full.  Each cell is worked out once, however many places it stands at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from math import prod

import numpy as np

from cdrmix.ir import walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Apply, Cell, DType, Index, Model, Node, Param, Ref, Stored
from cdrmix.ir.ops import OPS
from cdrmix.runtime.encodings import ENCODINGS, HELD

BYTES = {"f32": 4, "bf16": 2, "f16": 2} | {dtype: np.dtype(held).itemsize for dtype, held in HELD.items()}
"""Of an element, by its type or by what safetensors calls what it is held in."""

Elements = Counter[DType | Stored]
"""How many elements there are of each type."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Parameters stored and active, FLOPs a token, and the elements of streaming state, by dtype where it matters."""

    stored: int = 0
    active: int = 0
    flops: int = 0
    weights: Elements = field(default_factory=Counter)
    read: Elements = field(default_factory=Counter)
    state: Elements = field(default_factory=Counter)

    def __add__(self, other: Amount) -> Amount:
        return Amount(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

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
class Cost:
    """The share of each line of the stack, by path, and their sum; tied tensors count where they are owned."""

    lines: Mapping[str, Amount]
    total: Amount


def cost(model: Model) -> Cost:
    """The model's cost."""
    counter, lines = _Counter(model), {}
    for line in model.lines:
        found = [counter.place(i.path, model.cells[i.cell], 1, 1) for i in line.chain]
        added = prod(a.size for a in model.cells[line.chain[-1].cell].out_axes) if line.residual else 0
        lines[line.path] = sum(found, Amount(flops=added))
    return Cost(lines, sum(lines.values(), Amount()))


def flops(n: Node) -> int:
    """FLOPs to compute `n` at every value of its free indices, shared operands once each."""
    own = 0
    if n.dtype in FLOATS and (each := OPS[n.op].flops):
        own = each * _elements((*n.free, *walk.bound(n)))
    return own + sum(flops(a) for a in n.args)


def _elements(indices: Iterable[Index]) -> int:
    return walk.size(set(indices))


def _held(p: Param, n: int) -> Elements:
    """`n` elements of a parameter by the type they are held in, with their scales."""
    if p.stored == "f32":
        return Counter({p.dtype: n})
    row, found = p.indices[-1].axis.size, Elements()
    for plane in ENCODINGS[p.stored].planes((row,)).values():
        found[plane.dtype] += n * prod(plane.shape) // row
    return found


def _bytes(elements: Elements, work: str) -> int:
    return sum(BYTES[work if dtype == "work" else dtype] * n for dtype, n in elements.items())


class _Counter:
    """Counts cells where they stand; what is the same at every place is worked out once."""

    def __init__(self, model: Model):
        self.model = model
        self.flops = {name: sum(map(flops, walk.roots(cell.body))) for name, cell in model.cells.items()}
        self.touched = {name: _touched(cell) for name, cell in model.cells.items()}

    def place(self, path: str, cell: Cell, instances: int, runs: int) -> Amount:
        """`instances` of a cell, of which one token runs `runs`."""
        stored = active = 0
        weights, read, state = Elements(), Elements(), Elements()
        for p in cell.params:
            size = walk.size(p.indices)
            once = min(size, self.touched[cell.name][Ref("param", p.name)])
            active += runs * once
            read += _held(p, runs * once)
            if f"{path}.{p.name}" not in self.model.ties:
                stored += instances * size
                weights += _held(p, instances * size)
        for b in cell.buffers:
            weights[b.dtype] += instances * walk.size(b.indices)
        for s in cell.states:
            state[s.dtype] += instances * walk.size(s.indices)
        for h in cell.histories:
            state[h.dtype] += instances * (h.window.size - 1) * prod(a.size for a in h.axes)
        found = Amount(stored, active, runs * self.flops[cell.name], weights, read, state)
        often = {a.part: _elements(a.lead) for a in cell.body if isinstance(a, Apply)}
        for part in cell.parts:
            many = instances * (part.bank.axis.size if part.bank else 1)
            ran = runs * often.get(part.name, 0)
            found += self.place(f"{path}.{part.name}", self.model.cells[part.cell], many, ran)
        return found


def _touched(cell: Cell) -> Counter[Ref]:
    """How many elements of each name one token reads, at most."""
    found = Counter[Ref]()
    for m in walk.reads((cell.body, cell.states)):
        found[m.arg.ref] += _elements(m.free)
    given = {g.ref for a in cell.body if isinstance(a, Apply) for g in a.inputs}
    found |= Counter({ref: walk.size(p.indices) for p in cell.params if (ref := Ref("param", p.name)) in given})
    return found
