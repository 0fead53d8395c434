"""The files of a `cpu` artefact: one C99 file and its header, and a program around them.

Input: a `Program` (its step forms).  Output: `model.c` and `model.h`, whole by themselves, and what is the same for
every model: the tokenizer, the program that streams text and its Makefile.
"""

from __future__ import annotations

from importlib.resources import files
from math import prod

from cdrmix.codegen.c import stack, structs
from cdrmix.codegen.c.amalgam import join
from cdrmix.codegen.c.cell import CellWriter, start_function
from cdrmix.codegen.c.names import Scope, comment, string
from cdrmix.codegen.c.structs import Shape
from jinja2 import Environment, StrictUndefined
from jinja2.loaders import FunctionLoader

from cdrmix.ir.backend import Files, Options
from cdrmix.ir.forms import Program
from cdrmix.ir.nodes import Model

PUBLIC = {
    "model.h": ("model.h", "errors.h"),
    "tokenizer.h": ("tokenizer.h", "errors.h", "utf8.h", "sample.h", "stop.h"),
}
"""The headers of an artefact, and the headers each is made of."""

ENGINE = ("model.c", "weights.c", "listed.c", "checksum.c", "saved.c", "output.c", "json.c", "errors.c")
TEXT = ("tokenizer.c", "tokenizer_file.c", "utf8.c", "sample.c", "stop.c")


def runtime_files() -> dict[str, bytes]:
    """The tokenizer, the program that streams, and the Makefile."""
    texts = _sources()
    found = {
        "tokenizer.h": join(PUBLIC["tokenizer.h"], texts),
        "tokenizer.c": join(TEXT, texts, PUBLIC),
        "main.c": join(("options.c", "main.c"), texts, PUBLIC),
        "Makefile": files("cdrmix.runtime.c").joinpath("artefact.mk").read_text(encoding="utf-8"),
    }
    return {name: text.encode() for name, text in found.items()}


def _sources() -> dict[str, str]:
    folder = files("cdrmix.runtime.c")
    return {f.name: f.read_text(encoding="utf-8") for f in folder.iterdir() if f.name.endswith((".c", ".h"))}


def emit(program: Program, target: str, options: Options) -> Files:
    """All files by name."""
    texts = _sources() | generated(program)
    model = {"model.c": join(ENGINE, texts, PUBLIC), "model.h": join(PUBLIC["model.h"], texts)}
    return {**runtime_files(), **model}


def generated(program: Program) -> dict[str, str]:
    """What is generated of `model.c` and `model.h`; the rest of them is the same for every model."""
    model = program.model
    shapes: dict[str, Shape] = {}
    carries = stack.carry_members(model)
    names = Scope({"cdr_carries", "cdr_buffer", "run", "check", "calls", "tensors", "pointers", "sizes", "slots"})
    cells = _cells(program, shapes, names, {name: member for name, (member, _) in carries.items()})
    found = stack.calls(model)
    order = list(dict.fromkeys(c.cell for c in found))
    slots = stack.slot_rows(model, found, shapes)
    first = model.cells[found[0].cell]
    inputs = 0 if model.vocab else sum(prod(a.size for a in i.axes) for i in first.inputs)
    both = {
        "title": comment(f"{model.name}, compiled by CDRmix"),
        "by_token": model.vocab > 0,
        "inputs": inputs,
    }
    header = {
        "doc": comment(model.doc),
        "name": string(model.name),
        "vocab": model.vocab,
        "outputs": found[-1].size,
    }
    encoded = any(p.stored != "f32" for cell in model.cells.values() for p in cell.params)
    source = {
        "headers": ["errors.h", *["encodings.h"] * encoded, "kernels.h", "listed.h", "saved.h", "weights.h"],
        "identity": "{" + ", ".join(map(str, stack.model_hash(program.hash))) + "}",
        "tensor_count": len(stack.tensors(model)),
        "pointer_count": len(stack.pointers(model)),
        "pointed": "void" if encoded else "float",
        "call_count": len(found),
        "state_calls": stack.needed_for_state(found),
        "slot_count": len(slots),
        "outputs": found[-1].size,
        "carries": [f"float {member}[{structs.padded(n)}];" for member, n in carries.values()] or [_NOTHING],
        "cells": cells,
        "states": stack.state_members(found, shapes) or [_NOTHING],
        "line_size": stack.line_size(model, found),
        "scratch": stack.scratch_members(found, shapes) or [_NOTHING],
        "calls": stack.call_rows(found, shapes, order),
        "sizes": stack.size_rows(model),
        "tensors": stack.tensor_rows(model),
        "pointers": stack.pointer_rows(model),
        "slots": slots,
        "cases": list(stack.cases(model, shapes, order)),
        "start_cases": list(stack.start_cases(shapes, order)),
    }
    return {"model.c": _render("model.c.j2", both | source), "model.h": _render("model.h.j2", both | header)}


_NOTHING = "float nothing[16];"


def _cells(program: Program, shapes: dict[str, Shape], names: Scope, carries: dict[str, str]) -> str:
    model, lines = program.model, list[str]()
    in_banks = structs.in_banks(model.cells)
    for name in reachable(model):
        cell = model.cells[name]
        form = program.step[name]
        shape = shapes[name] = structs.shape_of(cell, form.body, names, shapes)
        written = CellWriter(shape, form, shapes, carries, names).write()
        lines += written.structs
        if name in in_banks and shape.weights:
            lines += [*structs.advance(shape, shapes), ""]
        lines += [*written.functions, *start_function(shape, shapes)]
    return "\n".join(lines)


def reachable(model: Model) -> list[str]:
    """The cells that the stack uses, callees before their callers."""
    found: dict[str, None] = {}

    def add(name: str) -> None:
        for part in model.cells[name].parts:
            add(part.cell)
        found.setdefault(name)

    for line in model.lines:
        for instance in line.chain:
            add(instance.cell)
    return list(found)


def _render(template: str, keys: dict[str, object]) -> str:
    folder = files("cdrmix.codegen.c")
    loader = FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8"))
    environment = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.get_template(template).render(keys)
