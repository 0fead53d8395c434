"""Decide the type in which everything that has a name is held: f32, or the working type where that is narrower.

Input: a checked model, and what `work` is.
Output: the model with the fields that `ir/types.py` lists decided, and every expression f32.

With `work` f32 that is f32 for all.  With a narrower one f32 remain, and everything else is `work`:
- what the text declares f32, buffers, and the names computed from these; a product with a matrix that is not declared
  f32 ends that, and so do `return`, a carry, a part's input and a state;
- what decides about more than its own digits, and so is *never narrower*: what multiplies a state at the place that it
  is written to (its decay; in a running maximum what is added to it) and what `top` chooses from, with all from which
  these are computed other than by a product with a matrix, through parts, carries and states;
- vectors, and what a state begins with;
- every state but a delay; a delay, and a history whose type is open, has the type of the name that it is given;
- names inside a recurrence, names over a history's window, and names as large as a state of several axes that are
  computed from it or it from them: no parallel form has them;
- names that hold a mean, or one number.
A declared f16 or bf16 is kept for what it declares, where `work` is no wider; a recurrence is f32 all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from cdrmix.ir import walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Apply, Cell, Def, DType, Model, Node, Ref, RefKind, Stmt, Top
from cdrmix.ir.ops import OPS
from cdrmix.ir.types import NARROW, matrix_product
from cdrmix.passes import graph

Name = tuple[str, Ref]
"""A name of a cell.  A carry, which all cells share, is of no cell; a state before the token is the one after it."""

Held = Callable[[str, Ref, DType], DType]
"""The type of a cell's name, by what the checker made it."""

OUT = Ref("output", "out")
_TIMES: tuple[RefKind, ...] = ("state", "next")
_GROUPS: Mapping[str, RefKind] = {
    "inputs": "input", "params": "param", "states": "state", "histories": "history", "carries": "carry",
    "buffers": "buffer",
}  # fmt: skip


def decide_types(model: Model, work: DType = "f32") -> Model:
    """The model with every type decided; `work` is f32, bf16 or f16."""
    wide: Callable[[str, Ref], bool] = (lambda cell, ref: True) if work == "f32" else _Wide(model).holds

    def held(cell: str, ref: Ref, dtype: DType) -> DType:
        if dtype not in FLOATS:
            return dtype
        if wide(cell, ref):
            return "f32"
        return dtype if dtype in NARROW else work

    outs = {cell.name: held(cell.name, OUT, _output(cell).dtype) for cell in model.cells.values()}
    cells = {name: _written(cell, held, outs) for name, cell in model.cells.items()}
    return replace(model, cells=cells, work=work)


def _written(cell: Cell, held: Held, outs: Mapping[str, DType]) -> Cell:
    """The cell with its types written in; `outs` are those of what each cell gives."""
    callee = {p.name: p.cell for p in cell.parts}

    def widen(n: Node) -> Node:
        return walk.transform(n, lambda m: replace(m, dtype="f32") if m.op == "read" and m.dtype in FLOATS else m)

    def statement(stmt: Stmt) -> Stmt:
        match stmt:
            case Def():
                return replace(stmt, value=widen(stmt.value), dtype=held(cell.name, stmt.ref, _said(stmt)))
            case Apply():
                return replace(stmt, dtype=outs[callee[stmt.part]])
            case Top():
                return replace(stmt, source=widen(stmt.source))

    def declared(group: str) -> tuple[Any, ...]:
        found = getattr(cell, group)
        return tuple(replace(x, dtype=held(cell.name, Ref(_GROUPS[group], x.name), x.dtype)) for x in found)

    groups: dict[str, Any] = {group: declared(group) for group in _GROUPS}
    groups["states"] = tuple(replace(s, init=widen(s.init)) for s in groups["states"])
    training = walk.map_roots(cell.training, widen)
    return replace(cell, body=tuple(map(statement, cell.body)), training=training, **groups)


def _name(cell: str, ref: Ref) -> Name:
    if ref.kind == "state":
        ref = Ref("next", ref.name)
    return ("" if ref.kind == "carry" else cell), ref


def _said(d: Def) -> DType:
    """The type that the text gives a definition; one that its value has by itself is not said."""
    inferred = d.ref.kind == "def" and d.dtype in FLOATS and d.dtype == d.value.dtype
    return "work" if inferred else d.dtype


def _output(cell: Cell) -> Def:
    return next(s for s in cell.body if isinstance(s, Def) and s.ref == OUT)


# --- recurrences ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Recurrence:
    """States that need each other, what of the body stands between them, and all that depends on them (`hot`)."""

    states: frozenset[str]
    inside: tuple[Def, ...]
    hot: frozenset[Ref]

    def decays(self) -> Iterator[Node]:
        """What the states are multiplied by where they are written: free of them, and outside every sum over them."""
        at_place = {Ref("state", s) for s in self.states}

        def direct(n: Node) -> bool:
            if n.op == "read":
                return n.arg.ref in at_place
            return OPS[n.op].kind == "elementwise" and any(map(direct, n.args))

        def found(n: Node, running: bool) -> Iterator[Node]:
            """`running`: inside a running maximum, where a decay is added."""
            if not direct(n):
                return
            adds = running and n.op in ("add", "sub")
            if adds or n.op == "mul" or (n.op == "div" and direct(n.args[0])):
                yield from (a for a in n.args if not walk.refs(a) & self.hot)
            for a in n.args:
                yield from found(a, adds or n.op in ("max", "min", "logaddexp"))

        for stmt in self.inside:
            yield from found(stmt.value, False)
            if direct(stmt.value):
                at_place.add(stmt.ref)


def recurrences(cell: Cell) -> list[Recurrence]:
    """The cell's states that are no delays, together as they need each other."""
    nodes = [Ref("next", s.name) for s in cell.states] + [Ref("history", h.name) for h in cell.histories]
    body, found = graph.Body(cell.body), []
    deps = body.dependencies(nodes)
    for members in graph.components(deps):
        if any(deps[ref] & set(members) for ref in members):
            states = frozenset(ref.name for ref in members if ref.kind == "next")
            olds = {Ref("state", s) for s in states}
            hot = olds | {ref for s in body.reached(olds) for ref in graph.defines(s)}
            inside = tuple(s for s in body.needed(members) if isinstance(s, Def) and s.ref in hot)
            found.append(Recurrence(states, inside, frozenset(hot)))
    return found


# --- what is f32 ---------------------------------------------------------------------------------------------------
def met(n: Node) -> Iterator[Ref]:
    """The numbers that `n` is computed from other than by a product with a matrix."""
    product = matrix_product(n)
    if n.op == "read":
        yield n.arg.ref
    else:
        for a in n.args if product is None else product.outer:
            yield from met(a)


class _Wide:
    """Which names of a model are f32 though `work` is narrower.

    `names` are; `firm` are, and what is computed from them too; a name in `given` is when the one that it is given is.
    """

    def __init__(self, model: Model):
        self.cells = model.cells
        self.names: set[Name] = set()
        self.firm: set[Name] = set()
        self.given: dict[Name, Node] = {}
        decisive: list[Name] = []
        for cell in model.cells.values():
            loops = recurrences(cell)
            self.names |= {_name(cell.name, ref) for ref in _natural(cell, loops)}
            self.firm |= {_name(cell.name, ref) for ref in _declared(cell)}
            self._give(cell, {s for loop in loops for s in loop.states})
            roots = [decay for loop in loops for decay in loop.decays()]
            roots += [s.source for s in cell.body if isinstance(s, Top)]
            decisive += [_name(cell.name, ref) for root in roots for ref in met(root)]
        sources = self._sources()
        while decisive:
            name = decisive.pop()
            self.names.add(name)
            decisive += sources.pop(name, ())
        while self._spread():
            pass

    def holds(self, cell: str, ref: Ref) -> bool:
        """Whether a name is f32."""
        name = _name(cell, ref)
        if name in self.names or name in self.firm:
            return True
        return name in self.given and self.given[name].op == "read" and self.holds(cell, self.given[name].arg.ref)

    def _give(self, cell: Cell, recurrent: Collection[str]) -> None:
        """Notes what is written to delays and histories of an open type.  A delay loses nothing of it."""
        named = {x.name for x in (*cell.states, *cell.histories) if x.dtype in NARROW}  # type: ignore[attr-defined]
        for d in cell.body:
            if isinstance(d, Def) and d.ref.kind in ("next", "history") and d.ref.name not in named.union(recurrent):
                self.given[_name(cell.name, d.ref)] = d.value
                if d.value.dtype not in FLOATS or (d.ref.kind == "next" and d.value.op != "read"):
                    self.names.add(_name(cell.name, d.ref))

    def _sources(self) -> dict[Name, set[Name]]:
        """What each name is computed from other than by a product with a matrix, through parts too."""
        found: dict[Name, set[Name]] = {}
        for cell in self.cells.values():
            callee = {p.name: self.cells[p.cell] for p in cell.parts}
            for stmt in cell.body:
                edges = [(_name(cell.name, made), _name(cell.name, r))
                         for made in walk.defines(stmt) for root in walk.roots(stmt) for r in met(root)]  # fmt: skip
                if isinstance(stmt, Apply):
                    of = callee[stmt.part]
                    edges = [((of.name, Ref("input", formal.name)), _name(cell.name, given.ref))
                             for formal, given in zip(of.inputs, stmt.inputs, strict=True)]  # fmt: skip
                    edges.append(((cell.name, Ref("def", stmt.name)), (of.name, OUT)))
                for made, source in edges:
                    found.setdefault(made, set()).add(source)
        return found

    def _spread(self) -> bool:
        """One round over what is computed from something declared f32; whether it found more."""
        before = len(self.firm)
        for cell in self.cells.values():
            outs = {p.name: (p.cell, OUT) in self.firm for p in cell.parts}
            for stmt in cell.body:
                for ref in walk.defines(stmt):
                    name = _name(cell.name, ref)
                    if isinstance(stmt, Apply):
                        spreads = outs[stmt.part]
                    else:
                        own = ref.kind == "def" or name in self.given
                        spreads = own and any(self._is_firm(cell.name, root) for root in walk.roots(stmt))
                    if spreads:
                        self.firm.add(name)
        return len(self.firm) > before

    def _is_firm(self, cell: str, n: Node) -> bool:
        """Whether a number is computed from something declared f32."""
        product = matrix_product(n)
        if n.dtype not in FLOATS:
            return False
        if n.op == "read":
            return _name(cell, n.arg.ref) in self.firm
        return any(self._is_firm(cell, a) for a in (n.args if product is None else (product.matrix, *product.outer)))


def _declared(cell: Cell) -> Iterator[Ref]:
    """What the text declares f32, and buffers; a state is f32 where nothing is declared, and says nothing so."""
    for group, kind in _GROUPS.items():
        yield from (Ref(kind, x.name) for x in getattr(cell, group) if kind != "state" and x.dtype == "f32")
    kinds = ("def", "output")
    yield from (d.ref for d in cell.body if isinstance(d, Def) and d.ref.kind in kinds and _said(d) == "f32")


def _natural(cell: Cell, loops: Sequence[Recurrence]) -> Iterator[Ref]:
    """What is f32 by what it is: vectors, what states begin with, and what this module's docstring lists after."""
    starts = {ref for s in cell.states for ref in walk.refs(s.init)}
    params = [p for p in cell.params if p.dtype == "work"]
    yield from (ref for p in params if (ref := Ref("param", p.name)) in starts or len(p.indices) < 2)
    yield from (d.ref for loop in loops for d in loop.inside)
    yield from (ref for ref in walk.windows(cell) if ref.kind == "def")
    for loop in loops:
        yield from _wholes(cell, loop)
    yield from (d.ref for d in _definitions(cell) if d.value.op == "mean" or not d.indices)


def _wholes(cell: Cell, loop: Recurrence) -> Iterator[Ref]:
    """The definitions as large as a state of several axes that are computed from it, or that it is computed from."""
    sizes = [prod(i.axis.size for i in s.indices) for s in cell.states if s.name in loop.states and len(s.indices) > 1]
    large = [d for d in _definitions(cell) if sizes and prod(i.axis.size for i in d.indices) >= min(sizes)]
    after = {Ref(kind, s) for s in loop.states for kind in _TIMES}
    before = {ref for d in loop.inside for ref in walk.refs(d.value)}
    for d in large:
        if walk.refs(d.value) & after:
            after.add(d.ref)
            yield d.ref
    for d in reversed(large):
        if d.ref in before:
            before |= walk.refs(d.value)
            yield d.ref


def _definitions(cell: Cell) -> Iterator[Def]:
    return (s for s in cell.body if isinstance(s, Def) and s.ref.kind == "def")
