"""The array form of a cell: one function over [B, T], over one token [B], or over rows of an expert.

Input: a cell, the statements of its sequence or step form, and the `Traits` of the library they are for.
Output: an `ir.arrays.Function`.  Here is decided what is computed: reads, contractions, masks, heads, chunk layouts,
what stands side by side; a backend spells it.

| file | what it does once for all libraries |
|---|---|
| `elements` | elementwise operations, reductions, choices |
| `reads` | views, slices, places picked at run time |
| `sums` | contractions, with a stored weight or without |
| `equations`, `calls` | equations, `top`, parts and banks |
| `scans`, `chunks` | the states' scans over a sequence |
| `attention` | histories, windows, heads |
| `norms` | a mean and the variance about it |
| `side_by_side` | which products need nothing of each other |
| `beginnings`, `training` | first values, losses and sums over tokens |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from cdrmix.ir import layout, walk
from cdrmix.ir.array_statements import CellArrays, Function, Keep, Loop, Mode, Traits
from cdrmix.ir.arrays import Array
from cdrmix.ir.forms import Attend, Chunk, SequenceForm, SequenceStmt, StepForm
from cdrmix.ir.nodes import Apply, Cell, Def, Model, Ref, Stmt, Top

from . import chunks as chunks  # registers its rule
from .attention import attend, enter
from .beginnings import states_of, weights_of
from .calls import as_rows, call
from .casts import full, held
from .draft import Draft, Symbol, data, own, stored
from .equations import define, moments, take_top
from .norms import variance_about
from .scans import after_of, scan
from .side_by_side import side_by_side
from .training import keep_sums, totals

__all__ = ["array_form"]

TRAINING: tuple[Literal["aux", "metric", "after"], ...] = ("aux", "metric", "after")


def array_form(
    model: Model, step: Mapping[str, StepForm], sequence: Mapping[str, SequenceForm], traits: Traits
) -> dict[str, CellArrays]:
    """The cells of the stack for a library of arrays, callees before their callers."""
    used = {place.cell.name for place in layout.places(model)}
    banked = {place.cell.name for place in layout.places(model) if place.banks}
    return {
        name: _cell(name, model, step[name].body, sequence[name].body, traits, name in banked)
        for name in model.cells
        if name in used
    }


def _cell(
    name: str, model: Model, step: Sequence[Stmt], sequence: Sequence[SequenceStmt], traits: Traits, in_bank: bool
) -> CellArrays:
    cell, cells = model.cells[name], model.cells
    same = _timeless(cell, cells)

    def function(mode: Mode, body: Sequence[SequenceStmt]) -> Function | None:
        return lower_to_arrays(cell, body, cells, mode, traits) if mode in traits.modes else None

    body = sequence if traits.gradients else needed(sequence)
    rows = in_bank and as_rows(cell, cells)
    init, kinds = "init" in traits.modes, TRAINING if traits.gradients else ()
    made = [(kind, totals(cell, kind, traits)) for kind in kinds]
    return CellArrays(
        cell, same, function("sequence", body), None if same else function("step", step),
        function("rows", sequence) if rows else None, weights_of(cell, traits) if init else None,
        states_of(cell, traits) if init else None, tuple((kind, f) for kind, f in made if f is not None),
    )  # fmt: skip


def _timeless(cell: Cell, cells: Mapping[str, Cell]) -> bool:
    """Whether a token's value depends on that token and its place alone."""
    if cell.states or cell.histories or any(p.bank for p in cell.parts):
        return False
    return all(_timeless(cells[p.cell], cells) for p in cell.parts)


def lower_to_arrays(
    cell: Cell, body: Sequence[SequenceStmt], cells: Mapping[str, Cell], mode: Mode, traits: Traits
) -> Function:
    """A cell's function: `body` is its sequence form, in the mode `step` its step form."""
    windows = walk.windows(replace(cell, body=tuple(body)))  # type: ignore[arg-type]
    uses = set(reads(body))
    if mode == "sequence" and traits.gradients:
        uses |= {r for t in cell.training for r in walk.refs(t.value)}
    draft = Draft(cell, mode, traits, windows, uses, short=traits.short_windows and mode == "sequence")
    inputs = tuple(draft.local(i.name) for i in cell.inputs)
    for name, i in zip(inputs, cell.inputs, strict=True):
        kind = "int" if i.dtype == "pick" else data(i.dtype)
        sizes = tuple(a.size for a in i.axes)
        value = Array("local", arg=name, type=kind, dims=own(sizes), lead=True)  # type: ignore[arg-type]
        draft.symbols[Ref("input", i.name)] = Symbol(value, sizes, (True,) * len(sizes))
    above = tuple((c.name, draft.local(c.name)) for c in cell.carries if c.reads)
    for name_, local in above:
        sizes = tuple(a.size for c in cell.carries if c.name == name_ for a in c.axes)
        (dtype,) = (c.dtype for c in cell.carries if c.name == name_)
        value = Array("local", arg=local, type=data(dtype), dims=own(sizes), lead=True)
        draft.symbols[Ref("carry", name_)] = Symbol(value, sizes, (True,) * len(sizes))
    draft.missing = lambda ref: _stored(draft, ref)
    draft.scans = Counter(s for stmt in body if isinstance(stmt, Chunk) for s in stmt.states)
    measured: set[Ref] = set()
    for stmt in body:
        variance = variance_about(stmt, body, windows) if traits.moments and isinstance(stmt, Def) else None
        if isinstance(stmt, Def) and variance is not None:
            moments(stmt, variance, draft)
            measured.add(variance.ref)
        elif not isinstance(stmt, Def) or stmt.ref not in measured:
            _statement(stmt, draft, cells)
    if mode == "step":
        for state in cell.states:
            draft.add(Keep(state.name, after_of(draft, state)))
    result = _written(draft, Ref("output", "out"))
    gives = tuple((c.name, _written(draft, Ref("carry", c.name))) for c in cell.carries if c.writes)
    if mode == "sequence" and traits.gradients:
        keep_sums(draft)
    if traits.by_weight and not any(isinstance(s, Loop) for s in draft.statements):
        draft.statements = list(side_by_side(draft.statements))
    return Function(cell, mode, inputs, above, draft.all(), result, gives)


def _statement(stmt: SequenceStmt, draft: Draft, cells: Mapping[str, Cell]) -> None:
    match stmt:
        case Def() if stmt.ref.kind == "history":
            enter(stmt, draft)
        case Def():
            define(stmt, draft)
        case Top():
            take_top(stmt, draft)
        case Apply():
            call(stmt, draft, cells)
        case Attend():
            attend(stmt, draft)
        case _:
            scan(stmt, draft)


def _stored(draft: Draft, ref: Ref) -> Symbol | None:
    """The symbol of a tensor the model holds, or of a state before a step."""
    cell = draft.cell
    decls = {
        "param": {p.name: p for p in cell.params},
        "buffer": {b.name: b for b in cell.buffers},
        "state": {s.name: s for s in cell.states} if draft.mode == "step" else {},
    }.get(ref.kind, {})
    decl = decls.get(ref.name)  # type: ignore[attr-defined]
    if decl is None:
        return None
    sizes = tuple(i.axis.size for i in decl.indices)
    if ref.kind == "state":
        old = Array("old", arg=ref.name, type=data(decl.dtype), dims=own(sizes), lead=True)
        value = draft.let(ref.name, old)
        return Symbol(value, sizes, (True,) * len(sizes))
    return stored(ref.name, sizes, lead=draft.mode == "rows")


def _written(draft: Draft, ref: Ref) -> Array:
    """The output, or a carry this cell writes, in full."""
    d = next(d for d in draft.cell.body if isinstance(d, Def) and d.ref == ref)
    return held(full(draft.written[ref].over(d.indices), d.indices, draft), d.dtype, draft)


# --- what is read --------------------------------------------------------------------------------------------------
def needed(body: Sequence[SequenceStmt]) -> list[SequenceStmt]:
    """The statements that inference needs: what only training values read is left out."""
    kept: list[SequenceStmt] = []
    read: set[Ref] = set()
    for stmt in reversed(body):
        only_named = isinstance(stmt, Top) or (isinstance(stmt, Def) and stmt.ref.kind == "def")
        if not only_named or read & {*walk.defines(stmt)}:
            kept.append(stmt)
            read |= set(reads([stmt]))
    return kept[::-1]


def reads(body: Iterable[SequenceStmt]) -> Iterable[Ref]:
    """Everything the statements' expressions read; an `Attend` reads its histories by itself."""
    for stmt in body:
        if isinstance(stmt, Apply):
            yield from walk.uses(stmt)
        asked = (*(p.query for p in stmt.parts), stmt.bias) if isinstance(stmt, Attend) else stmt
        for n in walk.roots(asked):
            yield from walk.refs(n)
