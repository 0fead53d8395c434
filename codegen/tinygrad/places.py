"""Where the tools of other makers lie on a machine: Python's packages, CUDA toolkits, the system's libraries."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

GPU_EXTRA = "pip install 'cdrmix[gpu]'"
"""What installs all that can come from PyPI."""


def first(given: str | None, *places: Iterable[Path]) -> Path | None:
    """The file the user's setting names, or the first of the places (of several versions the newest)."""
    if given and Path(given).is_file():
        return Path(given)
    for place in places:
        if found := sorted((p for p in place if p.is_file() and "builtins" not in p.name), reverse=True):
            return found[0]
    return None


def in_wheels(pattern: str) -> Iterator[Path]:
    """In NVIDIA's packages for Python."""
    for folder in sys.path:
        yield from (Path(folder) / "nvidia").glob(pattern)


def in_toolkits(pattern: str) -> Iterator[Path]:
    """In CUDA toolkits."""
    for folder in (os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda", "/opt/cuda"):
        if folder:
            yield from Path(folder).glob(pattern)


def in_system(pattern: str) -> Iterator[Path]:
    """Among the system's libraries."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or "lib64"
    for folder in (f"/usr/lib/{multiarch}", "/usr/lib64", "/usr/lib", "/usr/local/lib"):
        yield from Path(folder).glob(pattern)
