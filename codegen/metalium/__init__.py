"""The Metalium backend: the `tenstorrent` target.

A program is planned (`plan.py`: what lies where, and what every core does), its kernels are written in TT-Metalium C++,
and a host program over ttnn launches them (`runtime/metalium/host.py`).
"""

from __future__ import annotations

from .artefact import (
    OPS,
    OPTIONS,
    STARTS,
    STORED,
    TOLERANCES,
    arrange,
    device,
    emit,
    execute,
    needs,
    others,
    require,
    runtime_files,
    tools,
)
from .cost.budget import inspect

__all__ = [
    "OPS",
    "OPTIONS",
    "STARTS",
    "STORED",
    "TOLERANCES",
    "arrange",
    "device",
    "emit",
    "execute",
    "inspect",
    "needs",
    "others",
    "require",
    "runtime_files",
    "tools",
]
