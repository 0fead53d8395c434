"""The C backend: the `cpu` target.  See `program.py` for its files."""

from __future__ import annotations

import shutil

from cdrmix.diagnose import Need, command, need_compiler
from cdrmix.ir.backend import Backend, Late, Option


def needs(target: str) -> list[Need]:
    """What runs the artefact's Makefile on this machine; compiling a spec to C needs nothing."""
    why = "it builds the artefact's program"
    make = [] if shutil.which("make") else [Need("make", why, "apt-get install make")]
    return make + need_compiler("CC", ("cc",), "a C compiler", why, "gcc")


def tools(target: str) -> list[str]:
    """What builds the artefact's program here, in words."""
    return [f"its program by {' '.join(command('CC', 'cc'))}"]


BACKEND = Backend(
    targets={"cpu": "one C file"},
    ops=Late("cdrmix.codegen.c.rules", "OPS").found,
    emit=Late("cdrmix.codegen.c.program", "emit"),
    engine="cdrmix.runtime.native",
    options=(Option("triple", "text", None, "TRIPLE", "the machine that `make` builds for: aarch64-linux-gnu …"),),
    require=Late("cdrmix.codegen.c.triples", "require"),
    encodings=frozenset({"f32", "f16", "bf16", "i8", "i8g32", "i4"}),  # those of runtime/c/encodings.h, and f32
    rounds=frozenset({"i8", "i8g32", "i4"}),
    tolerances={"bf16": 2e-2, "i8": 4e-2, "i8g32": 4e-2, "i4": 4e-2},  # their kernels round the vectors of products too
    needs=needs,
    tools=tools,
)
