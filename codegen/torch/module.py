"""The files of a `torch` artefact: a program as one readable module, `model.py`, beside the scans it imports.

Input: an `ir.forms.Program`.
Output: `model.py`, and the scans as the package `cdrmix_scans`.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from cdrmix.diagnose import CompileError, Diagnostic
from cdrmix.ir import layout
from cdrmix.ir import python as escape
from cdrmix.ir.array_statements import Traits
from cdrmix.ir.backend import Files, Options, fill
from cdrmix.ir.forms import Program
from cdrmix.ir.nodes import Model
from cdrmix.ir.types import NARROW

from .cells import emit_cell
from .names import MODULE_NAMES, class_name
from .stack import emit_stack

TEMPLATE = "model.py.j2"
TRAITS = Traits(frozenset({"sequence", "step", "rows", "init"}), gradients=True, short_windows=True, resets=True)
_ALWAYS = frozenset({"Cell", "State", "Stream", "Streaming", "Sums"})
_ELSEWHERE = frozenset({"load.py", "engine.py"})  # they open artefacts; inside one they have no use
_SHARED = ("cache.py", "compilers.py", "encodings.py", "errors.py", "parts.py")
"""What the scans need of the runtime, and what reads the weights."""


def emit(program: Program, target: str, options: Options) -> Files:
    """All files by name."""
    return {**runtime_files(), "model.py": module_text(program)}


def module_text(program: Program) -> str:
    """The generated module."""
    return fill("cdrmix.codegen.torch", TEMPLATE, template_keys(program))


def runtime_files() -> dict[str, bytes]:
    """The scans, as the package beside `model.py`, with what of the runtime they need."""
    folder = files("cdrmix.runtime.torch")
    kept = {f.name: f for f in folder.iterdir() if f.name.endswith((".py", ".cpp", ".h")) and f.name not in _ELSEWHERE}
    kept |= {f"gpu/{f.name}": f for f in folder.joinpath("gpu").iterdir() if f.name.endswith(".py")}
    kept |= {name: files("cdrmix.runtime").joinpath(name) for name in _SHARED}
    return {f"cdrmix_scans/{name}": kept[name].read_bytes() for name in sorted(kept)}


def template_keys(program: Program) -> dict[str, Any]:
    """Everything the skeleton is filled with."""
    model = program.model
    check(model)
    names = escape.Names({*MODULE_NAMES, *_ALWAYS, "Routes"})
    classes = {name: names.fresh(class_name(cell.op)) for name, cell in model.cells.items()}
    mixed = model.work in NARROW
    emitted = [emit_cell(made, classes, model.sources, mixed) for made in program.array_form(TRAITS).values()]
    stack = emit_stack(model, classes, names)
    imports = _ALWAYS.union(*(c.imports for c in emitted))
    first = model.cells[model.lines[0].chain[0].cell]
    many = len(first.inputs) > 1
    ties = ", ".join(f"{escape.text(a)}: {escape.text(b)}" for a, b in stack.ties.items())
    return {
        "doc": [*escape.doc(f"{model.name}\n\n{model.doc}".strip()), ""],
        "imports": sorted(imports),
        "hash": escape.text(program.hash),
        "cells": emitted,
        "blocks": stack.blocks.values(),
        "paths": [f"({escape.text(a)}, {escape.text(b)})" for a, b in stack.paths],
        "ties": f"{{{ties}}}" if ties else "",
        "given": "tuple[Tensor, ...]" if many else "Tensor",
        "leading": "tokens[0]" if many else "tokens",
        "fields": stack.fields,
        "forward": stack.forward,
        "last": stack.last,
        "first_cells": stack.cells_of(model.lines[0]),
        "last_cells": stack.cells_of(model.lines[-1]),
        "step": stack.step,
    }


def check(model: Model) -> None:
    """Refuse what the module has no form for."""
    for place in layout.places(model):
        if place.banks and place.cell.training:
            t = place.cell.training[0]
            raise CompileError([Diagnostic("E0905", t.span, f"`{t.name}` is a training value inside a bank",
                                           "measure it in the op that holds the bank")])  # fmt: skip
        if place.path != place.instance.path and place.cell.carries:
            c = place.cell.carries[0]
            raise CompileError([Diagnostic("E0903", c.span, f"carry `{c.name}` is of an op that is a part of another",
                                           "let the op be in a line of the stack, in a chain perhaps")])  # fmt: skip
