"""The program part of a `cuda` or `rocm` artefact.

Input: a `Program`, the target, and what the user asked of it (archs, batches, blocks).  Output: `source/` (the readable
tinygrad program), the kernels' text and machine code, the C runner with its built library, and the manifest's keys that
tell the runner what to launch.

tinygrad writes the same kernels for every arch of a vendor (tensor cores are off), so a program is captured once a
vendor and compiled once an arch.  The same input gives the same bytes.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cdrmix.codegen.tinygrad import host, machine, runner, toolchain
from cdrmix.codegen.tinygrad.capture import Captured, Wanted, capture
from cdrmix.codegen.tinygrad.internals import ITSELF
from cdrmix.codegen.tinygrad.machine import Named
from cdrmix.codegen.tinygrad.program import emit_program, schedule
from cdrmix.codegen.tinygrad.toolchain import ARCHS, Arch, Vendor

from cdrmix.diagnose import Need, UserError
from cdrmix.ir.backend import Files, Options
from cdrmix.ir.forms import Program

TEXTS: dict[Vendor, str] = {"cuda": "kernels.cu", "hip": "kernels.ll"}


def needs(target: str) -> list[Need]:
    """What is missing on this machine to compile for the target's usual archs, and to verify without a GPU."""
    found = [*toolchain.missing(toolchain.choose(target)), *runner.missing()]
    return found or host.missing()


def tools(target: str) -> list[str]:
    """What compiles and verifies here, in words."""
    return [*toolchain.tools(target), f"the program on this CPU by {' '.join(host.compiler())}"]


def require(target: str, options: Options) -> None:
    """Refuse at once what cannot be compiled here."""
    if max(options["batch"]) > 1024 or max(options["block"], default=1) > 1024:
        raise UserError("a batch or block of more than 1024", "give smaller ones: --batch 1,64 --block 64")
    archs = toolchain.choose(target, options["arch"] or ())
    toolchain.require(archs, runner.missing())


def emit(program: Program, target: str, options: Options) -> Files:
    """The files by name; `manifest.json` among them holds the backend's own keys."""
    source = emit_program(program)
    archs = [arch.name for arch in toolchain.choose(target, options["arch"] or ())]
    plan = schedule(program)
    plan |= {
        "batches": sorted({1, *options["batch"]}),
        "blocks": sorted((t for t in options["block"] if t > 1), reverse=True) if _in_blocks(plan) else [],
    }
    programs, files = compile_programs(source, plan, archs)
    own = {"verified": {"how": "compiled", "archs": archs}, "schedule": plan, "programs": programs}
    readable = {f"source/{name}": text for name, text in source.items()}
    return {**readable, **files, **runner.files(), "manifest.json": json.dumps(own)}


def _in_blocks(plan: Mapping[str, Any]) -> bool:
    """Whether a prompt may be read in blocks: a unit that runs token by token must not ask where in the block it is."""
    asks = [u for u in plan["units"].values() if not u["blocked"] and any(name == "pos" for name, *_ in u["states"])]
    return not asks


# --- the machine code and launches of every arch wanted ------------------------------------------------------------
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
            names.setdefault(launch.kernel, re.sub(r"\W", "_", f"{key}_{number:02d}_{shape}"))
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
