"""The Metalium backend: the `tenstorrent` target.

A program is planned (`plan.py`: what lies where, and what every core does), its kernels are written in TT-Metalium C++,
and a host program over ttnn launches them (`runtime/metalium/host.py`).
"""

from __future__ import annotations

from functools import partial

from cdrmix.ir.backend import Backend, Late, Option

_late = partial(Late, "cdrmix.codegen.metalium.artefact")


BACKEND = Backend(
    targets={"tenstorrent": "kernels and a ttnn host"},
    ops=Late("cdrmix.codegen.metalium.artefact", "OPS").found,
    emit=_late("emit"),
    engine="cdrmix.runtime.metalium.engine",
    options=(
        Option("device", "text", "n150", "CARD", "the Tenstorrent card: n150 or p150"),
        Option("cores", "count", None, "N", "how many of its cores a line of the stack may use"),
    ),
    encodings=frozenset({"f32", "bf16"}),
    starts=True,
    arrange=Late("cdrmix.codegen.metalium.tiles", "arrange"),
    tolerances={"f32": 1e-3, "bf16": 2e-2},  # what the matrix unit's arithmetic promises
    require=_late("require"),
    needs=_late("needs"),
    tools=_late("tools"),
    device=_late("device"),
    inspect=Late("cdrmix.codegen.metalium.cost.budget", "inspect"),
    execute=Late("cdrmix.codegen.metalium.verification", "execute"),
    others=Late("cdrmix.codegen.metalium.verification", "others"),
)
