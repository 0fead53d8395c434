"""The compiler that an environment variable chooses, and the processor it builds for.

Input: the variable (CC, CXX) and the usual names.  Output: the command as words.  The variable may hold options and a
wrapper (`ccache gcc -m64`), as `make` lets it; one that is empty counts as not set, as in every Makefile here.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
from pathlib import Path


def command(variable: str, *names: str) -> tuple[str, ...]:
    """The words of the variable, or the first name that is there; empty where there is no such program."""
    given = os.environ.get(variable, "").strip()
    if not given:
        return next(((name,) for name in names if shutil.which(name)), ())
    try:
        words = tuple(shlex.split(given))
    except ValueError:  # a quotation mark that is never closed
        return ()
    return words if shutil.which(words[0]) else ()


def processor() -> str:
    """The machine and its instruction sets, which `-march=native` builds for: a cache on a shared home folder may be
    seen by different ones."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join([platform.machine(), *sorted({x for x in lines if x.partition(":")[0].strip() in kinds})])
