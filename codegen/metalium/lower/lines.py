"""The lines of the stack: programs shared by those of one structure, and what each call binds.

Input: the step form of a model.  Output: programs by name, and the calls in order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from cdrmix.ir import build, layout
from cdrmix.ir.forms import Program
from cdrmix.ir.nodes import Axis, Index, Input, Line, Model, Ref, Stored

from .. import plan
from .cells import Site, Writing
from .draft import INPUTS, Draft, Entry, refuse
from .fuse import fuse
from .maps import drop_copies, finish
from .tiling import tile_states

ALIGNED = 16
"""Elements of f32 in 64 bytes, at which every array begins."""


def schedule(program: Program) -> plan.ModelPlan:
    """See the module; every program is for one core, its arrays without places yet."""
    model = program.model
    layout.refuse_state_in_banks(model, "target tenstorrent does not hold")
    made: dict[object, Written] = {}
    calls: list[plan.CallOf] = []
    owners = {w.path: w.owner for w in layout.weights(model)}
    for number, line in enumerate(model.lines):
        last = number == len(model.lines) - 1
        key = (layout.structure(line), number == 0)
        if key not in made:
            name = _name(line, {w.program.name for w in made.values()})
            made[key] = _write(program, line, name, stored_as(model, line), number == 0)
        calls.append(call_of(made[key], line, number, last, owners))
    programs = {w.program.name: w for w in made.values()}
    found = tuple(named(calls, programs))
    return plan.ModelPlan("", {name: w.program for name, w in programs.items()}, found)


def stored_as(model: Model, line: Line) -> Stored:
    """How a line's matrices are stored: `bf16` where any is narrower than f32; as the model's, where it has none."""
    paths = {i.path for i in line.chain}
    matrices = [(p.stored, place.instance.path in paths)
                for place in layout.places(model) for p in place.cell.params if len(p.indices) > 1]  # fmt: skip
    own = [stored for stored, here in matrices if here]
    return "bf16" if any(stored != "f32" for stored in own or (stored for stored, _ in matrices)) else "f32"


def _name(line: Line, taken: set[str]) -> str:
    label = line.path.rpartition(".")[2]
    clean = re.sub(r"[^0-9A-Za-z_]", "_", label if not label.isdigit() else line.chain[-1].cell)
    return next(n for n in (clean, *(f"{clean}_{k}" for k in range(2, len(taken) + 3))) if n not in taken)


# --- calls ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Written:
    """A program, and what it was while it was written: what its calls bind, by paths below the cells of the chain."""

    program: plan.Program
    writing: Writing


def call_of(made: Written, line: Line, number: int, last: bool, owners: Mapping[str, str]) -> plan.CallOf:
    """What the program of a line is given there."""
    program, draft = made.program, made.writing.draft

    def path(of: tuple[int, str]) -> str:
        return f"{line.chain[of[0]].path}.{of[1]}"

    def owner(name: str) -> str:
        return owners[path(draft.given[name].path)]

    passed = {"inputs": "inputs", "vectors": f"{line.path}.vectors", "x_in": f"x.{(number + 1) % 2}"}
    passed |= {"x_out": "logits" if last else f"x.{number % 2}"}
    passed |= {tensor: f"carry.{name}" for name, tensor in draft.carries.items()}
    of_rows = {tensor: name for name, tensor in draft.tables.items()}
    weights = {n: owner(of_rows.get(n, n)) for n in program.tensors if n not in passed}
    parts = program.tensors["vectors"].parts if "vectors" in program.tensors else ()
    vectors = {n: owner(n) for n, _, _ in parts if n not in program.constants}
    state = tuple(plan.Resident(array, path(of), ring) for array, of, ring in made.writing.residents)
    tensors = {n: passed.get(n) or weights[n] for n in program.tensors}
    return plan.CallOf(line.path, program.name, tensors, weights, vectors, state)


def named(calls: list[plan.CallOf], by: Mapping[str, Written]) -> list[plan.CallOf]:
    """The calls with `.rows` behind the names of rows of what is kept in tiles too.  A tensor lies in one order."""
    tiled: dict[str, plan.Tensor] = {}
    for call in calls:
        for name, tensor in by[call.program].program.tensors.items():
            if tensor.tiled is not None:
                first = tiled.setdefault(call.tensors[name], tensor)
                if (first.shape, first.tiled) != (tensor.shape, tensor.tiled):
                    span = by[call.program].writing.draft.given[name].span
                    message = f"`{call.tensors[name]}` is tied to a matrix that is multiplied along another axis"
                    raise refuse(span, message, "a streamed matrix lies in one order: untie them")
    found = []
    for call in calls:
        tensors = by[call.program].program.tensors
        both = {n: f"{path}.rows" for n, path in call.weights.items() if path in tiled and tensors[n].tiled is None}
        found.append(replace(call, tensors={**call.tensors, **both}))
    return found


# --- one line ------------------------------------------------------------------------------------------------------
def _write(program: Program, line: Line, name: str, stored: Stored, first: bool) -> Written:
    """The program of a line; a parameter that is read in two ways is held in L1, and the line drafted again."""
    held = frozenset[str]()
    while True:
        writing = Writing(program, Draft(stored == "f32", held))
        draft = writing.draft
        _drafted(writing, line, first)
        twice = {n for n, array in draft.arrays.items() if array.memory == "vectors" and n in draft.tensors}
        if not twice:
            return Written(_program(draft, line, name, stored), writing)
        held |= twice


def _drafted(writing: Writing, line: Line, first: bool) -> None:
    draft, model = writing.draft, writing.program.model
    draft.names |= {INPUTS, "vectors", "x_in", "x_out"}
    cells = [model.cells[i.cell] for i in line.chain]
    given = _inputs(draft, cells[0].inputs, first and bool(model.vocab))
    x = given[0]
    draft.span = line.span
    for number, instance in enumerate(line.chain):
        prefix = "" if number == len(line.chain) - 1 else f"{instance.path.rpartition('.')[2]}_"
        given = (writing.cell(instance.cell, Site(number, "", prefix, prefix), given),)
    _finish_line(writing, line, x, given[0], tuple(a.size for a in cells[-1].out_axes))
    fuse(draft)
    finish(draft)
    drop_copies(draft)
    tile_states(draft)


def _inputs(draft: Draft, formals: tuple[Input, ...], token: bool) -> tuple[Entry, ...]:
    """What the line's first cell is given: the token, or the residual stream."""
    if token:
        draft.token(0)
        return (Entry(Ref("def", INPUTS), (Axis(INPUTS, 2),), (build.const(0),)),)
    counts = [prod(a.size for a in f.axes) for f in formals]
    if any(f.dtype == "pick" for f in formals):
        raise refuse(draft.span, "a bare op whose input is a place on an axis", "give it a model around it")
    draft.tensors["x_in"] = plan.Tensor("x_in", "rows", "f32", (1, sum(counts)))
    x = draft.array("x", (sum(counts),))
    draft.add(plan.Fetch(x, "x_in", texts=("the residual stream",)))
    if len(formals) == 1:
        return (Entry(Ref("def", x)),)
    found, at = [], 0
    for formal, count in zip(formals, counts, strict=True):
        own = draft.array(formal.name, tuple(a.size for a in formal.axes))
        i = Index("i", Axis("i", count))
        place = build.add(build.index(i), build.const(at))
        draft.assign(own, (i,), build.read(Ref("def", x), (Axis("x", sum(counts)),), (place,), "f32"))
        found.append(Entry(Ref("def", own)))
        at += count
    return tuple(found)


def _finish_line(writing: Writing, line: Line, x: Entry, entry: Entry, shape: tuple[int, ...]) -> None:
    """The residual sum, what is kept and what leaves the line."""
    draft = writing.draft
    i = Index("i", Axis("width", prod(shape)))
    draft.span, draft.texts = line.span, ("x + f(x)" if line.residual else "f(x)",)
    value = draft.settled(entry.over((i,)))
    if not line.residual and value.op == "read" and draft.is_own(Entry(value.arg.ref)) and not entry.axes:
        out = value.arg.ref.name
    else:
        out = draft.array("y", (prod(shape),))
        draft.assign(out, (i,), build.add(x.over((i,)), value) if line.residual else value)
    for copy in writing.tail:
        draft.add(copy)
    for name, entry in writing.writes.items():
        tensor = draft.carry(name, prod(draft.arrays[entry.ref.name].shape))
        draft.add(plan.Write(tensor, entry.ref.name, texts=(f"{name}, for the lines below",)))
    draft.tensors["x_out"] = plan.Tensor("x_out", "rows", "f32", (1, prod(shape)))
    draft.add(plan.Write("x_out", out, texts=("the residual stream",)))


def _program(draft: Draft, line: Line, name: str, stored: Stored) -> plan.Program:
    used = {n for s in draft.steps for n in (*s.parts.reads, *s.parts.outs)}
    arrays = {n: a for n, a in draft.arrays.items() if n in used or a.memory == "state"}
    parts, at = [], 0
    for vector in (array for array in arrays.values() if array.memory == "vectors"):
        count = prod(vector.shape)
        parts.append((vector.name, at, count))
        at += -(-count // ALIGNED) * ALIGNED
    tensors = dict(draft.tensors)
    if parts:
        tensors["vectors"] = plan.Tensor("vectors", "vectors", "f32", (at,), parts=tuple(parts))
    chain = " >> ".join(i.cell for i in line.chain)
    title = f"{name}: {'residual ' if line.residual else ''}{chain}"
    constants = {n: v for n, v in draft.constants.items() if n in arrays}
    return plan.Program(name, title, 1, arrays, tensors, tuple(draft.steps), constants, stored)
