"""Where a model's tensors are: the paths, shapes and owners of its parameters, buffers and states.

One list each, in the order of the stack, shared by the interpreter, every backend and `cost`, so that they cannot
disagree.  A tensor inside a bank has the bank's axis in front (of every bank around it, outermost first).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cdrmix.diagnose import CompileError, Diagnostic
from cdrmix.ir import walk
from cdrmix.ir.nodes import Buffer, Cell, History, Instance, Line, Model, Param, State
from cdrmix.runtime.encodings import ENCODINGS
from cdrmix.runtime.encodings import Entry as Entry  # who reads the IR takes it from here

ENCODING_NAMES = frozenset(ENCODINGS)
"""Of every encoding that there is."""


@dataclass(frozen=True, slots=True)
class Place:
    """A cell where it stands: `path` of labels, the `banks` around it (sizes, outermost first) and its layer."""

    path: str
    cell: Cell
    banks: tuple[int, ...]
    instance: Instance


@dataclass(frozen=True, slots=True)
class Weight:
    """A stored tensor.  `owner` is the path that holds its storage (itself unless tied)."""

    path: str
    shape: tuple[int, ...]
    kind: Literal["param", "buffer"]
    decl: Param | Buffer
    place: Place
    owner: str


@dataclass(frozen=True, slots=True)
class Slot:
    """A piece of the streaming state.

    `state`: `shape` is the bank axes and the state's.  `history`: `path` holds the last `window - 1` entries,
    `shape = (*banks, window - 1, *axes)`, the most recent first; entries that are not there yet are zero, and
    `path + ".count"` (shape `banks`) says how many are.
    """

    path: str
    shape: tuple[int, ...]
    kind: Literal["state", "history"]
    decl: State | History
    place: Place


def places(model: Model) -> Iterator[Place]:
    """Every cell instance of the stack, parts and banks after the cell that holds them."""
    for line in model.lines:
        for instance in line.chain:
            yield from _inside(model, Place(instance.path, model.cells[instance.cell], (), instance))


def _inside(model: Model, place: Place) -> Iterator[Place]:
    yield place
    for part in place.cell.parts:
        banks = place.banks + ((part.bank.axis.size,) if part.bank else ())
        yield from _inside(model, Place(f"{place.path}.{part.name}", model.cells[part.cell], banks, place.instance))


def below(path: str, line: str) -> str:
    """The path of a cell of a line's chain below the line's own; nothing for the last one."""
    return path[len(line) + 1 :]


def structure(line: Line) -> tuple[bool, tuple[tuple[str, str], ...]]:
    """What lines are alike in that differ in the paths of their tensors only: one program serves them all."""
    return line.residual, tuple((i.cell, below(i.path, line.path)) for i in line.chain)


def refuse_state_in_banks(model: Model, whose: str) -> None:
    """Raise `CompileError` (E0907) for a state inside a bank; `whose` targets cannot hold one."""
    for place in places(model):
        held: list[State | History] = [*place.cell.states, *place.cell.histories]
        if place.banks and held:
            message = f"`{held[0].name}` is a state inside a bank, which {whose}"
            help = "put the state in the op that holds the bank, or compile for cpu or torch, whose banks may have it"
            raise CompileError([Diagnostic("E0907", held[0].span, message, help)])


def weights(model: Model) -> list[Weight]:
    """Every param and buffer, tied ones included."""
    found = []
    for place in places(model):
        for kind, decls in (("param", place.cell.params), ("buffer", place.cell.buffers)):
            for decl in decls:
                path, shape = f"{place.path}.{decl.name}", place.banks + walk.sizes(decl.indices)
                found.append(Weight(path, shape, kind, decl, place, model.ties.get(path, path)))  # type: ignore[arg-type]
    return found


def planes(decl: Param | Buffer, shape: tuple[int, ...]) -> dict[str, Entry]:
    """The tensors of the file that hold a declared one of this shape, by the suffix of their names."""
    return ENCODINGS[decl.stored if isinstance(decl, Param) else "f32"].planes(shape)


def scaled(p: Param) -> bool:
    """Whether a parameter is held with scales along its rows."""
    return ENCODINGS[p.stored].group is not None


def slots(model: Model) -> list[Slot]:
    """Every state and history."""
    found = []
    for place in places(model):
        for state in place.cell.states:
            shape = place.banks + walk.sizes(state.indices)
            found.append(Slot(f"{place.path}.{state.name}", shape, "state", state, place))
        for history in place.cell.histories:
            shape = (*place.banks, history.window.size - 1, *(a.size for a in history.axes))
            found.append(Slot(f"{place.path}.{history.name}", shape, "history", history, place))
    return found
