"""Checks that a model is well formed, between passes.

Input: a `Model`, or one `Cell` of it.
Output: nothing; `InvalidIR` naming the cell, the definition and the broken rule.  A user's mistake never gets here:
it is always a fault of the checker or of a pass.

Each rule is one short function that yields what breaks it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from cdrmix.ir import layout, walk
from cdrmix.ir.nodes import Apply, Axis, Buffer, Cell, Def, Index, Model, Param, Part, Ref, Top
from cdrmix.ir.ops import OPS
from cdrmix.ir.verify_nodes import Declared, broken, outside_tokens, those


class InvalidIR(Exception):
    """A compiler bug: the IR broke one of its own rules."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """A cell, the cells it may hold, and its names."""

    cell: Cell
    cells: Mapping[str, Cell]
    names: Mapping[Ref, Declared]
    windows: walk.Windows


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
    for n in walk.nodes(cell.body):
        if n.op not in OPS:
            yield f"`{n.op}` is no op"
            return
    scope = _Scope(cell, cells, declared(cell), walk.windows(cell))
    for rule in RULES:
        yield from rule(scope)


def declared(cell: Cell) -> dict[Ref, Declared]:
    """The axes and dtype of every name of a cell."""
    found = {Ref("input", x.name): Declared(x.axes, x.dtype) for x in cell.inputs}
    found |= {Ref("param", p.name): Declared(_axes(p.indices), p.dtype) for p in cell.params}
    found |= {Ref("buffer", b.name): Declared(_axes(b.indices), b.dtype) for b in cell.buffers}
    for s in cell.states:
        found[Ref("state", s.name)] = found[Ref("next", s.name)] = Declared(_axes(s.indices), s.dtype)
    found |= {Ref("history", h.name): Declared((h.window, *h.axes), h.dtype) for h in cell.histories}
    found |= {Ref("carry", c.name): Declared(c.axes, c.dtype) for c in cell.carries}
    for stmt in cell.body:
        match stmt:
            case Def() if stmt.ref.kind in ("def", "output"):
                found[stmt.ref] = Declared(_axes(stmt.indices), stmt.dtype)
            case Top():
                axes = _axes((*stmt.lead, stmt.k))
                found |= {Ref("def", stmt.values): Declared(axes, stmt.source.dtype)} if stmt.values else {}
                found |= {Ref("def", stmt.picks): Declared(axes, "pick")} if stmt.picks else {}
            case Apply():
                found[Ref("def", stmt.name)] = Declared(_axes((*stmt.lead, *stmt.outs)), stmt.dtype)
    return found


def _axes(indices: tuple[Index, ...]) -> tuple[Axis, ...]:
    return tuple(i.axis for i in indices)


def _sizes(axes: tuple[Axis, ...]) -> tuple[int, ...]:
    return tuple(a.size for a in axes)


# --- rules of a cell -----------------------------------------------------------------------------------------------
def _axes_have_distinct_names(s: _Scope) -> Iterator[str]:
    sizes: dict[str, int] = {}
    views = [m.arg.view for m in walk.reads(s.cell.body)]
    for axis in (a for axes in (*(d.axes for d in s.names.values()), *views) for a in axes):
        if sizes.setdefault(axis.name, axis.size) != axis.size:
            yield f"two axes have the name {axis.name}, of sizes {sizes[axis.name]} and {axis.size}"


def _names_are_declared_once(s: _Scope) -> Iterator[str]:
    c = s.cell
    tensors = [d.name for group in (c.params, c.states, c.histories, c.buffers) for d in group]
    declared = Counter([*(d.name for group in (c.inputs, c.carries) for d in group), *tensors])
    yield from (f"{name} is declared twice" for name, count in declared.items() if count > 1)
    yield from (f"the part {p.name} has the name of a tensor" for p in c.parts if p.name in tensors)
    defined = Counter(ref.name for stmt in c.body for ref in walk.defines(stmt) if ref.kind == "def")
    yield from (f"{name} is defined twice" for name, count in defined.items() if count + (name in declared) > 1)


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
    yield from (f"{_say(ref)} is never defined" for ref in due if ref not in written)
    for ref in written - set(due):
        if ref.kind in ("next", "history", "carry", "output"):
            yield f"{_say(ref)} is defined and not declared as written"


def _definitions_fit_what_they_define(s: _Scope) -> Iterator[str]:
    for d in s.cell.body:
        if isinstance(d, Def) and d.ref in s.names:
            want = s.names[d.ref]
            axes = want.axes[1:] if d.ref.kind == "history" else want.axes
            if walk.sizes(d.indices) != _sizes(axes):
                yield f"{_say(d.ref)} is defined over {walk.sizes(d.indices)}, declared over {_sizes(axes)}"
            if d.dtype != want.dtype:
                yield f"{_say(d.ref)} is defined as {d.dtype}, declared as {want.dtype}"
    out = s.names.get(Ref("output", "out"))
    if out is not None and _sizes(out.axes) != _sizes(s.cell.out_axes):
        yield "the output is defined over other axes than the cell's"


def _statements_are_sound(s: _Scope) -> Iterator[str]:
    for stmt in s.cell.body:
        what, around = _what(stmt), walk.around(stmt)
        yield from broken(what, stmt, around, s.names, s.windows, {"pos"})
        match stmt:
            case Def():
                leaks = stmt.ref.kind != "def" and bool(set(around) & walk.windowed(stmt.value, s.windows))
            case Top():
                leaks = bool(set(around) & walk.windowed(stmt.source, s.windows))
                if stmt.k.axis.size > stmt.over.axis.size:
                    yield f"{what} chooses {stmt.k.axis.size} of {stmt.over.axis.size}"
            case Apply():
                leaks = any(g.ref in s.windows for g in stmt.inputs)
        if leaks:
            yield f"{what} runs over a history's window"


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
        elif parts[a.part].cell in s.cells:
            yield from (f"{_what(a)} {what}" for what in _call(s, a, parts[a.part], s.cells[parts[a.part].cell]))


def _call(s: _Scope, a: Apply, part: Part, callee: Cell) -> Iterator[str]:
    yield from those({
        f"must choose instances exactly when {a.part} is a bank": (part.bank is None) != (a.select is None),
        "advances a part more than once": part.bank is None and a.lead,
        f"chooses by a {a.select and a.select.dtype}": a.select is not None and a.select.dtype not in ("pick", "int"),
        f"takes other axes than {callee.name} gives": walk.sizes(a.outs) != _sizes(callee.out_axes),
        f"gives {len(a.inputs)} inputs of {len(callee.inputs)}": len(a.inputs) != len(callee.inputs),
    })  # fmt: skip
    for given, formal in zip(a.inputs, callee.inputs, strict=False):
        name, axes, lead = given.ref.name, s.names[given.ref].axes, len(given.lead)
        yield from those({
            f"indexes {name} by other axes than its own": _sizes(axes[:lead]) != walk.sizes(given.lead),
            f"indexes {name} by an index that it does not run over": set(given.lead) - set(a.lead),
            f"gives {name} for {formal.name}, which has another size":
                prod(_sizes(axes[lead:])) != prod(_sizes(formal.axes)),
        })  # fmt: skip


def _declarations_begin_well(s: _Scope) -> Iterator[str]:
    params = {r: d for r, d in s.names.items() if r.kind == "param"}
    drawn: tuple[Param | Buffer, ...] = (*s.cell.params, *s.cell.buffers)
    for d in drawn:
        yield from broken(f"the init of {d.name}", d, d.indices, {}, {}, {"layer", "layers"})
    for x in s.cell.states:
        yield from broken(f"the init of {x.name}", x, x.indices, params, {}, set())
        if x.init.op not in ("const", "read"):
            yield f"the state {x.name} begins as neither a constant nor a param"
    yield from (f"the window of {h.name} holds nothing" for h in s.cell.histories if h.window.size < 1)


def _training_reduces_over_tokens(s: _Scope) -> Iterator[str]:
    held = {r: d for r, d in s.names.items() if r.kind != "history"}
    for t in s.cell.training:
        what = f"{t.kind} {t.name}"
        yield from broken(what, t, t.indices, held, s.windows, set())
        yield from (f"{what} reads {name} outside a reduction over tokens" for name in outside_tokens(t.value))
        yield from those({
            f"{what} is not one number": t.kind == "aux" and t.indices,
            f"{what} is no buffer": t.kind == "after" and Ref("buffer", t.name) not in s.names,
            f"{what} reads a history's window": walk.refs(t.value) & s.windows.keys(),
        })  # fmt: skip


RULES: tuple[Rule, ...] = (
    _axes_have_distinct_names,
    _names_are_declared_once,
    _body_is_in_order,
    _definitions_fit_what_they_define,
    _statements_are_sound,
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
            above, shape = shapes.get(c.name), _sizes(c.axes)
            yield from those({
                f"{place.path} is in a bank and has the carry {c.name}": place.banks,
                f"{place.path} reads the carry {c.name}, which nothing above has written": c.reads and above is None,
                f"{place.path} has the carry {c.name} in another shape": above not in (None, shape),
            })  # fmt: skip
            shapes.setdefault(c.name, shape)


def _what(stmt: Def | Top | Apply) -> str:
    return " and ".join(_say(r) for r in walk.defines(stmt))


def _say(ref: Ref) -> str:
    return f"{ref.kind} {ref.name}"
