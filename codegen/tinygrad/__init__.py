"""The tinygrad backend: the `cuda` and `rocm` targets.

A program is emitted as readable tinygrad (`program.py`), captured and compiled ahead of time with no device at hand
(`artefact.py`), and verified on the CPU of the machine (`host.py`).
"""

from __future__ import annotations

from functools import partial

from cdrmix.ir.backend import Backend, Late, Option

_late = partial(Late, "cdrmix.codegen.tinygrad.artefact")


BACKEND = Backend(
    targets={"cuda": "kernels and a C runner", "rocm": "kernels and a C runner"},
    ops=Late("cdrmix.codegen.tinygrad.spelling", "OPS").found,
    emit=_late("emit"),
    engine="cdrmix.runtime.device",
    options=(
        Option("arch", "texts", None, "A,B", "GPUs: sm_90,gfx942 … (default: all known)"),
        Option("batch", "counts", (1, 8), "N,N", "sessions stepped at once, on GPUs"),
        Option("block", "counts", (64, 8), "N,N", "sizes of a prompt's blocks, on GPUs"),
    ),
    encodings=frozenset({"f32", "f16", "bf16", "i8"}),
    starts=True,
    require=_late("require"),
    needs=_late("needs"),
    tools=_late("tools"),
    execute=Late("cdrmix.codegen.tinygrad.host", "execute"),
)
