"""Checks that a model is well formed, between passes.

Input: a `Model`, or one `Cell` of it.
Output: nothing; `InvalidIR` naming the cell, the definition and the broken rule.  A user's mistake never gets here:
it is always a fault of the checker or of a pass.

Each rule is one short function that yields what breaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from cdrmix.ir import layout, verify_nodes, walk
from cdrmix.ir.nodes import Apply, Axis, Cell, Def, DType, Index, Model, Ref, Top
from cdrmix.ir.ops import OPS

Declared = verify_nodes.Declared


class InvalidIR(Exception):
    """A compiler bug: the IR broke one of its own rules."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """A cell, the cells it may hold, and its names."""

    cell: Cell
    cells: Mapping[str, Cell]
    names: Mapping[Ref, Declared]
    windows: Mapping[Ref, frozenset[tuple[int, int]]]


Rule = Callable[[_Scope], Iterator[str]]


def verify(model: Model) -> None:
    """Raise `InvalidIR` for the first broken rule of the model."""
    earlier: dict[str, Cell] = {}
    for name, cell in model.cells.items():
        if name != cell.name:
            raise InvalidIR(f"cell {cell.name} is kept under the name {name}")
        verify_cell(cell, earlier)
        earlier[name] = cell
    for message in _model_rules(model):
        raise InvalidIR(message)


def verify_cell(cell: Cell, cells: Mapping[str, Cell]) -> None:
    """Raise `InvalidIR` for the first broken rule of a cell; `cells` are those that stand before it."""
    for message in faults(cell, cells):
        raise InvalidIR(f"cell {cell.name}: {message}")


def faults(cell: Cell, cells: Mapping[str, Cell]) -> Iterator[str]:
    """Every broken rule of a cell."""
    for n in (n for s in cell.body for root in walk.roots(s) for n in walk.nodes(root)):
        if n.op not in OPS:
            yield f"`{n.op}` is no op"
            return
    scope = _Scope(cell, cells, declared(cell, cells), walk.windows(cell))
    for rule in RULES:
        yield from rule(scope)


def declared(cell: Cell, cells: Mapping[str, Cell]) -> dict[Ref, Declared]:
    """The axes and dtype of every name of a cell."""
    found: dict[Ref, Declared] = {}

    def put(ref: Ref, axes: tuple[Axis, ...], dtype: DType) -> None:
        found[ref] = Declared(axes, dtype)

    for x in cell.inputs:
        put(Ref("input", x.name), x.axes, x.dtype)
    for p in cell.params:
        put(Ref("param", p.name), _axes(p.indices), p.dtype)
    for b in cell.buffers:
        put(Ref("buffer", b.name), _axes(b.indices), b.dtype)
    for s in cell.states:
        put(Ref("state", s.name), _axes(s.indices), s.dtype)
        put(Ref("next", s.name), _axes(s.indices), s.dtype)
    for h in cell.histories:
        put(Ref("history", h.name), (h.window, *h.axes), h.dtype)
    for c in cell.carries:
        put(Ref("carry", c.name), c.axes, c.dtype)
    for stmt in cell.body:
        match stmt:
            case Def() if stmt.ref.kind in ("def", "output"):
                put(stmt.ref, _axes(stmt.indices), stmt.dtype)
            case Top():
                if stmt.values is not None:
                    put(Ref("def", stmt.values), _axes((*stmt.lead, stmt.k)), stmt.source.dtype)
                if stmt.picks is not None:
                    put(Ref("def", stmt.picks), _axes((*stmt.lead, stmt.k)), "pick")
            case Apply():
                put(Ref("def", stmt.name), _axes((*stmt.lead, *stmt.outs)), stmt.dtype)
    return found


def _axes(indices: tuple[Index, ...]) -> tuple[Axis, ...]:
    return tuple(i.axis for i in indices)


# --- rules of a cell -----------------------------------------------------------------------------------------------
def _axes_have_distinct_names(s: _Scope) -> Iterator[str]:
    sizes: dict[str, int] = {}
    views = [m.arg.view for stmt in s.cell.body for n in walk.roots(stmt) for m in walk.reads(n)]
    for axis in (a for axes in (*(d.axes for d in s.names.values()), *views) for a in axes):
        if sizes.setdefault(axis.name, axis.size) != axis.size:
            yield f"two axes have the name {axis.name}, of sizes {sizes[axis.name]} and {axis.size}"


def _names_are_declared_once(s: _Scope) -> Iterator[str]:
    c = s.cell
    taken: set[str] = set()
    tensors = [d.name for d in (*c.params, *c.states, *c.histories, *c.buffers)]  # type: ignore[attr-defined]
    for name in (*(x.name for x in c.inputs), *tensors, *(x.name for x in c.carries)):
        if name in taken:
            yield f"{name} is declared twice"
        taken.add(name)
    for p in c.parts:
        if p.name in tensors:
            yield f"the part {p.name} has the name of a tensor"
    for stmt in c.body:
        for ref in walk.defines(stmt):
            if ref.kind == "def" and ref.name in taken:
                yield f"{ref.name} is defined twice"
            if ref.kind == "def":
                taken.add(ref.name)


def _body_is_in_order(s: _Scope) -> Iterator[str]:
    known = {r for r in s.names if r.kind in ("input", "param", "buffer", "state")}
    known |= {Ref("carry", c.name) for c in s.cell.carries if c.reads}
    written: set[Ref] = set()
    for stmt in s.cell.body:
        for ref in sorted(walk.uses(stmt) - known - written, key=str):
            yield f"{_what(stmt)} reads {_say(ref)} before it is defined"
        for ref in walk.defines(stmt):
            if ref not in s.names:
                yield f"{_say(ref)} is not declared"
            if ref in written:
                yield f"{_say(ref)} is defined twice"
            written.add(ref)
    due = [Ref("next", x.name) for x in s.cell.states] + [Ref("history", x.name) for x in s.cell.histories]
    due += [Ref("carry", x.name) for x in s.cell.carries if x.writes] + [Ref("output", "out")]
    for ref in due:
        if ref not in written:
            yield f"{_say(ref)} is never defined"
    for ref in written:
        if ref.kind in ("next", "history", "carry", "output") and ref not in due:
            yield f"{_say(ref)} is defined and not declared as written"


def _definitions_fit_what_they_define(s: _Scope) -> Iterator[str]:
    for d in s.cell.body:
        if isinstance(d, Def) and d.ref in s.names:
            want = s.names[d.ref].axes
            sizes = [a.size for a in (want[1:] if d.ref.kind == "history" else want)]
            if [i.axis.size for i in d.indices] != sizes:
                yield f"{_say(d.ref)} is defined over {[i.axis.size for i in d.indices]}, declared over {sizes}"
            if d.dtype != s.names[d.ref].dtype:
                yield f"{_say(d.ref)} is defined as {d.dtype}, declared as {s.names[d.ref].dtype}"
    out = s.names.get(Ref("output", "out"))
    if out is not None and [a.size for a in out.axes] != [a.size for a in s.cell.out_axes]:
        yield "the output is defined over other axes than the cell's"


def _definitions_are_sound(s: _Scope) -> Iterator[str]:
    for stmt in s.cell.body:
        match stmt:
            case Def():
                outer = stmt.indices
            case Top():
                outer = (*stmt.lead, stmt.over)
            case Apply():
                outer = stmt.lead
        for n in walk.roots(stmt):
            for message in verify_nodes.broken(n, outer, s.names, s.windows, {"pos"}):
                yield f"{_what(stmt)}: {message}"


def _windows_stay_in_definitions(s: _Scope) -> Iterator[str]:
    for stmt in s.cell.body:
        match stmt:
            case Def():
                leaks = stmt.ref.kind != "def" and bool(set(stmt.indices) & walk.windowed(stmt.value, s.windows))
            case Top():
                leaks = bool({stmt.over, *stmt.lead} & walk.windowed(stmt.source, s.windows))
            case Apply():
                leaks = any(g.ref in s.windows for g in stmt.inputs)
        if leaks:
            yield f"{_what(stmt)} runs over a history's window"


def _tops_choose_from_enough(s: _Scope) -> Iterator[str]:
    for t in s.cell.body:
        if isinstance(t, Top) and t.k.axis.size > t.over.axis.size:
            yield f"{_what(t)} chooses {t.k.axis.size} of {t.over.axis.size}"


def _parts_advance_once(s: _Scope) -> Iterator[str]:
    applied = [a for a in s.cell.body if isinstance(a, Apply)]
    parts = {p.name: p for p in s.cell.parts}
    for p in parts.values():
        if p.cell not in s.cells:
            yield f"the part {p.name} is of {p.cell}, which does not stand before this cell"
        if (count := sum(a.part == p.name for a in applied)) != 1:
            yield f"the part {p.name} is applied {count} times"
    for a in applied:
        if a.part not in parts:
            yield f"{_what(a)} applies {a.part}, which is no part"
            continue
        part, callee = parts[a.part], s.cells.get(parts[a.part].cell)
        if callee is None:
            continue
        if (part.bank is None) != (a.select is None):
            yield f"{_what(a)} must choose instances exactly when {a.part} is a bank"
        if part.bank is None and a.lead:
            yield f"{_what(a)} advances a part more than once"
        if a.select is not None and a.select.dtype not in ("pick", "int"):
            yield f"{_what(a)} chooses by a {a.select.dtype}"
        if [i.axis.size for i in a.outs] != [x.size for x in callee.out_axes]:
            yield f"{_what(a)} takes other axes than {callee.name} gives"
        if len(a.inputs) != len(callee.inputs):
            yield f"{_what(a)} gives {len(a.inputs)} inputs of {len(callee.inputs)}"
        for given, formal in zip(a.inputs, callee.inputs, strict=False):
            axes = s.names[given.ref].axes
            rest = axes[len(given.lead) :]
            if [x.size for x in axes[: len(given.lead)]] != [i.axis.size for i in given.lead]:
                yield f"{_what(a)} indexes {given.ref.name} by other axes than its own"
            if not set(given.lead) <= set(a.lead):
                yield f"{_what(a)} indexes {given.ref.name} by an index that it does not run over"
            if prod(x.size for x in rest) != prod(x.size for x in formal.axes):
                yield f"{_what(a)} gives {given.ref.name} for {formal.name}, which has another size"


def _declarations_begin_well(s: _Scope) -> Iterator[str]:
    params = {r: d for r, d in s.names.items() if r.kind == "param"}
    for p in s.cell.params:
        for n in p.init.args:
            for message in verify_nodes.broken(n, p.indices, {}, {}, {"layer", "layers"}):
                yield f"the init of {p.name}: {message}"
    for b in s.cell.buffers:
        for message in verify_nodes.broken(b.init, b.indices, {}, {}, {"layer", "layers"}):
            yield f"the init of {b.name}: {message}"
    for x in s.cell.states:
        for message in verify_nodes.broken(x.init, x.indices, params, {}, set()):
            yield f"the init of {x.name}: {message}"
        if x.init.op not in ("const", "read"):
            yield f"the state {x.name} begins as neither a constant nor a param"
    for h in s.cell.histories:
        if h.window.size < 1:
            yield f"the window of {h.name} holds nothing"


def _training_reduces_over_tokens(s: _Scope) -> Iterator[str]:
    held = {r: d for r, d in s.names.items() if r.kind != "history"}
    for t in s.cell.training:
        what = f"{t.kind} {t.name}"
        if t.kind == "aux" and t.indices:
            yield f"{what} is not one number"
        if t.kind == "after" and Ref("buffer", t.name) not in s.names:
            yield f"{what} is no buffer"
        for message in verify_nodes.broken(t.value, t.indices, held, s.windows, set()):
            yield f"{what}: {message}"
        for name in verify_nodes.outside_tokens(t.value):
            yield f"{what} reads {name} outside a reduction over tokens"
        if any(r in s.windows for r in walk.refs(t.value)):
            yield f"{what} reads a history's window"


RULES: tuple[Rule, ...] = (
    _axes_have_distinct_names,
    _names_are_declared_once,
    _body_is_in_order,
    _definitions_fit_what_they_define,
    _definitions_are_sound,
    _windows_stay_in_definitions,
    _tops_choose_from_enough,
    _parts_advance_once,
    _declarations_begin_well,
    _training_reduces_over_tokens,
)


# --- rules of a model ----------------------------------------------------------------------------------------------
def _model_rules(model: Model) -> Iterator[str]:
    for line in model.lines:
        for instance in line.chain:
            if instance.cell not in model.cells:
                yield f"line {line.path} holds {instance.cell}, which is no cell"
                return
    weights = {w.path: w for w in layout.weights(model)}
    paths = list(weights) + [s.path for s in layout.slots(model)]
    if len(paths) != len(set(paths)) or len(weights) != len(layout.weights(model)):
        yield "two tensors have one path"
    for path, owner in model.ties.items():
        if path not in weights or owner not in weights or owner in model.ties:
            yield f"{path} is tied to {owner}, which is no owner"
        elif weights[path].shape != weights[owner].shape:
            yield f"{path} is tied to {owner}, which has another shape"
    yield from _carries_are_written_above(model)


def _carries_are_written_above(model: Model) -> Iterator[str]:
    shapes: dict[str, tuple[int, ...]] = {}
    for place in layout.places(model):
        for c in place.cell.carries:
            shape = tuple(a.size for a in c.axes)
            if place.banks:
                yield f"{place.path} is in a bank and has the carry {c.name}"
            if c.reads and c.name not in shapes:
                yield f"{place.path} reads the carry {c.name}, which nothing above has written"
            if shapes.setdefault(c.name, shape) != shape:
                yield f"{place.path} has the carry {c.name} in another shape"


def _what(stmt: Def | Top | Apply) -> str:
    return " and ".join(_say(r) for r in walk.defines(stmt))


def _say(ref: Ref) -> str:
    return f"{ref.kind} {ref.name}"
