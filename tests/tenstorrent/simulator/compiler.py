#!/usr/bin/env python3
"""Stand-in for the device compiler `riscv-tt-elf-g++` (SFPI), made of Debian's gcc for RISC-V.

`environment.py` places a copy of this file where ttnn looks for its compiler, and beside it `<name>.json`: the folders
it needs. Input: the command line that ttnn's kernel builder writes. Output: the object or ELF file it asked for.

Three things differ from the real compiler. Its own options and processor names are dropped (-march=rv32im instead).
Link-time optimisation is off, so the wheel's bytecode objects are replaced by `subst.o`. And firmware is not compiled:
the wheel holds ready ELF files for every layout of memory banks, and linking one means copying it.
The SFPI vector types do not exist here: `sfpu/` holds raw-instruction versions of the functions that need them.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path

BYTECODE_OBJECTS = ("/substitutes.o", "/noc.o", "/tdma_xmov.o")
DROPPED = ("-ftt-", "-flto", "-Werror", "-Wno-error", "-mcpu=")
BANKS = ("NUM_DRAM_BANKS", "NUM_L1_BANKS")


def banks(arguments: list[str]) -> str:
    """The key of a firmware layout, "<dram>,<l1>", from -DNUM_DRAM_BANKS=… and -DNUM_L1_BANKS=…"""
    defined = dict(a[2:].split("=", 1) for a in arguments if a.startswith("-D") and "=" in a)
    return ",".join(defined[name] for name in BANKS)


def note_firmware(arguments: list[str], output: Path) -> None:
    """A firmware source is not compiled: its 'object' only remembers the bank counts for the link that follows."""
    output.write_text(banks(arguments))
    if "-MF" in arguments:
        Path(arguments[arguments.index("-MF") + 1]).write_text(f"{output}:\n")


def link_firmware(arguments: list[str], output: Path, settings: dict) -> None:
    """Copy the wheel's ELF file of the same processor and bank layout."""
    processor = re.search(r"/firmware/([a-z0-9_]+)/", str(output)).group(1)
    notes = [Path(a) for a in arguments if a.endswith(".o") and "/firmware/" in a]
    key = notes[0].read_text() if notes else ""
    if key not in settings["firmware"]:
        sys.exit(f"no pre-compiled firmware for {key or 'unknown'} DRAM,L1 banks")
    shutil.copy(Path(settings["precompiled"]) / settings["firmware"][key] / processor / f"{processor}.elf", output)


def translate(arguments: list[str], settings: dict) -> list[str]:
    """The command of the Debian compiler for a kernel's compile or link step."""
    command = [settings["gcc"], "-march=rv32im", "-mabi=ilp32", "-w", "-fno-jump-tables"]
    tensix = next((a for a in arguments if a.startswith("-mcpu=tt-") and a.endswith("-tensix")), "")
    if tensix:
        command.append(f"-D__riscv_xtttensix{'wh' if 'tt-wh' in tensix else 'bh'}=1")
    linking = not {"-c", "-E", "-S"} & set(arguments)
    if not linking:
        command += [f"-I{folder}" for folder in settings["ahead"]] + ["-nostdinc++", "-include", settings["ttinsn"]]
        for folder in settings["system_headers"]:
            command += ["-isystem", folder]
    for a in arguments:
        bytecode = a.endswith(BYTECODE_OBJECTS) and "/runtime/hw/lib/" in a
        if not (a.startswith(DROPPED) or a == "-Wall" or bytecode):
            command.append("-std=gnu++20" if a == "-std=c++17" else a)
    return [*command, settings["substitutes"], "-fno-lto", "-nostdlib", "-lgcc"] if linking else command


def main(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        print("riscv-tt-elf-g++ (a stand-in made of Debian's gcc, not SFPI)")
        return
    if "c++-header" in arguments:
        sys.exit(1)  # no precompiled headers: the kernel builder goes on without them
    settings = json.loads(Path(__file__ + ".json").read_text())
    output = Path(arguments[arguments.index("-o") + 1]) if "-o" in arguments else Path("a.out")
    if "-DFW_BUILD" in arguments and "-c" in arguments:
        note_firmware(arguments, output)
    elif "-c" not in arguments and "/firmware/" in str(output):
        link_firmware(arguments, output, settings)
    else:
        command = translate(arguments, settings)
        os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
