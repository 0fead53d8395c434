"""The runner that an artefact takes along: its C sources, and the library and program built from them.

Input: nothing.  Output: `runner/*.c`, `runner/*.h`, a Makefile, `libmodel.so` and `cdrmix-run`, built here so that the
machine with the GPU needs no compiler.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.resources import files as resources
from pathlib import Path

from cdrmix.diagnose import Need, UserError, need_compiler

SHARED = (
    "checksum", "errors", "json", "listed", "main", "options", "output", "sample", "saved", "stop", "tokenizer",
    "tokenizer_file", "utf8", "weights",
)  # fmt: skip
"""The sources that the runner shares with the cpu target."""

BUILT = ("libmodel.so", "cdrmix-run")


def missing() -> list[Need]:
    """What the runner is built with."""
    why = "it builds the artefact's runner"
    make = [] if shutil.which("make") else [Need("make", why, "apt-get install make")]
    return make + need_compiler("CC", ("cc",), "a C compiler", why, "gcc")


@cache
def files() -> dict[str, bytes]:
    """Every file of the runner by name."""
    found = sources() | {"Makefile": resources("cdrmix.runtime.gpu").joinpath("artefact.mk").read_bytes()}
    with tempfile.TemporaryDirectory(prefix="cdrmix-runner-") as name:
        folder = Path(name)
        for path, content in found.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)
        done = subprocess.run(["make", "-s", "-C", name, "all"], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"the runner cannot be built:\n{done.stderr.strip()[-2000:]}", "install gcc, or set CC")
        return found | {built: (folder / built).read_bytes() for built in BUILT}


def sources() -> dict[str, bytes]:
    """The sources, and the headers that they include; a header of the GPU's comes before one of the same name."""
    own, shared = resources("cdrmix.runtime.gpu"), resources("cdrmix.runtime.c")
    waiting = [f.name for f in own.iterdir() if f.name.endswith(".c")] + [f"{name}.c" for name in SHARED]
    found: dict[str, bytes] = {}
    while waiting:
        name = waiting.pop()
        if f"runner/{name}" not in found:
            at = own.joinpath(name)
            content = (at if at.is_file() else shared.joinpath(name)).read_bytes()
            found[f"runner/{name}"] = content
            waiting += re.findall(r'^#include "([^"]+)"', content.decode(), re.MULTILINE)
    return dict(sorted(found.items()))
