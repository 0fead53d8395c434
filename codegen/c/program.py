"""The files of a `cpu` artefact: one C99 file and its header, and a program around them.

Input: a `Program` (its step forms).  Output: `model.c` and `model.h`, whole by themselves, and what is the same for
every model: the tokenizer, the program that streams text and its Makefile.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from importlib.resources import files
from math import prod

from cdrmix.codegen.c import stack, structs, triples
from cdrmix.codegen.c.cell import CellWriter
from cdrmix.codegen.c.names import Scope, comment, string
from cdrmix.codegen.c.structs import Shape

from cdrmix.ir.backend import Files, Options, fill
from cdrmix.ir.forms import Program

PUBLIC = {
    "model.h": ("model.h", "errors.h"),
    "tokenizer.h": ("tokenizer.h", "errors.h", "utf8.h", "sample.h", "stop.h"),
}
"""The headers of an artefact, and the headers each is made of."""

ENGINE = ("model.c", "batch.c", "weights.c", "listed.c", "checksum.c", "saved.c", "output.c", "output_plain.c",
          "json.c", "errors.c")  # fmt: skip
KERNELS = ("workers.c", "matrix.c", "matrix_plain.c", "matrix_avx2.c", "matrix_avx512.c", "matrix_neon.c",
           "matrix_wasm.c")  # fmt: skip
TEXT = ("tokenizer.c", "tokenizer_file.c", "utf8.c", "sample.c", "stop.c")
_NAMES = ("cdr_carries", "cdr_block", "cdr_one_of", "cdr_workers_for", "cdr_stream", "cdr_temporary", "cdr_buffer",
          "run", "read_block", "check", "calls", "tensors", "packings", "pointers", "sizes", "slots")  # fmt: skip
"""What model.c.j2 names."""
_OWN = re.compile(r'^#include "([^"]+)"[ \t]*\n', re.MULTILINE)


def runtime_files(triple: str | None = None) -> dict[str, bytes]:
    """The tokenizer, the program that streams, and the Makefile, which builds them for a machine."""
    texts = _sources()
    found = {
        "tokenizer.h": join(PUBLIC["tokenizer.h"], texts),
        "tokenizer.c": join(TEXT, texts, PUBLIC),
        "main.c": join(("options.c", "main.c"), texts, PUBLIC),
        "Makefile": triples.makefile(triple),
    }
    return {name: text.encode() for name, text in found.items()}


def join(names: Sequence[str], texts: Mapping[str, str], public: Mapping[str, Collection[str]] | None = None) -> str:
    """The files `names` after one another, every header of ours written in where it is first included.

    `public` holds, by public header, the headers inside it: such a one stays a file of its own, and what it holds is
    not written again.
    """
    public = public or {}
    seen = {inner for inside in public.values() for inner in inside} - set(public)

    def include(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return ""
        if name in public:
            seen.add(name)
            return match[0]
        return text(name)

    def text(name: str) -> str:
        seen.add(name)
        return _OWN.sub(include, texts[name])

    return "\n".join(text(name) for name in names if name not in seen)


def _sources() -> dict[str, str]:
    folder = files("cdrmix.runtime.c")
    return {f.name: f.read_text(encoding="utf-8") for f in folder.iterdir() if f.name.endswith((".c", ".h"))}


def emit(program: Program, target: str, options: Options) -> Files:
    """All files by name."""
    of_model, blocks = generated(program)
    texts = _sources() | of_model
    model = {"model.c": join((*ENGINE, *KERNELS), texts, PUBLIC), "model.h": join(PUBLIC["model.h"], texts)}
    triple = options.get("triple")
    own = ({"triple": triple} if triple else {}) | ({"blocks": sorted(blocks)} if blocks else {})
    known = {"manifest.json": json.dumps(own)} if own else {}
    around = runtime_files(triple)
    around["Makefile"] = f"NAME := {program.model.name}\n".encode() + around["Makefile"]
    return {**around, **triples.own_files(triple), **model, **known}


def generated(program: Program) -> tuple[dict[str, str], set[str]]:
    """What is generated of `model.c` and `model.h`, whose rest is the same for every model; and the planes of the
    weights that lie in blocks of rows (`runtime.encodings`)."""
    model = program.model
    shapes: dict[str, Shape] = {}
    carries = stack.carry_members(model)
    names = Scope(_NAMES)
    cells = _cells(program, shapes, names, {name: member for name, (member, _) in carries.items()})
    found, tensors, packed = stack.calls(model, shapes), stack.tensors(model), stack.packings(model, shapes)
    pointers, packings = stack.pointers(model, shapes, packed), stack.packing_rows(model, packed)
    blocks = stack.blocks(model, shapes)
    tensor_rows, sizes = stack.tensor_rows(tensors, blocks)
    order, keeping = list(dict.fromkeys(c.cell for c in found)), [c for c in found if c.state]
    of_state = found[: found.index(keeping[-1]) + 1] if keeping else []  # the others only make logits, of one token
    last = found[-1]
    in_line = last.add >= 0 or last.state is not None  # else the last call makes logits where they are wanted
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
        "outputs": last.size,
    }
    encodings = dict.fromkeys(p.encoding for p in packed)
    encoded = any(p.stored != "f32" for cell in model.cells.values() for p in cell.params)
    headers = [
        "errors",
        *["encodings"] * encoded,
        "kernels",
        "listed",
        "matrix",
        "saved",
        "streams",
        "weights",
        "workers",
    ]
    source = {
        "headers": [f"{name}.h" for name in headers],
        "identity": "{" + ", ".join(map(str, bytes.fromhex(program.hash) or bytes(32))) + "}",
        "tensor_count": len(tensors),
        "pointer_count": len(pointers),
        "packing_count": len(packings),
        "packings": packings,
        "packed_as": " | ".join(f"1 << {structs.as_packed(e)}" for e in encodings) or "0",
        "block": BLOCK,
        "kept": ", ".join(map(str, stack.kept(of_state))),
        "final": last.made,
        "logits_size": structs.padded(last.size),
        "final_in_line": in_line,
        "pointed": "void" if encoded or packings else "float",
        "call_count": len(found),
        "state_calls": len(of_state),
        "slot_count": len(slots),
        "outputs": last.size,
        "carries": [f"float {member}[{structs.padded(n)}];" for member, n in carries.values()] or [_NOTHING],
        "cells": cells,
        "states": [f"{shapes[c.cell].state} {c.state}; /* {comment(c.path)} */" for c in keeping] or [_NOTHING],
        "line_size": structs.padded(max([1, inputs, *(BLOCK * c.size for c in (found if in_line else found[:-1]))])),
        "scratch": sorted({f"{s} {s};" for c in found if (s := shapes[c.cell].scratch)}) or [_NOTHING],
        "calls": stack.call_rows(found, shapes, order),
        "sizes": sizes,
        "tensors": tensor_rows,
        "pointers": [f"{', '.join(map(str, pointers[at : at + 16]))}," for at in range(0, len(pointers), 16)],
        "slots": slots,
        "cases": list(stack.cases(model, shapes, order)),
        "start_cases": list(stack.start_cases(shapes, order)),
    }
    files = {"model.c": both | source, "model.h": both | header}
    return {name: fill("cdrmix.codegen.c", f"{name}.j2", keys) for name, keys in files.items()}, blocks


BLOCK = 48
"""Tokens of a prompt that are read at once: a few tiles of the kernels, whose values stay in the caches."""

_NOTHING = "float nothing[16];"


def _cells(program: Program, shapes: dict[str, Shape], names: Scope, carries: dict[str, str]) -> str:
    model, lines = program.model, list[str]()
    in_banks = structs.in_banks(model.cells)
    for name, cell in model.cells.items():
        form = program.step[name]
        shape = shapes[name] = structs.shape_of(cell, names, shapes)
        types, function = CellWriter(shape, form, shapes, carries, names).write()
        of_instance = structs.advance(shape, shapes) if name in in_banks and shape.weights else []
        lines += [*types, *of_instance, *function, *structs.start_function(shape, shapes)]
    return "\n".join(lines)
