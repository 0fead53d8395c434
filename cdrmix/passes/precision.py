"""Decide the type in which everything that has a name is held: f32, or the working type where that is narrower.

Input: a checked model, and what `work` is.
Output: the model with the fields that `ir/types.py` lists decided, and every expression f32.  Raises `CompileError` for
a number that f32 would make infinite, or zero.

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
A declared f16 or bf16 is kept for what it declares, where `work` is no wider; a recurrence is f32 all the same.  With
`work` f32 it becomes f32, so a target that computes in f32 never narrows a value it need not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cdrmix.diagnose import Report
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


_LEAST, _MOST = 2.0**-149, 3.4028234e38
"""The least positive number and the largest of f32, in which equations are computed."""


def decide_precision(model: Model, work: DType = "f32") -> Model:
    """The model with every type decided; `work` is f32, bf16 or f16."""
    report = Report()
    for cell in model.cells.values():
        _check(cell, report)
    report.raise_if_any()
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


def _check(cell: Cell, report: Report) -> None:
    """Report every number that f32 does not hold."""
    for n in walk.nodes((cell.body, cell.states, cell.buffers, cell.training)):
        if n.op == "const" and isinstance(n.arg, float) and n.arg and not _LEAST <= abs(n.arg) <= _MOST:
            becomes = "infinite" if abs(n.arg) > _MOST else "zero"
            report.error("E0906", n.span, f"{n.arg:g} is {becomes} in f32, in which the model is computed",
                         f"a number other than 0 is from {_LEAST:.1e} to {_MOST:.1e} there")  # fmt: skip


def _written(cell: Cell, held: Held, outs: Mapping[str, DType]) -> Cell:
    """The cell with its types written in; `outs` are those of what each cell gives."""
    callee = {p.name: p.cell for p in cell.parts}

    def widen(n: Node) -> Node:
        return walk.transform(n, lambda m: replace(m, dtype="f32") if m.op == "read" and m.dtype in FLOATS else m)

    def statement(stmt: Stmt) -> Stmt:
        match stmt:
            case Def():
                stmt = replace(stmt, dtype=held(cell.name, stmt.ref, _said(stmt)))
            case Apply():
                stmt = replace(stmt, dtype=outs[callee[stmt.part]])
        return walk.map_roots(stmt, widen)

    def declared(group: str) -> tuple[Any, ...]:
        found = getattr(cell, group)
        return tuple(replace(x, dtype=held(cell.name, Ref(_GROUPS[group], x.name), x.dtype)) for x in found)

    groups: dict[str, Any] = {group: declared(group) for group in _GROUPS}
    groups["states"], groups["training"] = walk.map_roots((groups["states"], cell.training), widen)
    return replace(cell, body=tuple(map(statement, cell.body)), **groups)


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
def met(n: Node, firm: bool = False) -> Iterator[Ref]:
    """The numbers that `n` is computed from other than by a product with a matrix; of `firm` ones, which make what is
    computed from them f32 too, through floats alone and also by the matrix."""
    if firm and n.dtype not in FLOATS:
        return
    if n.op == "read":
        yield n.arg.ref
        return
    product = matrix_product(n)
    operands = n.args if product is None else (product.matrix, *product.outer) if firm else product.outer
    for a in operands:
        yield from met(a, firm)


class _Wide:
    """Which names of a model are f32 though `work` is narrower.

    `names` are; a name in `given` is when the one that it is given is.
    """

    def __init__(self, model: Model):
        self.cells = model.cells
        self.names: set[Name] = set()
        self.given: dict[Name, Node] = {}
        decisive: list[Name] = []
        firm: list[Name] = []
        for cell in model.cells.values():
            loops = recurrences(cell)
            self.names |= {_name(cell.name, ref) for ref in _natural(cell, loops)}
            firm += [_name(cell.name, ref) for ref in _declared(cell)]
            self._give(cell, {s for loop in loops for s in loop.states})
            roots = [decay for loop in loops for decay in loop.decays()]
            roots += [s.source for s in cell.body if isinstance(s, Top)]
            decisive += [_name(cell.name, ref) for root in roots for ref in met(root)]
        self.names |= _reached(decisive, self._edges())
        self.names |= _reached(firm, ((source, made) for made, source in self._edges(firm=True) if self._spreads(made)))

    def holds(self, cell: str, ref: Ref) -> bool:
        """Whether a name is f32."""
        name = _name(cell, ref)
        if name in self.names:
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

    def _edges(self, firm: bool = False) -> Iterator[tuple[Name, Name]]:
        """Each name with one that it is computed from (`met`), through parts too."""
        for cell in self.cells.values():
            callee = {p.name: self.cells[p.cell] for p in cell.parts}
            for stmt in cell.body:
                for source in {r for root in walk.roots(stmt) for r in met(root, firm)}:
                    yield from ((_name(cell.name, made), _name(cell.name, source)) for made in walk.defines(stmt))
                if isinstance(stmt, Apply):
                    of = callee[stmt.part]
                    for formal, given in zip(of.inputs, stmt.inputs, strict=True):
                        yield (of.name, Ref("input", formal.name)), _name(cell.name, given.ref)
                    yield (cell.name, Ref("def", stmt.name)), (of.name, OUT)

    def _spreads(self, made: Name) -> bool:
        """Whether a name is f32 where it is computed from a firm one: a definition, and what is held as it is given."""
        return made[1].kind == "def" or made in self.given


def _reached(start: Iterable[Name], edges: Iterable[tuple[Name, Name]]) -> set[Name]:
    """The names to which edges lead from these, with these."""
    onward: dict[Name, set[Name]] = {}
    for one, other in edges:
        onward.setdefault(one, set()).add(other)
    found, todo = set(), list(start)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += onward.get(name, ())
    return found


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
    sizes = [walk.size(s.indices) for s in cell.states if s.name in loop.states and len(s.indices) > 1]
    large = [d for d in _definitions(cell) if sizes and walk.size(d.indices) >= min(sizes)]
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
