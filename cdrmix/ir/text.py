"""The IR as stable text that looks like the language; `--dump-after` prints it.

Input: a `Model`, a `Cell`, a statement of any form, or a `Program`.
Output: text.  Indices are named once, in a cell's heading; a binder says its axis only where it differs from that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from cdrmix.ir import forms, nodes, walk
from cdrmix.ir.nodes import TOKENS, Axis, Cell, DType, Index, Model, Node, Ref
from cdrmix.ir.text_nodes import Known, binder, expression, listed, name, over


def to_text(thing: Model | Cell | forms.Program) -> str:
    """The whole text, ending in a newline."""
    match thing:
        case Model():
            lines = [*_model(thing), *(line for cell in thing.cells.values() for line in ("", *_cell(cell)))]
        case Cell():
            lines = [*_cell(thing)]
        case forms.Program():
            lines = [*_model(thing.model)]
            for key, cell in thing.model.cells.items():
                lines += ["", *_forms(cell, thing.step.get(key), thing.sequence.get(key))]
    return "\n".join(lines) + "\n"


def headings(cell: Cell) -> Known:
    """The axis that each index name stands for in this cell, by first use."""
    known: dict[str, Axis] = {}
    for i in _indices(cell):
        known.setdefault(i.name, i.axis)
    return known


def _indices(cell: Cell) -> Iterator[Index]:
    yield from (i for group in (cell.params, cell.states, cell.buffers) for d in group for i in d.indices)
    for stmt in (*cell.body, *cell.training):
        match stmt:
            case nodes.Def() | nodes.Training():
                yield from stmt.indices
            case nodes.Top():
                yield from (*stmt.lead, stmt.k, stmt.over)
            case nodes.Apply():
                yield from (*stmt.lead, *stmt.outs)
        yield from (i for n in walk.nodes(stmt) for i in walk.bound(n))


# --- models and cells ----------------------------------------------------------------------------------------------
def _model(model: Model) -> Iterator[str]:
    yield f"model {model.name}"
    yield from (f"  {key} = {value}" for key, value in model.settings.items())
    if model.work != "f32":
        yield f"work {model.work}"
    yield "stack"
    for line in model.lines:
        chain = " >> ".join(f"{i.cell} at {i.path}" for i in line.chain)
        yield f"  {line.path}: {'residual ' if line.residual else ''}{chain}"
    yield from (f"  tie {path} = {owner}" for path, owner in model.ties.items())


def _cell(cell: Cell) -> Iterator[str]:
    known = headings(cell)
    yield from _heading(cell, known)
    yield from (f"  {line}" for s in (*cell.body, *cell.training) for line in statement(s, known))


def _forms(cell: Cell, step: forms.StepForm | None, sequence: forms.SequenceForm | None) -> Iterator[str]:
    known = headings(cell)
    yield from _heading(cell, known)
    if step is not None:
        yield f"  step (in place: {', '.join(sorted(step.in_place)) or 'none'})"
        yield from (f"    {line}" for s in step.body for line in statement(s, known))
    if sequence is not None:
        yield "  sequence"
        yield from (f"    {line}" for s in sequence.body for line in statement(s, known))
        yield from (f"    note: {note}" for note in sequence.notes)


def _heading(cell: Cell, known: Known) -> Iterator[str]:
    """What stands before a cell's statements: its formals, axes, indices and declarations."""
    formals = ", ".join(_line(i, known) for i in cell.inputs)
    yield f"cell {cell.name}({formals}) -> {_typed('work', cell.out_axes)}"
    used = [*(a for i in cell.inputs for a in i.axes), *cell.out_axes, *known.values()]
    used += [a for h in cell.histories for a in (h.window, *h.axes)] + [a for c in cell.carries for a in c.axes]
    yield f"  axes {', '.join(f'{a.name} = {a.size}' for a in dict.fromkeys(used) if a != TOKENS)}"
    if known:
        yield f"  over {', '.join(f'{i} < {a.name}' for i, a in known.items())}"
    for d in (*cell.params, *cell.states, *cell.histories, *cell.carries, *cell.buffers, *cell.parts):
        yield f"  {_line(d, known)}"


# --- declarations and statements -----------------------------------------------------------------------------------
def statement(s: Any, known: Known) -> list[str]:
    """The lines of one statement, of a cell's body or of any form."""
    say = partial(expression, known=known)
    match s:
        case forms.Coupled():
            lines = [f"coupled_scan over {listed(s.indices, known)}"]
            for state, row, addend in zip(s.states, s.decay, s.addend, strict=True):
                terms = [f"({say(d)})*{g}" for d, g in zip(row, s.states, strict=True) if d is not None]
                lines.append(f"  {state}' = {' + '.join([*terms, say(addend)])}")
            return lines
        case forms.Chunk():
            axes = f"batch {listed(s.batch, known)} value {listed(s.value, known)} key {binder(s.key, known)}"
            lines = [f"chunk_scan {', '.join(s.states)} over {axes}"]
            lines += [f"  {target}' += {source} * diag({say(d)})" for (target, source), d in sorted(s.decay.items())]
            lines += [f"  value decay {say(s.value_decay)}"] if s.value_decay is not None else []
            for low in s.low_rank:
                lines.append(f"  {low.target}' += {low.source} ({say(low.a)}) ({say(low.b)})ᵀ{_over(low.rank, known)}")
            lines += [f"  {o.target}' += ({say(o.v)}) ({say(o.k)})ᵀ{_over(o.rank, known)}" for o in s.outer]
            for q in s.queries:
                state = name(Ref("next" if q.after else "state", q.state))
                lines.append(f"  {q.name} = {state} @ ({say(q.q)}){_over(q.lead, known)}")
            return lines
        case forms.Sequential():
            lines = [f"token by token {', '.join(s.states)}: {s.why}"]
            return lines + [f"  {line}" for d in s.body for line in statement(d, known)]
        case _:
            return [_line(s, known)]


def _line(s: Any, known: Known) -> str:
    """A declaration or a statement that is one line."""
    say = partial(expression, known=known)
    match s:
        case nodes.Input():
            return f"{s.name}: {_typed(s.dtype, s.axes) if s.extent is None else f'index[{s.extent.name}]'}"
        case nodes.Param():
            drawn = ", ".join(say(a) for a in s.init.args)
            rule = drawn if s.init.rule == "value" else f"{s.init.rule}({drawn})"
            marks = f" !lr({s.lr:g})" if s.lr != 1 else ""
            marks += f" !decay({s.decay:g})" if s.decay is not None else ""
            marks += f" stored {s.stored}" if s.stored != "f32" else ""
            return f"param {s.name}: {_typed(s.dtype, s.indices)} ~ {rule}{marks}"
        case nodes.State() | nodes.Buffer():
            word = "state" if isinstance(s, nodes.State) else "buffer"
            return f"{word} {s.name}: {_typed(s.dtype, s.indices)} = {say(s.init)}"
        case nodes.History():
            return f"history {s.name}: {_typed(s.dtype, s.axes)} last {s.window.size} as {s.window.name}"
        case nodes.Carry():
            how = " and ".join(word for word, does in (("reads", s.reads), ("writes", s.writes)) if does)
            return f"carry {s.name}: {_typed(s.dtype, s.axes)} {how}"
        case nodes.Part():
            if s.bank is None:
                return f"part {s.name}: {s.cell}"
            return f"bank {s.name}: {_typed('work', (s.bank,))} of {s.cell} !capacity({s.capacity:g})"
        case nodes.Training():
            word, ref = ("after step", Ref("next", s.name)) if s.kind == "after" else (s.kind, Ref("def", s.name))
            return f"{word} {over(ref, s.indices, known)} = {say(s.value)}"
        case nodes.Def():
            word = f"{s.ref.kind} " if s.ref.kind in ("carry", "history") else ""
            return f"{word}{over(s.ref, s.indices, known)}{_as(s.dtype)} = {say(s.value)}"
        case nodes.Top():
            left = ", ".join(over(Ref("def", n), (*s.lead, s.k), known) if n else "_" for n in (s.values, s.picks))
            return f"{left} = top[{s.k.name} < {s.k.axis.size} of {binder(s.over, known)}]({say(s.source)})"
        case nodes.Apply():
            place = f"[{say(s.select)}]" if s.select is not None else ""
            given = ", ".join(name(g.ref) + _plain(g.lead) for g in s.inputs)
            left = over(Ref("def", s.name), (*s.lead, *s.outs), known)
            return f"{left}{_as(s.dtype)} = {s.part}{place}({given}){_plain(s.outs)}"
        case forms.Delay():
            return f"{s.state} = delay({s.state}')"
        case forms.Elementwise():
            scan = f"maxplus_scan({s.combine}, " if s.combine else "scan("
            left = over(Ref("next", s.state), s.indices, known)
            return f"{left} = {scan}decay {say(s.decay)}, addend {say(s.addend)})"
        case forms.Attend():
            said = [f"query {say(p.query)} key {say(p.key)} over {listed(p.contract, known)}" for p in s.parts]
            said += [f"value {say(s.value)}", f"scale {s.scale!r}"]
            said += [f"bias {say(s.bias)}"] if s.bias is not None else []
            left = over(Ref("def", s.name), s.indices, known)
            return f"{left}{_as(s.dtype, 'f32')} = attend[{binder(s.t, known)}]({', '.join(said)})"
    raise TypeError(type(s))


def _as(dtype: DType, usual: DType = "work") -> str:
    return "" if dtype == usual else f": {dtype}"


def _over(indices: tuple[Index, ...], known: Known) -> str:
    return f" over {listed(indices, known)}" if indices else ""


def _plain(indices: tuple[Index, ...]) -> str:
    return f"[{','.join(i.name for i in indices)}]" if indices else ""


def _typed(dtype: DType, axes: Iterable[Axis | Index]) -> str:
    inside = ", ".join(f"{a.name} < {a.axis.name}" if isinstance(a, Index) else a.name for a in axes)
    return ("" if dtype == "work" else dtype) + f"[{inside}]"


def node_text(n: Node) -> str:
    """One expression by itself, every binder with its axis."""
    return expression(n, {})
