"""Runs captured launches on this CPU, as the GPU runner runs them on a device.

The kernels come from tinygrad's CPU renderer and are built by the C compiler into one library.  All that is not given
is filled with a pattern that is not a number, so that a read of what nothing wrote shows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from cdrmix.codegen.tinygrad import host
from cdrmix.codegen.tinygrad.artefact import shapes
from cdrmix.codegen.tinygrad.capture import Captured, Wanted, capture
from cdrmix.codegen.tinygrad.internals import ITSELF

Array = np.ndarray[Any, Any]
STORED = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16, "i8": np.int8, "i32": np.int32}
DEVICE = "NULL:CLANG:x86_64,native"


class Plans:
    """The units of a program, ready to run: `folder` holds `source/`, and is written to."""

    def __init__(self, folder: Path, schedule: Mapping[str, Any], jobs: int = 1):
        self.schedule = schedule
        self.captured: Captured = capture(folder / "source", schedule, shapes(schedule), DEVICE, jobs)
        texts = [s.text.replace(ITSELF, f"kernel_{i}") for i, s in enumerate(self.captured.sources)]
        (folder / "kernels.c").write_text("\n".join(texts))
        library = folder / "kernels.so"
        host.compile_kernels((folder / "kernels.c").read_text(), library, "-shared", "-lm")
        self.library = ctypes.CDLL(str(library))

    def run(
        self,
        unit: str,
        x: Array,
        weights: Mapping[str, Array],
        states: Mapping[str, Array],
        carries: Mapping[str, Array],
    ) -> tuple[Array, dict[str, Array]]:
        """x [B, T, *x]; the states [B, *shape] are updated in place.  The output and the carries written."""
        declared = self.schedule["units"][unit]
        b, t = x.shape[:2]
        plan = self.captured.units[Wanted(unit, b, t).key]
        given = {
            "x": [x],
            "w": [weights[n] for n, _, _ in declared["weights"]],
            "s": [states[n] for n, _, _ in declared["states"]],
            "r": [carries[n] for n, _ in declared["reads"]],
            "out": [_junk(b * t * prod(declared["out"]) * 4)],
            "c": [_junk(b * t * prod(shape) * 4) for _, shape in declared["writes"]],
            "tmp": [_junk(plan.scratch)],
        }
        untouched = {kind: [a.copy() for a in given[kind]] for kind in ("x", "w", "r")}
        for launch in plan.launches:
            pointers = [given[a.kind][a.index].ctypes.data + a.offset for a in launch.args]
            getattr(self.library, f"kernel_{launch.kernel}")(*map(ctypes.c_void_p, pointers))
        for kind, before in untouched.items():
            assert all(a.tobytes() == c.tobytes() for a, c in zip(given[kind], before, strict=True)), kind
        out_type = np.int32 if unit in ("argmax", "sample") else np.float32
        out = given["out"][0].view(out_type).reshape(b, t, *declared["out"])
        written = zip(declared["writes"], given["c"], strict=True)
        return out, {n: a.view(np.float32).reshape(b, t, *shape) for (n, shape), a in written}


def _junk(nbytes: int) -> Array:
    """Bytes aligned as a device's buffers are, all of them 0xff: not a number."""
    room = np.full(nbytes + 256, 0xFF, np.uint8)
    start = -room.ctypes.data % 256
    return room[start : start + nbytes]


class Sessions:
    """A batch of sessions over the whole stack, as the GPU runner steps them and runs prompts in blocks."""

    def __init__(self, plans: Plans, weights: Mapping[str, Array], start: Mapping[str, Array], batch: int):
        self.plans, self.weights, self.batch = plans, weights, batch
        self.units: Mapping[str, Any] = plans.schedule["units"]
        self.slots: dict[str, Array] = {}
        for call in plans.schedule["calls"]:
            for path, (_, shape, dtype) in zip(call["states"], self.units[call["unit"]]["states"], strict=True):
                value = np.broadcast_to(np.asarray(start[path], STORED[dtype]), (batch, *shape))
                self.slots[path] = np.array(value, order="C")

    def run(self, tokens: Array) -> Array:
        """The logits [B, vocab] after a block [B, T]."""
        x: Array = tokens.astype(np.int32)
        carries: dict[str, Array] = {}
        logits = x
        for call in self.plans.schedule["calls"]:
            declared = self.units[call["unit"]]
            if call["last_only"]:
                x = np.ascontiguousarray(x[:, -1:])
            w = {n: self.weights[path] for (n, _, _), path in zip(declared["weights"], call["weights"], strict=True)}
            s = {n: self.slots[path] for (n, _, _), path in zip(declared["states"], call["states"], strict=True)}
            x, written = self.plans.run(
                call["unit"], x if declared["x"] != [] else tokens.astype(np.int32), w, s, carries
            )
            carries |= written
            logits = x if declared["out"] else logits
        return logits[:, -1]
