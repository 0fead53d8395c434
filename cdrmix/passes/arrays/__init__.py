"""The array form of a cell: one function over [B, T], over one token [B], or over rows of an expert.

Input: a cell, the statements of its sequence or step form, and the `Traits` of the library they are for.
Output: functions (`ir/array_statements.py`), which `ir/verify_arrays.py` checks.  Here is decided what is computed:
reads, contractions, masks, heads, chunk layouts, what stands side by side; a backend spells it.

| file | what it does once for all libraries |
|---|---|
| `draft` | a function while it is being made, and what each name is there |
| `values` | types, axes, what crosses the border of a function |
| `elements` | elementwise operations, reductions, choices |
| `reads` | views, slices, places picked at run time |
| `sums` | contractions, with a stored weight or without |
| `equations` | equations, norms' moments, `top`, parts and banks |
| `scans`, `chunks` | the states' scans over a sequence |
| `attention` | histories, windows, heads |
| `side_by_side` | which products need nothing of each other |
| `training` | first values, losses and sums over tokens |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from cdrmix.ir import layout, walk
from cdrmix.ir.array_statements import CellArrays, Function, Keep, Loop, Mode, Traits
from cdrmix.ir.arrays import Array, Local
from cdrmix.ir.forms import Attend, SequenceForm, SequenceStmt, StepForm
from cdrmix.ir.nodes import Apply, Axis, Cell, Def, DType, Model, Ref, Stmt, Top
from cdrmix.ir.verify_arrays import verify_function

from . import chunks as chunks  # registers its rule
from .attention import attend, enter
from .draft import Draft, Symbol, data, own
from .equations import as_rows, call, define, moments, take_top, variance_about
from .scans import after_of, scan
from .side_by_side import side_by_side
from .training import keep_sums, states_of, totals, weights_of
from .values import full, held

__all__ = ["array_form"]

TRAINING: tuple[Literal["aux", "metric", "after"], ...] = ("aux", "metric", "after")


def array_form(
    model: Model, step: Mapping[str, StepForm], sequence: Mapping[str, SequenceForm], traits: Traits
) -> dict[str, CellArrays]:
    """The cells of the stack for a library of arrays, callees before their callers."""
    used = {place.cell.name for place in layout.places(model)}
    banked = {place.cell.name for place in layout.places(model) if place.banks}
    made = {
        name: _cell(name, model, step[name].body, sequence[name].body, traits, name in banked)
        for name in model.cells
        if name in used
    }
    for function in (f for found in made.values() for f in found.functions):
        verify_function(function)
    return made


def _cell(
    name: str, model: Model, step: Sequence[Stmt], sequence: Sequence[SequenceStmt], traits: Traits, in_bank: bool
) -> CellArrays:
    cell, cells = model.cells[name], model.cells
    same, init = _timeless(cell, cells), "init" in traits.modes

    def function(mode: Mode, body: Sequence[SequenceStmt]) -> Function | None:
        return lower_to_arrays(cell, body, cells, mode, traits) if mode in traits.modes else None

    made = [(kind, totals(cell, kind, traits)) for kind in TRAINING if traits.gradients]
    return CellArrays(
        cell,
        same,
        function("sequence", sequence if traits.gradients else needed(sequence)),
        None if same else function("step", step),
        function("rows", sequence) if in_bank and as_rows(cell, cells) else None,
        weights_of(cell, traits) if init else None,
        states_of(cell, traits) if init else None,
        tuple((kind, f) for kind, f in made if f is not None),
    )


def _timeless(cell: Cell, cells: Mapping[str, Cell]) -> bool:
    """Whether a token's value depends on that token and its place alone."""
    if cell.states or cell.histories or any(p.bank for p in cell.parts):
        return False
    return all(_timeless(cells[p.cell], cells) for p in cell.parts)


def lower_to_arrays(
    cell: Cell, body: Sequence[SequenceStmt], cells: Mapping[str, Cell], mode: Mode, traits: Traits
) -> Function:
    """A cell's function: `body` is its sequence form, in the mode `step` its step form."""
    trained = mode == "sequence" and traits.gradients
    draft = Draft(cell, mode, traits, walk.windows(replace(cell, body=tuple(body))))  # type: ignore[arg-type]
    draft.uses = {*reads(body)} | walk.refs(cell.training if trained else ())
    inputs = tuple(_given(draft, Ref("input", i.name), i.axes, i.dtype) for i in cell.inputs)
    above = [(c.name, _given(draft, Ref("carry", c.name), c.axes, c.dtype)) for c in cell.carries if c.reads]
    draft.hold(*cell.params, *cell.buffers, lead=mode == "rows")
    for s in cell.states if mode == "step" else ():
        old = Array("old", arg=s.name, type=data(s.dtype), dims=own(walk.sizes(s.indices)), lead=True)
        draft.symbols[Ref("state", s.name)] = Symbol(old, old.dims)
    measured: set[Ref] = set()
    for stmt in body:
        variance = variance_about(stmt, body, draft.windows) if traits.moments and isinstance(stmt, Def) else None
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
    if trained:
        keep_sums(draft)
    if traits.by_weight and not any(isinstance(s, Loop) for s in draft.statements):
        draft.statements = list(side_by_side(draft.statements))
    return Function(cell, mode, inputs, tuple(above), draft.all(), result, gives)


def _given(draft: Draft, ref: Ref, axes: Sequence[Axis], dtype: DType) -> Local:
    """What a function is given, under a name."""
    name = draft.local(ref.name)
    draft.known(ref, name, own([a.size for a in axes]), "int" if dtype == "pick" else data(dtype))
    return name


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


def _written(draft: Draft, ref: Ref) -> Array:
    """The output, or a carry this cell writes, in full."""
    d = draft.equation(ref)
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


def reads(body: Sequence[SequenceStmt]) -> Iterator[Ref]:
    """Everything the statements' expressions read; an `Attend` reads its histories by itself."""
    for stmt in body:
        if isinstance(stmt, Apply):
            yield from walk.uses(stmt)
        asked = (*(p.query for p in stmt.parts), stmt.bias) if isinstance(stmt, Attend) else stmt
        yield from walk.refs(asked)
