"""The program part of a `cuda` or `rocm` artefact.

Input: a `Program`, the target, and what the user asked of it (archs, batches, blocks).  Output: `source/` (the readable
tinygrad program), the kernels' text and machine code, the C runner with its built library, and the manifest's keys that
tell the runner what to launch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdrmix.codegen.tinygrad import host, runner, toolchain
from cdrmix.codegen.tinygrad.compile import compile_programs
from cdrmix.codegen.tinygrad.program import emit_program, schedule

from cdrmix.diagnose import Need, UserError
from cdrmix.ir.backend import Files, Options, Ran
from cdrmix.ir.forms import Program


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


def execute(folder: Path, ids: Sequence[int]) -> Ran:
    """Run the readable program on tinygrad's CPU device, in a child process."""
    from cdrmix.codegen.tinygrad.execution import run

    return "executed on CPU through tinygrad", run(folder, ids)
