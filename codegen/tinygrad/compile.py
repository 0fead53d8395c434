"""From a generated program to the machine code and launches of every arch wanted.

Input: the files of `source/` (program.py, cdrmix_tinygrad/…), the manifest's `schedule`, names of archs.
Output: the manifest's `programs`, and the files beside it: a code object an arch, the readable kernels once a vendor.

tinygrad writes the same kernels for every arch of a vendor (tensor cores are off), so a program is captured once a
vendor and compiled once an arch.  The same input gives the same bytes.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cdrmix.codegen.tinygrad import machine, toolchain
from cdrmix.codegen.tinygrad.capture import ITSELF, Captured, Wanted, capture
from cdrmix.codegen.tinygrad.machine import Named
from cdrmix.codegen.tinygrad.toolchain import ARCHS, Arch, Vendor

TEXTS: dict[Vendor, str] = {"cuda": "kernels.cu", "hip": "kernels.ll"}


def compile_programs(
    source: Mapping[str, str | bytes], schedule: Mapping[str, Any], archs: Sequence[str], jobs: int = 2
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The `programs` of a manifest and the files they name; needs the tools `toolchain.missing` tells of."""
    chosen = [ARCHS[name] for name in archs]
    toolchain.require(chosen)
    wanted = shapes(schedule)
    programs: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory(prefix="cdrmix-source-") as folder:
        for name, content in source.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        for vendor in dict.fromkeys(a.vendor for a in chosen):
            mine = [a for a in chosen if a.vendor == vendor]
            captured = capture(Path(folder), schedule, wanted, mine[0].device, jobs)
            entry, text = _describe(captured, vendor)
            files[TEXTS[vendor]] = text.encode()
            for arch, code in zip(mine, _build(mine, text, jobs), strict=True):
                files[f"{arch.name}.{arch.code}"] = code
                programs[arch.name] = {"vendor": vendor, "code": f"{arch.name}.{arch.code}", **entry}
    return programs, files


def shapes(schedule: Mapping[str, Any]) -> list[Wanted]:
    """Each unit at the batches and blocks the runner will ask it for."""
    found = []
    for unit, declared in schedule["units"].items():
        in_blocks = any(c["unit"] == unit and not c["last_only"] for c in schedule["calls"]) and declared["blocked"]
        found += [Wanted(unit, b, 1) for b in schedule["batches"]]
        found += [Wanted(unit, 1, t) for t in schedule["blocks"] if in_blocks]
    return list(dict.fromkeys(found))


def _build(archs: Sequence[Arch], text: str, jobs: int) -> list[bytes]:
    with ThreadPoolExecutor(min(jobs, len(archs))) as pool:
        return list(pool.map(lambda arch: machine.build(arch, text), archs))


def _describe(captured: Captured, vendor: Vendor) -> tuple[dict[str, Any], str]:
    """The kernels and launches as the manifest lists them, and the text of the kernels under their final names."""
    names: dict[int, str] = {}
    for key, plan in captured.units.items():
        for number, launch in enumerate(plan.launches):
            shape = re.sub(r"n\d+$", "", captured.sources[launch.kernel].name)
            names.setdefault(launch.kernel, _identifier(f"{key}_{number:02d}_{shape}"))
    kernels, named = [], []
    for i, source in enumerate(captured.sources):
        read, written = sum(source.reads), sum(source.writes)
        note = f"{names[i]}: reads {read} bytes, writes {written}, {source.flops} operations"
        named.append(Named(names[i], source.text.replace(ITSELF, names[i]), note))
        moved = {"bytes_read": read, "bytes_written": written, "reads": list(source.reads)}
        kernels.append({"name": names[i], **moved, "flops": source.flops})
    units = {
        key: {
            "scratch": plan.scratch,
            "launches": [
                {
                    "kernel": x.kernel,
                    "grid": list(captured.sources[x.kernel].grid),
                    "block": list(captured.sources[x.kernel].block),
                    "args": [[a.kind, a.index, a.offset] for a in x.args],
                }
                for x in plan.launches
            ],
        }
        for key, plan in captured.units.items()
    }
    return {"source": TEXTS[vendor], "kernels": kernels, "units": units}, machine.join(vendor, named)


def _identifier(text: str) -> str:
    return re.sub(r"\W", "_", text)
