"""The runs that a verification takes without a card of its own: over the emulation, and by another Python's ttnn.

Input: the artefact's folder, token ids; and CDR_TTNN_PYTHON in the environment, the Python that has ttnn, which has
wheels for 3.10 and 3.12 only.  The rest of the environment is handed on to its host program, so TT_METAL_SIMULATOR and
its like say what it runs on.
Output: the logits of every token and the state after them.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdrmix.diagnose import UserError
from cdrmix.ir.backend import Ran

PYTHON = "CDR_TTNN_PYTHON"
"""The environment's variable that names the other Python."""

LIMIT = 1800
"""Seconds after which it is ended."""

TOLD = 1500
"""Characters of what it said that an error repeats."""


def execute(folder: Path, ids: Sequence[int]) -> Ran:
    """Run the artefact over the emulation: its kernels, built for this CPU."""
    engine = importlib.import_module("cdrmix.runtime.metalium.engine")  # beside an artefact, never needed to make one
    manifest = importlib.import_module("cdrmix.runtime.session").read_manifest(folder)
    running = engine.open_emulated(folder, manifest)
    try:
        one = running.start()
        stepped = np.stack([running.prefill(one, [token]) for token in ids])
        prompt = running.start()
        found = {"stepped": stepped, "prompted": running.prefill(prompt, ids)}
        for way, state in (("step", one), ("prefill", prompt)):
            found |= {f"{way}:{path}": value for path, value in running.read(state).items()}
        return str(running.how), found
    finally:
        running.close()


def others(folder: Path, ids: Sequence[int], how: str) -> list[Ran]:
    """The runs that a verification takes besides the one that ran so: the emulation, always, and CDR_TTNN_PYTHON's."""
    found = [] if how == "emulated" else [execute(folder, ids)]
    if os.environ.get(PYTHON):
        slots = importlib.import_module("cdrmix.runtime.session").read_manifest(folder)["state"]
        found.append(run_apart(folder, slots, ids))
    return found


def run_apart(folder: Path, slots: Sequence[dict[str, Any]], ids: Sequence[int]) -> tuple[str, dict[str, np.ndarray]]:
    """`executed` or `simulated`, and `stepped` [tokens, vocab] with `step:<path>` for the manifest's `slots`."""
    how = "simulated" if os.environ.get("TT_METAL_SIMULATOR") else "executed"
    with tempfile.TemporaryDirectory() as scratch:
        saved = Path(scratch) / "found.npz"
        command = [str(folder.resolve() / "host.py"), "--tokens", *map(str, ids), "--save", str(saved)]
        code, told = _call(command, Path(scratch))
        if code or not saved.exists():
            raise UserError(f"{how}: the artefact's host.py failed under {PYTHON} ({code}):\n{told[-TOLD:].strip()}")
        with np.load(saved) as file:
            arrays = dict(file)
    found = {"stepped": arrays["logits"]}
    shapes = {slot["path"]: slot["shape"] for slot in slots}
    for name, value in arrays.items():
        path = name.removeprefix("state:")
        if path in shapes:
            found[f"step:{path}"] = value.reshape(shapes[path])
    return how, found


def _call(command: Sequence[str], folder: Path) -> tuple[int, str]:
    """The exit status and the output, which goes to a file: a simulator may outlive its client and keep a pipe open."""
    log = folder / "log"
    with log.open("wb") as output:
        try:
            started = subprocess.Popen(
                [os.environ[PYTHON], *command],
                cwd=folder,  # ttnn leaves files where it is started
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as e:
            told = f"{PYTHON} is `{os.environ[PYTHON]}`, which does not start ({e.strerror})"
            raise UserError(told, "give a Python that has ttnn") from e
        try:
            code = started.wait(LIMIT)
        except subprocess.TimeoutExpired as e:
            told = f"the artefact's host.py did not end within {LIMIT} s under {PYTHON}"
            raise UserError(told, "fewer --tokens, or a smaller model") from e
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()
    return code, log.read_text(errors="replace")
