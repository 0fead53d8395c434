"""The tinygrad backend: the `cuda` and `rocm` targets.

A program is emitted as readable tinygrad (`program.py`), captured and compiled ahead of time with no device at hand
(`compile.py`), and put with its runner into an artefact (`artefact.py`).
"""

from __future__ import annotations

from .artefact import OPTIONS, STARTS, STORED, emit, execute, needs, require, tools
from .expressions import OPS
from .program import emit_program, schedule

__all__ = [
    "OPS",
    "OPTIONS",
    "STARTS",
    "STORED",
    "emit",
    "emit_program",
    "execute",
    "needs",
    "require",
    "runtime_files",
    "schedule",
    "tools",
]


def runtime_files() -> dict[str, bytes]:
    """All files depend on what is asked for: `emit` gives them."""
    return {}
