"""Emission of the program: one readable module of tinygrad, beside the runtime it imports.

Input: an `ir.forms.Program` (its sequence forms).
Output: `emit_program`: the files of the artefact's `source/`; `schedule`: its units and calls in the manifest's form.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from cdrmix.ir import layout
from cdrmix.ir import python as escape
from cdrmix.ir.forms import Program
from cdrmix.ir.nodes import Model

from .cells import Function, emit_cell
from .stack import Stack, choices, emit_stack, schedule_of
from .statements import Cells
from .wrap import wrapped

TEMPLATE = "program.py.j2"
FOLDER = "cdrmix_tinygrad"
IMPORTED = frozenset(
    re.findall(
        r"\w+",
        """
        attend beside chunk_scan constant cos coupled_scan delay exp floor_divide heads joined last linear_scan
        logaddexp logsumexp max_plus_scan mean mean_square mix moments places remainder remember shift sigmoid silu sin
        softmax softplus take tanh there tokens top view windows whole_power within_a_turn
        """,
    )
)
"""What the functions of cells may import from the runtime."""

_ALWAYS = frozenset({"Call", "Frame", "Slot", "Unit", "advance"})
_MODULE = frozenset({"choices", "Tensor", "annotations", "UNITS", "CALLS", "SLOTS", "HASH"})
_LOCAL = frozenset({"here", "b", "t", "x", "y"})


def emit_program(program: Program) -> dict[str, str]:
    """The generated module and the runtime's files."""
    found = {"program.py": _template().render(**template_keys(program))}
    folder = files("cdrmix.runtime.tinygrad")
    for f in sorted(folder.iterdir(), key=lambda f: f.name):
        if f.name.endswith(".py"):
            found[f"{FOLDER}/{f.name}"] = f.read_text(encoding="utf-8")
    found[f"{FOLDER}/encodings.py"] = files("cdrmix.runtime").joinpath("encodings.py").read_text(encoding="utf-8")
    return found


def schedule(program: Program) -> dict[str, Any]:
    """Units and calls; what is compiled for which batch and block is the caller's to add."""
    found = schedule_of(emit_stack(program, _functions(program.model)))
    found["units"] |= choices(program.model.vocab)
    return found


def template_keys(program: Program) -> dict[str, Any]:
    """Everything the skeleton is filled with."""
    model = program.model
    functions = _functions(model)
    stack = emit_stack(program, functions)
    taken = frozenset({*_MODULE, *_ALWAYS, *IMPORTED, "here", "b", "t", *functions.values()})
    used = {id(place.cell) for place in layout.places(model)}
    cells = Cells(model.cells, functions)
    made: list[Function] = [
        emit_cell(cell, program.sequence[name].body, cells, taken, model.sources)
        for name, cell in model.cells.items()
        if id(cell) in used
    ]
    text = "\n".join(line for f in made for line in f.lines if not line.lstrip().startswith("#"))
    imports = _ALWAYS | {f for f in IMPORTED if re.search(rf"(?<![\w.\"]){f}\(", text)}
    if model.vocab:
        imports |= {"choices"}
    return {
        "doc": escape.doc(f"{model.name}\n\n{model.doc}".strip()),
        "imports": sorted(imports),
        "hash": escape.text(program.hash),
        "cells": made,
        "units": [_unit_keys(u) for u in stack.units],
        "calls": wrapped(
            f"Call({', '.join([escape.text(c.unit), escape.text(c.path), _texts(c.weights), _texts(c.states)])}"
            f"{', last_only=True' * c.last_only}),"
            for c in stack.calls
        ),
        "slots": _slot_lines(stack),
        "vocab": model.vocab,
    }


def _functions(model: Model) -> dict[str, str]:
    """The Python name of each cell."""
    names = escape.Names({*_MODULE, *_LOCAL, *_ALWAYS, *IMPORTED})
    return {name: names.fresh(name) for name in model.cells}


@cache
def _template() -> Any:
    text = files("cdrmix.codegen.tinygrad").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(text)


def _unit_keys(u: Any) -> dict[str, Any]:
    return {
        "name": escape.text(u.name),
        "function": u.function,
        "doc": u.doc,
        "lines": u.lines,
        "x": u.x,
        "x_dtype": escape.text(u.x_dtype),
        "out": u.out,
        "weights": [f"{escape.text(n)}: ({shape}, {escape.text(d)})," for n, (shape, d) in u.weights.items()],
        "states": [f"{escape.text(n)}: ({shape}, {escape.text(d)})," for n, (shape, d) in u.states.items()],
        "reads": _shapes(u.reads),
        "writes": _shapes(u.writes),
        "blocked": u.blocked,
    }


def _shapes(found: dict[str, tuple[int, ...]]) -> str:
    return f"{{{', '.join(f'{escape.text(n)}: {shape}' for n, shape in found.items())}}}"


def _texts(found: dict[str, str]) -> str:
    return f"{{{', '.join(f'{escape.text(a)}: {escape.text(b)}' for a, b in found.items())}}}"


def _slot_lines(stack: Stack) -> list[str]:
    lines = []
    for s in stack.slots:
        start = escape.text(s.start) if isinstance(s.start, str) else repr(s.start)
        lines.append(f"{escape.text(s.path)}: Slot({s.shape}, {escape.text(s.kind)}, {start}),")
    return lines
