"""The PyTorch backend: the `torch` target, whose module also trains.  See `module.py` for its files."""

from __future__ import annotations

from cdrmix.diagnose import command
from cdrmix.ir.backend import Backend, Late
from cdrmix.ir.layout import ENCODING_NAMES
from cdrmix.ir.types import NARROW


def tools(target: str) -> list[str]:
    """What the scans run by here, in words."""
    if found := command("CXX", "c++", "g++", "clang++"):
        return [f"scans in C++ by {' '.join(found)}"]
    return ["scans in torch, as there is no C++ compiler (apt-get install g++)"]


BACKEND = Backend(
    targets={"torch": "a module that also trains"},
    ops=Late("cdrmix.codegen.torch.spelling", "OPS").found,
    emit=Late("cdrmix.codegen.torch.module", "emit"),
    engine="cdrmix.runtime.torch.engine",
    trains=True,
    work=frozenset({"f32", *NARROW}),
    encodings=ENCODING_NAMES,  # what opens the artefact widens them
    tools=tools,
)
