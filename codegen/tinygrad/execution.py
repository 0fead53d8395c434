"""Run an artefact's readable program on tinygrad's CPU device.

Input: the artefact's folder and token ids.  Output: arrays `stepped` [n, vocab], `prompted` [vocab] and, as `step:path`
and `prefill:path`, the states after them.  tinygrad's device is a setting of a whole process: the work is a child's.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cdrmix.codegen.tinygrad import host, internals, toolchain

from cdrmix.diagnose import UserError

MODULE = "cdrmix.codegen.tinygrad.execution"


def run(folder: Path, ids: Sequence[int]) -> dict[str, np.ndarray]:
    """Run the program token by token, and as a prompt.  Raises `UserError` where tinygrad has no CPU device."""
    internals.check_version()
    if needs := host.missing():
        raise UserError(f"tinygrad's CPU device needs {needs[0].what}: {needs[0].why}", f"run {needs[0].command}")
    with tempfile.TemporaryDirectory(prefix="cdrmix-run-") as place:
        out = Path(place, "out.npz")
        request = {"folder": str(folder.resolve()), "ids": list(ids), "out": str(out)}
        toolchain.ask_child(MODULE, request, "CPU")
        with np.load(out) as found:
            return dict(found)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """In the child: both runs."""
    internals.compile_for_cpu(host.compile_object)
    folder = Path(request["folder"])
    sys.path.insert(0, str(folder / "source"))
    program, stream, encodings = (
        importlib.import_module(name) for name in ("program", "cdrmix_tinygrad.stream", "cdrmix_tinygrad.encodings")
    )
    weights, _ = encodings.read_file(folder / "weights.safetensors")
    ids = np.array(request["ids"])
    one = stream.Stream(program, weights)
    stepped = [one.step(ids[n : n + 1])[0] for n in range(len(ids))]
    found = {f"step:{path}": value for path, value in one.state().items()}
    one.start()
    prompted = one.prefill(ids[None])[0]
    found |= {f"prefill:{path}": value for path, value in one.state().items()}
    np.savez(request["out"], stepped=np.stack(stepped), prompted=prompted, **found)
    return {}


if __name__ == "__main__":
    toolchain.answer_parent(answer)
