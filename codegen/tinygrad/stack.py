"""Emission of the stack: units (a line's chain of cells, and its residual sum), and their calls.

Input: a model and the names of its cells' functions.
Output: a `Stack`, which the template prints; `schedule_of`: its units and calls as the manifest has them.

Lines that differ only in the paths of their weights and states share a unit.  A bank's weights have its axis in front;
a bank with state is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from cdrmix.ir import layout, walk
from cdrmix.ir import python as escape
from cdrmix.ir.code import Assign, Code, Statement, call, infix, item, name
from cdrmix.ir.forms import Program, Sequential
from cdrmix.ir.nodes import Cell, Line, Model, State
from cdrmix.ir.writing import Written

from .spelling import viewed

Shape = tuple[int, ...]
Typed = list[tuple[str, Shape, str]]
Shaped = list[tuple[str, Shape]]


@dataclass(frozen=True, slots=True)
class UnitText:
    """A unit of the runtime, and the function that is its body."""

    name: str
    body: str
    function: Written
    x: Shape
    x_dtype: str
    out: Shape
    weights: Typed
    states: Typed
    reads: Shaped
    writes: Shaped
    blocked: bool


@dataclass(frozen=True, slots=True)
class CallText:
    """A call: local names to paths."""

    unit: UnitText
    path: str
    weights: dict[str, str]
    states: dict[str, str]
    last_only: bool = False


@dataclass(frozen=True, slots=True)
class SlotText:
    """A piece of the state as it lies on the device; `start` is a number or the name of a stored tensor."""

    path: str
    shape: Shape
    kind: str
    start: float | str


Stack = tuple[list[UnitText], list[CallText], list[SlotText]]
"""The whole model."""


def emit_stack(program: Program, functions: Mapping[str, str]) -> Stack:
    """See the module."""
    model = program.model
    layout.refuse_state_in_banks(model, "the GPU targets do not hold")
    names, taken = escape.Names({"advance", "sample", "argmax"}), escape.Names(functions.values())
    owners = {w.path + s: w.owner + s for w in layout.weights(model) for s in layout.planes(w.decl, w.shape)}
    made: dict[object, UnitText] = {}
    calls = []
    x = _input(model)
    for line in model.lines:
        key = (layout.structure(line), x)
        if key not in made:
            label = line.path.rpartition(".")[2]
            own = names.fresh(escape.identifier(label if not label.isdigit() else line.path))
            made[key] = _unit(program, line, own, taken.fresh(f"run_{own}"), functions, x)
        unit = made[key]
        weights = {n: owners[f"{line.path}.{n}"] for n, *_ in unit.weights}
        states = {n: n if n == "pos" else f"{line.path}.{n}" for n, *_ in unit.states}
        calls.append(CallText(unit, line.path, weights, states))
        x = unit.out
    return [*made.values()], [*_last_only(calls)], [*_slots(model), SlotText("pos", (), "pos", 0)]


def _input(model: Model) -> Shape:
    """One token's input: nothing but an id, or for a model of one bare op its inputs, flat and side by side."""
    inputs = model.cells[model.lines[0].chain[0].cell].inputs
    if model.vocab:
        return ()
    if len(inputs) == 1:
        return tuple(a.size for a in inputs[0].axes)
    return (sum(prod(a.size for a in i.axes) for i in inputs),)


# --- one unit ------------------------------------------------------------------------------------------------------
def _unit(program: Program, line: Line, own: str, body: str, functions: Mapping[str, str], x: Shape) -> UnitText:
    model = program.model
    weights: Typed = []
    for w in layout.weights(model):
        if w.place.instance in line.chain:
            for suffix, plane in layout.planes(w.decl, w.shape).items():
                weights.append((layout.below(w.path + suffix, line.path), plane.shape, plane.dtype.lower()))
    held = [s for s in _held(model) if s.place.instance in line.chain]
    states = [(layout.below(s.path, line.path), s.shape, "f32") for s in held]
    inside = [p.cell for p in layout.places(model) if p.instance in line.chain]
    if any(map(_asks_pos, inside)):
        states.append(("pos", (), "i32"))
    cells = [model.cells[i.cell] for i in line.chain]
    reads: dict[str, Shape] = {}
    writes: dict[str, Shape] = {}
    for c in (c for cell in cells for c in cell.carries):
        shape = tuple(a.size for a in c.axes)
        if c.reads and c.name not in writes:
            reads[c.name] = shape
        if c.writes:
            writes[c.name] = shape
    x_dtype = "i32" if [i.dtype for i in cells[0].inputs] == ["pick"] else "f32"
    out = tuple(a.size for a in cells[-1].out_axes)
    blocked = not any(isinstance(s, Sequential) for cell in inside for s in program.sequence[cell.name].body)
    chain = " >> ".join(cell.op for cell in cells)
    doc = escape.comment(f"{line.path}: {'residual ' if line.residual else ''}{chain}")
    head = f"def {body}(here: Frame, x: Tensor) -> Tensor:"
    function = Written(head, tuple(_body(line, model, functions)), (f"{doc}.",))
    return UnitText(own, body, function, x, x_dtype, out, weights, states, [*reads.items()], [*writes.items()], blocked)


def _asks_pos(cell: Cell) -> bool:
    """Whether a cell needs the place of its tokens: it says so, has a history, which is a ring over places, or
    no input, so that nothing else tells how many tokens there are.
    """
    return not cell.inputs or bool(cell.histories) or any(m.op == "context" for m in walk.nodes(cell.body))


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
    for instance in line.chain:
        below = layout.below(instance.path, line.path)
        here = call("here.part", escape.text(below)) if below else name("here")
        code = call(functions[instance.cell], here, *given)
        if instance is not line.chain[-1]:
            yield Assign((name("y"),), code)
        else:
            yield Assign((), infix("+", name("x"), code) if line.residual else code, returns=True)
        given = [name("y")]


# --- the whole -----------------------------------------------------------------------------------------------------
def _last_only(calls: list[CallText]) -> Iterator[CallText]:
    """The calls, those at the end marked of which only the last token is needed."""
    needed = max((n for n, c in enumerate(calls) if c.unit.states or c.unit.reads), default=0)
    for n, c in enumerate(calls):
        yield replace(c, last_only=n > needed)


def _held(model: Model) -> list[layout.Slot]:
    """The slots that hold anything: a window of one token keeps none."""
    return [s for s in layout.slots(model) if s.kind == "state" or s.shape[0] > 0]


def _slots(model: Model) -> Iterator[SlotText]:
    for s in _held(model):
        begins = s.decl.init if isinstance(s.decl, State) else None
        start = 0.0 if begins is None else float(begins.arg) if begins.op == "const" else f"{s.path}.start"
        yield SlotText(s.path, s.shape, s.kind, start)


# --- the manifest's form -------------------------------------------------------------------------------------------
NOTHING: dict[str, Any] = {
    "x": [], "x_dtype": "i32", "out": [], "weights": [], "states": [], "reads": [], "writes": [], "blocked": True,
}  # fmt: skip
"""A unit that is given nothing and makes nothing."""


def schedule_of(stack: Stack, vocab: int) -> dict[str, Any]:
    """The units and calls in the manifest's form; those that choose the next token where there are tokens."""
    made, called, _ = stack
    units = {u.name: {key: _as_lists(getattr(u, key)) for key in NOTHING} for u in made}
    units["advance"] = NOTHING | {"states": [["pos", [], "i32"]]}
    if vocab:
        logits = NOTHING | {"x": [vocab], "x_dtype": "f32"}
        settings: list[Any] = [[setting, []] for setting in ("temperature", "top_p", "u")]
        units |= {"argmax": logits, "sample": logits | {"reads": settings, "top_k": 64}}
    calls = [
        {
            "unit": c.unit.name,
            "path": c.path,
            "weights": [*c.weights.values()],
            "states": [*c.states.values()],
            "last_only": c.last_only,
        }
        for c in called
    ]
    calls.append({"unit": "advance", "path": "pos", "weights": [], "states": ["pos"], "last_only": False})
    return {"units": units, "calls": calls}


def _as_lists(value: Any) -> Any:
    """The value as JSON has it: no tuples."""
    return [_as_lists(v) for v in value] if isinstance(value, list | tuple) else value
