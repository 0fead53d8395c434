"""The IR as stable text that looks like the language; `--dump-after` prints it.

Input: a `Model`, a `Cell`, a statement of any form, or a `Program`.
Output: text.  Indices are named once, in a cell's heading; a binder says its axis only where it differs from that.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from typing import Any

from cdrmix.ir import forms, walk
from cdrmix.ir.nodes import (
    TOKENS,
    Apply,
    Axis,
    Buffer,
    Carry,
    Cell,
    Def,
    DType,
    History,
    Index,
    Init,
    Input,
    Instance,
    Model,
    Node,
    Param,
    Part,
    Ref,
    State,
    Top,
    Training,
)
from cdrmix.ir.text_nodes import Known, expression, over
from cdrmix.ir.text_statements import statement


def to_text(thing: Model | Cell | forms.Program) -> str:
    """The whole text, ending in a newline."""
    match thing:
        case Model():
            return "\n".join([*_model(thing), *(f"\n{to_text(c)}".rstrip("\n") for c in thing.cells.values())]) + "\n"
        case Cell():
            known = headings(thing)
            return "\n".join([*_heading(thing, known), *_declarations(thing, known), *_body(thing, known)]) + "\n"
        case forms.Program():
            return "\n".join(_program(thing)) + "\n"


def headings(cell: Cell) -> Known:
    """The axis that each index name stands for in this cell, by first use."""
    known: dict[str, Axis] = {}
    for i in _indices(cell):
        known.setdefault(i.name, i.axis)
    return known


def _indices(cell: Cell) -> Iterator[Index]:
    for indices in (d.indices for group in (cell.params, cell.states, cell.buffers) for d in group):
        yield from indices
    for stmt in cell.body:
        match stmt:
            case Def():
                yield from stmt.indices
            case Top():
                yield from (*stmt.lead, stmt.k, stmt.over)
            case Apply():
                yield from (*stmt.lead, *stmt.outs)
        for root in walk.roots(stmt):
            yield from (i for n in walk.nodes(root) for i in walk.bound(n))
    for t in cell.training:
        yield from (*t.indices, *(i for n in walk.nodes(t.value) for i in walk.bound(n)))


# --- models and cells ----------------------------------------------------------------------------------------------
def _model(model: Model) -> Iterator[str]:
    yield f"model {model.name}"
    for key, value in model.settings.items():
        yield f"  {key} = {value}"
    if model.work != "f32":
        yield f"work {model.work}"
    yield "stack"
    for line in model.lines:
        chain = " >> ".join(_instance(i) for i in line.chain)
        yield f"  {line.path}: {'residual ' if line.residual else ''}{chain}"
    for path, owner in model.ties.items():
        yield f"  tie {path} = {owner}"


def _instance(i: Instance) -> str:
    return f"{i.cell} at {i.path}"


def _heading(cell: Cell, known: Known) -> Iterator[str]:
    formals = ", ".join(_input(i) for i in cell.inputs)
    yield f"cell {cell.name}({formals}) -> {_axes(cell.out_axes)}"
    used = [*(a for i in cell.inputs for a in i.axes), *cell.out_axes, *known.values()]
    used += [a for axes in ((h.window, *h.axes) for h in cell.histories) for a in axes]
    used += [a for c in cell.carries for a in c.axes]
    yield f"  axes {', '.join(f'{a.name} = {a.size}' for a in dict.fromkeys(used) if a != TOKENS)}"
    if known:
        yield f"  over {', '.join(f'{i} < {a.name}' for i, a in known.items())}"


def _input(i: Input) -> str:
    return f"{i.name}: index[{i.extent.name}]" if i.extent is not None else f"{i.name}: {_typed(i.dtype, i.axes)}"


def _declarations(cell: Cell, known: Known) -> Iterator[str]:
    for group in (cell.params, cell.states, cell.histories, cell.carries, cell.buffers, cell.parts):
        for d in group:
            yield f"  {declaration(d, known)}"


def _body(cell: Cell, known: Known) -> Iterator[str]:
    for stmt in cell.body:
        yield from (f"  {t}" for t in statement(stmt, known))
    for t in cell.training:
        yield f"  {declaration(t, known)}"


def _axes(axes: tuple[Axis, ...]) -> str:
    return f"[{', '.join(a.name for a in axes)}]"


def _typed(dtype: DType, axes: tuple[Axis, ...]) -> str:
    return ("" if dtype == "work" else dtype) + _axes(axes)


def _shape(dtype: DType, indices: tuple[Index, ...]) -> str:
    return ("" if dtype == "work" else dtype) + f"[{', '.join(f'{i.name} < {i.axis.name}' for i in indices)}]"


@singledispatch
def declaration(d: Any, known: Known) -> str:
    """One declaration of a cell."""
    raise TypeError(type(d))


@declaration.register
def _(d: Param, known: Known) -> str:
    marks = f" !lr({d.lr:g})" if d.lr != 1 else ""
    marks += f" !decay({d.decay:g})" if d.decay is not None else ""
    marks += f" stored {d.stored}" if d.stored != "f32" else ""
    return f"param {d.name}: {_shape(d.dtype, d.indices)} ~ {_init(d.init, known)}{marks}"


def _init(init: Init, known: Known) -> str:
    args = ", ".join(expression(a, known) for a in init.args)
    return args if init.rule == "value" else f"{init.rule}({args})"


@declaration.register
def _(d: State, known: Known) -> str:
    return f"state {d.name}: {_shape(d.dtype, d.indices)} = {expression(d.init, known)}"


@declaration.register
def _(d: Buffer, known: Known) -> str:
    return f"buffer {d.name}: {_shape(d.dtype, d.indices)} = {expression(d.init, known)}"


@declaration.register
def _(d: History, known: Known) -> str:
    return f"history {d.name}: {_typed(d.dtype, d.axes)} last {d.window.size} as {d.window.name}"


@declaration.register
def _(d: Carry, known: Known) -> str:
    how = " and ".join(word for word, does in (("reads", d.reads), ("writes", d.writes)) if does)
    return f"carry {d.name}: {_typed(d.dtype, d.axes)} {how}"


@declaration.register
def _(d: Part, known: Known) -> str:
    if d.bank is None:
        return f"part {d.name}: {d.cell}"
    return f"bank {d.name}: [{d.bank.name} < {d.bank.axis.name}] of {d.cell} !capacity({d.capacity:g})"


@declaration.register
def _(d: Training, known: Known) -> str:
    word = "after step" if d.kind == "after" else d.kind
    ref = Ref("next" if d.kind == "after" else "def", d.name)
    return f"{word} {over(ref, d.indices, known)} = {expression(d.value, known)}"


def _program(program: forms.Program) -> Iterator[str]:
    yield from _model(program.model)
    for key, cell in program.model.cells.items():
        known = headings(cell)
        yield ""
        yield from _heading(cell, known)
        yield from _declarations(cell, known)
        if key in program.step:
            step = program.step[key]
            yield f"  step (in place: {', '.join(sorted(step.in_place)) or 'none'})"
            yield from (f"    {t}" for s in step.body for t in statement(s, known))
        if key in program.sequence:
            yield "  sequence"
            yield from (f"    {t}" for s in program.sequence[key].body for t in statement(s, known))
            yield from (f"    note: {t}" for t in program.sequence[key].notes)


def node_text(n: Node) -> str:
    """One expression by itself, every binder with its axis."""
    return expression(n, {})
