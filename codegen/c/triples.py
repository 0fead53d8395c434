"""The machine that an artefact is for: `--triple`.

Input: a triple as Zig and Debian write them, processor, system and library: aarch64-linux-gnu.  Output: the Makefile
that knows it, and what else its system needs.  The sources are the same for every machine.
"""

from __future__ import annotations

import re
from importlib.resources import files

from cdrmix.diagnose import UserError
from cdrmix.ir.backend import Options

SYSTEMS = ("linux", "macos", "windows", "wasi")
_TRIPLE = re.compile(rf"[a-z0-9_]+-({'|'.join(SYSTEMS)})(-[a-z0-9]+)?")


def require(target: str, options: Options) -> None:
    """Refuse what is no triple, and systems of another kind."""
    triple = options.get("triple")
    if triple and not _TRIPLE.fullmatch(triple):
        raise UserError(
            f"--triple {triple}: no processor, system and library of {', '.join(SYSTEMS)}",
            "give one such as aarch64-linux-gnu, riscv64-linux-gnu, wasm32-wasi, x86_64-windows-gnu or aarch64-macos",
        )


def own_files(triple: str | None) -> dict[str, str]:
    """What an artefact for this machine has besides: for a browser a page, and the script around its library."""
    names = ("index.html", "cdrmix.mjs") if triple and "wasi" in triple else ()
    return {name: files("cdrmix.runtime.c").joinpath(name).read_text(encoding="utf-8") for name in names}


def makefile(triple: str | None) -> str:
    """The Makefile of an artefact for this machine; without a triple, for the one it is built on."""
    text = files("cdrmix.runtime.c").joinpath("artefact.mk").read_text(encoding="utf-8")
    return f"TRIPLE ?= {triple}\n{text}" if triple else text
