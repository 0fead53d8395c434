"""Emission of the stack: units (a line's chain of cells, and its residual sum), and their calls.

Input: a model and the names of its cells' functions.
Output: `UnitText`s, `CallText`s and `SlotText`s, which the template prints and the manifest's schedule repeats.

Lines that differ only in the paths of their weights and states share a unit.  A bank's weights have its axis in front;
a bank with state is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from cdrmix.ir import layout, walk
from cdrmix.ir import python as escape
from cdrmix.ir.code import ADD, Assign, Code, Statement, call, infix, item, name
from cdrmix.ir.forms import Program, Sequential
from cdrmix.ir.nodes import Buffer, Cell, History, Line, Model, Node, Param, State

from .spelling import viewed

Shape = tuple[int, ...]
Typed = dict[str, tuple[Shape, str]]


@dataclass(frozen=True, slots=True)
class UnitText:
    """A unit of the runtime, and the body of its function."""

    name: str
    function: str
    doc: str
    body: tuple[Statement, ...]
    x: Shape
    x_dtype: str
    out: Shape
    weights: Typed
    states: Typed
    reads: dict[str, Shape]
    writes: dict[str, Shape]
    blocked: bool


@dataclass(frozen=True, slots=True)
class CallText:
    """A call: local names to paths."""

    unit: str
    path: str
    weights: dict[str, str]
    states: dict[str, str]
    last_only: bool


@dataclass(frozen=True, slots=True)
class SlotText:
    """A piece of the state as it lies on the device; `start` is a number or the name of a stored tensor."""

    path: str
    shape: Shape
    kind: str
    start: float | str


@dataclass(slots=True)
class Stack:
    """The whole model."""

    units: list[UnitText] = field(default_factory=list)
    calls: list[CallText] = field(default_factory=list)
    slots: list[SlotText] = field(default_factory=list)


def emit_stack(program: Program, functions: Mapping[str, str]) -> Stack:
    """See the module."""
    model, stack = program.model, Stack()
    layout.refuse_state_in_banks(model, "the GPU targets do not hold")
    names = escape.Names({"advance", "sample", "argmax"})
    made: dict[object, UnitText] = {}
    taken = escape.Names(functions.values())
    x: Shape = _input(model)
    for line in model.lines:
        out = tuple(a.size for a in model.cells[line.chain[-1].cell].out_axes)
        key = (layout.structure(line), x)
        weights, states = _tensors(model, line)
        if key not in made:
            label = line.path.rpartition(".")[2]
            name = names.fresh(escape.identifier(label if not label.isdigit() else line.path))
            made[key] = _unit(program, line, name, taken.fresh(f"run_{name}"), functions, x, out)
            stack.units.append(made[key])
        unit = made[key]
        scales = {f"{n}.scale": f"{p}.scale" for n, p in weights.items() if f"{n}.scale" in unit.weights}
        paths = weights | scales
        ordered = {n: paths[n] for n in unit.weights}
        held = {n: "pos" if n == "pos" else states[n] for n in unit.states}
        stack.calls.append(CallText(unit.name, line.path, ordered, held, False))
        x = out
    stack.calls = _last_only(stack)
    stack.slots = [*_slots(model), SlotText("pos", (), "pos", 0)]
    return stack


def _input(model: Model) -> Shape:
    """One token's input: nothing but an id, or for a model of one bare op its inputs, flat and side by side."""
    inputs = model.cells[model.lines[0].chain[0].cell].inputs
    if model.vocab:
        return ()
    if len(inputs) == 1:
        return tuple(a.size for a in inputs[0].axes)
    return (sum(prod(a.size for a in i.axes) for i in inputs),)


# --- one unit ------------------------------------------------------------------------------------------------------
def _unit(
    program: Program, line: Line, name: str, function: str, functions: Mapping[str, str], x: Shape, out: Shape
) -> UnitText:
    model = program.model
    weights: Typed = {}
    states: Typed = {}
    for place in _places(model, line):
        prefix = _prefix(place.path, line.path)
        for d in _stored(place.cell):
            shape = place.banks + tuple(i.axis.size for i in d.indices)
            for suffix, plane in layout.planes(d, shape).items():
                weights[prefix + d.name + suffix] = (plane.shape, plane.dtype.lower())
        for s in place.cell.states:
            states[prefix + s.name] = (tuple(i.axis.size for i in s.indices), "f32")
        for h in place.cell.histories:
            if h.window.size > 1:
                states[prefix + h.name] = ((h.window.size - 1, *(a.size for a in h.axes)), "f32")
    if any(_asks_pos(p.cell) for p in _places(model, line)):
        states["pos"] = ((), "i32")
    cells = [model.cells[i.cell] for i in line.chain]
    reads: dict[str, Shape] = {}
    writes: dict[str, Shape] = {}
    for cell in cells:
        for c in cell.carries:
            shape = tuple(a.size for a in c.axes)
            if c.reads and c.name not in writes:
                reads[c.name] = shape
            if c.writes:
                writes[c.name] = shape
    whole = cells[0].inputs[0] if len(cells[0].inputs) == 1 else None
    x_dtype = "i32" if whole is not None and whole.dtype == "pick" else "f32"
    blocked = not any(
        isinstance(s, Sequential) for p in _places(model, line) for s in program.sequence[_key(model, p.cell)].body
    )
    chain = " >> ".join(cell.op for cell in cells)
    doc = f"{line.path}: {'residual ' if line.residual else ''}{chain}"
    return UnitText(
        name, function, escape.comment(doc), tuple(_body(line, model, functions)), x, x_dtype, out, weights, states,
        reads, writes, blocked,
    )  # fmt: skip


def _key(model: Model, cell: Cell) -> str:
    return next(name for name, c in model.cells.items() if c is cell)


def _places(model: Model, line: Line) -> Iterator[layout.Place]:
    """The cells of one line."""
    paths = {i.path for i in line.chain}
    for place in layout.places(model):
        if place.instance.path in paths:
            yield place


def _stored(cell: Cell) -> list[Param | Buffer]:
    """The tensors that a cell reads from the weights."""
    return [*cell.params, *cell.buffers]


def _prefix(path: str, line: str) -> str:
    below = layout.below(path, line)
    return f"{below}." if below else ""


def _asks_pos(cell: Cell) -> bool:
    """Whether a cell needs the place of its tokens: it says so, has a history, which is a ring over places, or
    no input, so that nothing else tells how many tokens there are.
    """
    roots: list[Node] = [n for s in cell.body for n in walk.roots(s)]
    return not cell.inputs or bool(cell.histories) or any(m.op == "context" for n in roots for m in walk.nodes(n))


def _body(line: Line, model: Model, functions: Mapping[str, str]) -> Iterator[Statement]:
    """The statements of a unit's function."""
    given: list[Code] = [name("x")]
    inputs = model.cells[line.chain[0].cell].inputs
    if len(inputs) > 1:
        given, at = [], 0
        for i in inputs:
            sizes = [a.size for a in i.axes]
            given.append(viewed(item(name("x"), ":", ":", f"{at} : {at + prod(sizes)}"), [prod(sizes)], sizes))
            at += prod(sizes)
    for place, instance in enumerate(line.chain):
        below = layout.below(instance.path, line.path)
        here = call("here.part", escape.text(below)) if below else name("here")
        code = call(functions[instance.cell], here, *given)
        last = place == len(line.chain) - 1
        if last and line.residual:
            code = infix("+", ADD, name("x"), code)
        yield Assign(() if last else (name("y"),), code, returns=last)
        given = [name("y")]


def _tensors(model: Model, line: Line) -> tuple[dict[str, str], dict[str, str]]:
    """Local names to the paths that own the storage, and to slots."""
    weights: dict[str, str] = {}
    states: dict[str, str] = {}
    for place in _places(model, line):
        prefix = _prefix(place.path, line.path)
        for d in _stored(place.cell):
            path = f"{place.path}.{d.name}"
            weights[prefix + d.name] = model.ties.get(path, path)
        held: list[State | History] = [*place.cell.states, *place.cell.histories]
        for s in held:
            states[prefix + s.name] = f"{place.path}.{s.name}"
    return weights, states


# --- the whole -----------------------------------------------------------------------------------------------------
def _last_only(stack: Stack) -> list[CallText]:
    """The calls, those at the end marked of which only the last token is needed; then the count of tokens."""
    units = {u.name: u for u in stack.units}
    calls: list[CallText] = []
    alone = True
    for n, c in enumerate(reversed(stack.calls)):
        unit = units[c.unit]
        alone = alone and not unit.states and not unit.reads and n < len(stack.calls) - 1
        calls.insert(0, CallText(c.unit, c.path, c.weights, c.states, alone))
    return calls


def _slots(model: Model) -> Iterator[SlotText]:
    for s in layout.slots(model):
        if s.kind == "history" and s.shape[0] == 0:
            continue
        begins = s.decl.init if isinstance(s.decl, State) else None
        start = 0.0 if begins is None else float(begins.arg) if begins.op == "const" else f"{s.path}.start"
        yield SlotText(s.path, s.shape, s.kind, start)


def schedule_of(stack: Stack) -> dict[str, Any]:
    """The units and calls in the manifest's form."""

    def typed(found: Typed) -> list[list[Any]]:
        return [[n, list(shape), dtype] for n, (shape, dtype) in found.items()]

    def shaped(found: Mapping[str, Sequence[int]]) -> list[list[Any]]:
        return [[n, list(shape)] for n, shape in found.items()]

    units = {
        u.name: {
            "x": list(u.x),
            "x_dtype": u.x_dtype,
            "out": list(u.out),
            "weights": typed(u.weights),
            "states": typed(u.states),
            "reads": shaped(u.reads),
            "writes": shaped(u.writes),
            "blocked": u.blocked,
        }
        for u in stack.units
    }
    units["advance"] = {
        "x": [], "x_dtype": "i32", "out": [], "weights": [], "states": [["pos", [], "i32"]], "reads": [], "writes": [],
        "blocked": True,
    }  # fmt: skip
    calls = [
        {
            "unit": c.unit,
            "path": c.path,
            "weights": list(c.weights.values()),
            "states": list(c.states.values()),
            "last_only": c.last_only,
        }
        for c in stack.calls
    ]
    calls.append({"unit": "advance", "path": "pos", "weights": [], "states": ["pos"], "last_only": False})
    return {"units": units, "calls": calls}


def choices(vocab: int) -> dict[str, Any]:
    """The units that choose the next token; none where the model has no tokens."""
    plain = {"x": [vocab], "x_dtype": "f32", "out": [], "weights": [], "states": [], "writes": [], "blocked": True}
    settings: list[list[Any]] = [[name, []] for name in ("temperature", "top_p", "u")]
    return {"argmax": plain | {"reads": []}, "sample": plain | {"reads": settings, "top_k": 64}} if vocab else {}
