"""Emission of the program: one readable module of tinygrad, beside the runtime it imports.

Input: an `ir.forms.Program` (its sequence forms).
Output: `emit_program`: the files of the artefact's `source/`; `schedule`: its units and calls in the manifest's form.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from cdrmix.ir import python as escape
from cdrmix.ir.array_statements import Traits
from cdrmix.ir.code import Assign, Code, call, called, mapped, name, written
from cdrmix.ir.forms import Program
from cdrmix.ir.nodes import Model

from .cells import emit_cell
from .spelling import FUNCTIONS
from .stack import CallText, Stack, choices, emit_stack, schedule_of

TEMPLATE = "program.py.j2"
TRAITS = Traits(frozenset({"sequence"}), fuses=True, by_weight=True, moments=True)
FOLDER = "cdrmix_tinygrad"
IMPORTED = frozenset(
    {
        *FUNCTIONS, "attend", "beside", "chunk_scan", "constant", "coupled_scan", "delay", "floor_divide",
        "heads", "joined", "last", "linear_scan", "max_plus_scan", "mean", "mean_square", "mix", "moments", "places",
        "remainder", "remember", "shift", "take", "there", "tokens", "top", "view", "windows", "whole_power",
        "within_a_turn",
    }
)  # fmt: skip
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
    cells = [emit_cell(made, functions, taken, model.sources) for made in program.array_form(TRAITS).values()]
    used = set().union(*(called(c.body) for c in cells), *(called(u.body) for u in stack.units))
    imports = _ALWAYS | (IMPORTED & used)
    if model.vocab:
        imports |= {"choices"}
    return {
        "doc": escape.doc(f"{model.name}\n\n{model.doc}".strip()),
        "imports": sorted(imports),
        "hash": escape.text(program.hash),
        "cells": cells,
        "units": [_unit_keys(u) for u in stack.units],
        "calls": [line for c in stack.calls for line in _in_list(_call(c))],
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
        "lines": written(u.body, 4),
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


def _texts(found: dict[str, str]) -> Code:
    return mapped({escape.text(a): name(escape.text(b)) for a, b in found.items()})


def _call(c: CallText) -> Code:
    last = {"last_only": name("True")} if c.last_only else {}
    return call("Call", escape.text(c.unit), escape.text(c.path), _texts(c.weights), _texts(c.states), **last)


def _in_list(made: Code) -> list[str]:
    """The lines of an entry of a list."""
    *lines, last = written([Assign((), made)], 4)
    return [*lines, f"{last},"]


def _slot_lines(stack: Stack) -> list[str]:
    lines = []
    for s in stack.slots:
        start = escape.text(s.start) if isinstance(s.start, str) else repr(s.start)
        lines.append(f"{escape.text(s.path)}: Slot({s.shape}, {escape.text(s.kind)}, {start}),")
    return lines
