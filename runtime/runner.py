"""The C runner of a `cuda` or `rocm` artefact as a loaded library.

Input: an artefact's folder and manifest.  Output: its `libmodel.so`: the one it came with, or one that its Makefile
builds for this machine.  What was cut short or changed is never loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.files import read_file
from cdrmix.runtime.library import LIBRARY, build, shipped

NEWEST = "cdr_state_memory"
"""A library without this is of another version of the runner."""


def load(folder: Path, manifest: Mapping[str, Any]) -> ctypes.CDLL:
    """The artefact's library."""
    try:
        content = read_file(folder, manifest, LIBRARY)
    except ArtifactError as e:
        why = e.message
    else:
        with contextlib.suppress(OSError):
            found = shipped(content)
            if hasattr(found, NEWEST):
                return found
        why = f"{folder / LIBRARY} is of another kind of machine"
    try:
        return build(folder, manifest)
    except ArtifactError as e:
        raise ArtifactError(f"{why}, and another cannot be built: {e.message}", e.help) from e
    except OSError as e:
        raise ArtifactError(f"{why}, and what was built cannot be loaded: {e}", "") from e
