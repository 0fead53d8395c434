"""Emission of the program: one readable module of tinygrad, beside the runtime it imports.

Input: an `ir.forms.Program` (its sequence forms).
Output: `emit_program`: the files of the artefact's `source/`; `schedule`: its units and calls in the manifest's form.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from cdrmix.ir import python as escape
from cdrmix.ir.array_statements import CellArrays, Traits
from cdrmix.ir.backend import fill
from cdrmix.ir.code import Assign, call, called, flat, item, mapped, name, named, written
from cdrmix.ir.forms import Program
from cdrmix.ir.nodes import Model
from cdrmix.ir.writing import Written

from .spelling import FUNCTIONS, Tinygrad, quoted
from .stack import CallText, Shaped, emit_stack, schedule_of
from .statements import Function

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
    found = {"program.py": fill("cdrmix.codegen.tinygrad", TEMPLATE, template_keys(program))}
    folder = files("cdrmix.runtime.tinygrad")
    for f in sorted(folder.iterdir(), key=lambda f: f.name):
        if f.name.endswith(".py"):
            found[f"{FOLDER}/{f.name}"] = f.read_text(encoding="utf-8")
    found[f"{FOLDER}/encodings.py"] = files("cdrmix.runtime").joinpath("encodings.py").read_text(encoding="utf-8")
    return found


def schedule(program: Program) -> dict[str, Any]:
    """Units and calls; what is compiled for which batch and block is the caller's to add."""
    return schedule_of(emit_stack(program, _functions(program.model)), program.model.vocab)


def template_keys(program: Program) -> dict[str, Any]:
    """Everything the skeleton is filled with."""
    model = program.model
    names = _functions(model)
    units, calls, slots = emit_stack(program, names)
    functions = [_cell(made, names, model.sources) for made in program.array_form(TRAITS).values()]
    functions += [u.function for u in units]
    used = set().union(*(called(f.body) for f in functions))
    imports = _ALWAYS | (IMPORTED & used) | ({"choices"} if model.vocab else set())
    return {
        "doc": escape.doc(f"{model.name}\n\n{model.doc}".strip()),
        "imports": sorted(imports),
        "hash": escape.text(program.hash),
        "functions": functions,
        "units": units,
        "calls": [line for c in calls for line in _call(c)],
        "slots": slots,
        "vocab": model.vocab,
        "text": escape.text,
        "shapes": _shapes,
    }


def _functions(model: Model) -> dict[str, str]:
    """The Python name of each cell."""
    names = escape.Names({*_MODULE, *_LOCAL, *_ALWAYS, *IMPORTED})
    return {name: names.fresh(name) for name in model.cells}


def _cell(made: CellArrays, functions: Mapping[str, str], sources: Mapping[str, str]) -> Written:
    """The function of a cell, over [B, T, …]."""
    cell, function = made.cell, made.sequence
    assert function is not None and function.result is not None
    spell = Tinygrad(escape.Names({*_MODULE, *_ALWAYS, *IMPORTED, "here", "b", "t", *functions.values()}))
    inputs = [spell.fresh(x) for x in function.inputs]
    above = [Assign((spell.fresh(local),), call("here.carry", quoted(carry))) for carry, local in function.above]
    body = [*above, *Function(function, spell, sources, functions=functions).body()]
    body += [Assign((), call("here.give", quoted(carry), spell.of(x))) for carry, x in function.gives]
    body.append(Assign((), spell.of(function.result), returns=True))
    if {"b", "t"} & named(body):
        first = flat(inputs[0]) if inputs else "here.pos"
        body.insert(0, Assign((name("b"), name("t")), item(name(f"{first}.shape"), ":2")))
    arguments = ", ".join(["here: Frame", *(f"{flat(n)}: Tensor" for n in inputs)])
    doc = tuple(escape.doc(f"op {cell.op} ({cell.span})\n\n{cell.doc}".strip()))
    return Written(f"def {functions[cell.name]}({arguments}) -> Tensor:", tuple(body), doc)


def _shapes(found: Shaped) -> str:
    return f"{{{', '.join(f'{escape.text(n)}: {shape}' for n, shape in found)}}}"


def _call(c: CallText) -> list[str]:
    """The lines of a call in their list."""
    tensors = (mapped({escape.text(a): name(escape.text(b)) for a, b in of.items()}) for of in (c.weights, c.states))
    last = {"last_only": name("True")} if c.last_only else {}
    made = call("Call", escape.text(c.unit.name), escape.text(c.path), *tensors, **last)
    *lines, end = written([Assign((), made)], 4)
    return [*lines, f"{end},"]
