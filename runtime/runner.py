"""The C runner of a `cuda` or `rocm` artefact as a loaded library.

Input: an artefact's folder and manifest.  Output: its `libmodel.so`: the one it came with, or one that its Makefile
builds here.  What was cut short or changed is never loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdrmix.runtime.checksum import file_checksum
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.native import LIBRARY, build

NEWEST = "cdr_state_latest"
"""A library without this is of another version of the runner."""

BUILT = f"{LIBRARY}.checksum"
"""Holds the checksum of a library that was built here."""


def load(folder: Path, manifest: Mapping[str, Any]) -> ctypes.CDLL:
    """The artefact's library."""
    files: Mapping[str, Any] = manifest.get("files", {})
    why = _unusable(folder, files)
    if not why:
        with contextlib.suppress(OSError):
            shipped = ctypes.CDLL(str((folder / LIBRARY).resolve()))
            if hasattr(shipped, NEWEST):
                return shipped
        why = "is of another kind of machine"
    try:
        return _built(folder, files)
    except ArtifactError as e:
        raise ArtifactError(f"{folder / LIBRARY} {why}, and another cannot be built: {e.message}", e.help) from e
    except OSError as e:
        raise ArtifactError(f"{folder / LIBRARY} {why}, and what was built cannot be loaded: {e}", "") from e


def _unusable(folder: Path, files: Mapping[str, Any]) -> str:
    """What is wrong with the library there, or nothing."""
    if not (folder / LIBRARY).is_file():
        return "is missing"
    known = {_listed(files, LIBRARY)}
    with contextlib.suppress(OSError):
        known.add((folder / BUILT).read_text().strip())
    return "" if {None} == known or file_checksum(folder / LIBRARY) in known else "was cut short or changed"


def _listed(files: Mapping[str, Any], name: str) -> str | None:
    entry = files.get(name)
    return str(entry["checksum"]) if isinstance(entry, dict) and "checksum" in entry else None


def _built(folder: Path, files: Mapping[str, Any]) -> ctypes.CDLL:
    for name in files:
        if name == "Makefile" or name.startswith("runner/"):
            path = folder / name
            if not path.is_file() or file_checksum(path) != _listed(files, name):
                raise ArtifactError(f"{path} is missing or was changed", "copy the artefact again")
    made = build(folder, source="runner", always=True)
    with contextlib.suppress(OSError):
        (folder / BUILT).write_text(file_checksum(made) + "\n")
    return ctypes.CDLL(str(made.resolve()))
