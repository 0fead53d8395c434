"""A generated program's units as kernels and launches, for one family of devices, with no device at hand.

Input: a folder with `program.py` and `cdrmix_tinygrad/`, the manifest's `schedule`, the (unit, B, T) wanted.
Output: `Captured`: kernel sources (equal ones once) and a plan for each unit and shape.

tinygrad's device and options are settings of a whole process, so the work is done in child processes, each with a clean
environment.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

from cdrmix.codegen.tinygrad import internals, toolchain
from cdrmix.codegen.tinygrad.internals import Source
from cdrmix.codegen.tinygrad.plan import Known, Plan, Unplannable, plan

from cdrmix.diagnose import UserError

STORED = {"f32": "float32", "f16": "float16", "bf16": "uint16", "i8": "int8", "i32": "int32"}
"""How the numbers of the manifest's types are held."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A unit at a batch of `b` sessions and a block of `t` tokens."""

    unit: str
    b: int
    t: int

    @property
    def key(self) -> str:
        """Its name in the manifest."""
        return f"{self.unit}@{self.b}x{self.t}"


@dataclass(frozen=True, slots=True)
class Captured:
    """`units`: a plan by `Wanted.key`; the kernel of a launch is an index into `sources`."""

    sources: tuple[Source, ...]
    units: dict[str, Plan]


def capture(
    folder: Path, schedule: Mapping[str, Any], wanted: Sequence[Wanted], device: str, jobs: int = 1
) -> Captured:
    """Capture every wanted unit in up to `jobs` child processes; the result does not depend on their number."""
    # A shape stays in one process: units of one shape have kernels in common, and each is lowered once a process.
    shapes = list(dict.fromkeys((w.b, w.t) for w in wanted))
    shares = [[w for w in wanted if (w.b, w.t) in shapes[i::jobs]] for i in range(min(jobs, len(shapes)))]

    def in_child(share: Sequence[Wanted]) -> list[tuple[list[Source], Plan]]:
        declared = {w.unit: schedule["units"][w.unit] for w in share}
        return toolchain.in_child(device, _capture_units, folder.resolve(), declared, share)

    with ThreadPoolExecutor(len(shares) or 1) as pool:
        found = dict(zip(chain(*shares), chain(*pool.map(in_child, shares)), strict=True))
    numbers: dict[Source, int] = {}
    units = {}
    for w in wanted:
        sources, planned = found[w]
        kernels = (numbers.setdefault(sources[x.kernel], len(numbers)) for x in planned.launches)
        launches = (replace(x, kernel=k) for x, k in zip(planned.launches, kernels, strict=True))
        units[w.key] = replace(planned, launches=tuple(launches))
    return Captured(tuple(numbers), units)


# What follows runs in the child.


def _capture_units(
    folder: Path, declared: Mapping[str, Any], wanted: Sequence[Wanted]
) -> list[tuple[list[Source], Plan]]:
    """Capture all that is wanted; a unit that cannot be captured is a `UserError` that names it."""
    internals.check_version()
    internals.stop_compiling()
    sys.path.insert(0, str(folder))
    program = importlib.import_module("program")
    found = []
    for w in wanted:
        if w.unit not in program.UNITS:
            raise UserError(f"the program has no unit `{w.unit}`", f"it has {', '.join(program.UNITS)}")
        try:
            found.append(_capture_unit(program.UNITS[w.unit], declared[w.unit], w.b, w.t))
        except (internals.NotAKernel, Unplannable) as e:
            raise UserError(f"unit `{w.unit}` at {w.b} x {w.t} tokens cannot be compiled ahead of time: {e}") from e
        except Exception as e:
            e.add_note(f"in unit `{w.unit}` at {w.b} x {w.t} tokens")
            raise
    return found


def _capture_unit(unit: Any, declared: Mapping[str, Any], b: int, t: int) -> tuple[list[Source], Plan]:
    try:
        kernels, known = _record(unit, declared, b, t, settle=False)
    except (RuntimeError, internals.Race) as e:
        if not isinstance(e, internals.Race) and "cycle" not in str(e):
            raise
        # New values that need other old ones than their own: every one is computed before any is stored.
        kernels, known = _record(unit, declared, b, t, settle=True)
    return [k.source for k in kernels], plan(kernels, known)


def _record(
    unit: Any, declared: Mapping[str, Any], b: int, t: int, settle: bool
) -> tuple[list[internals.Kernel], dict[Hashable, Known]]:
    """Run the unit on buffers that hold nothing, and keep the kernels it would have run."""
    from tinygrad import Tensor, dtypes

    known: dict[Hashable, Known] = {}

    def given(kind: str, index: int, name: str, shape: Sequence[int], dtype: str) -> Any:
        tensor = Tensor.empty(*shape, dtype=getattr(dtypes, STORED[dtype])).realize()
        lies = internals.storage(tensor)
        assert lies is not None
        known[lies.buffer] = Known(kind, index, lies.nbytes, name)
        return tensor

    x = given("x", 0, "x", (b, t, *declared["x"]), declared["x_dtype"])
    w = {n: given("w", i, n, shape, d) for i, (n, shape, d) in enumerate(declared["weights"])}
    s = {n: given("s", i, n, (b, *shape), d) for i, (n, shape, d) in enumerate(declared["states"])}
    c = {n: given("r", i, n, (b, t, *shape), "f32") for i, (n, shape) in enumerate(declared["reads"])}
    with internals.recording() as recorder:
        result = unit.run(x, w, dict(s), c)
        # A returned tensor may be one of the state's own, which the stores below are about to change.
        result = replace(
            result,
            out=None if result.out is None else Tensor(result.out.uop),
            carries={n: Tensor(v.uop) for n, v in result.carries.items()},
            states={n: Tensor(v.uop) for n, v in result.states.items() if v is not None},
        )
        _store(s, result.states, settle)
        wanted = [("out", 0, "out", result.out, declared["out"])] if result.out is not None else []
        wanted += [("c", i, n, result.carries[n], shape) for i, (n, shape) in enumerate(declared["writes"])]
        made: list[Any] = []
        for _, _, name, tensor, shape in wanted:
            if prod(tensor.shape) != b * t * prod(shape):
                raise Unplannable(f"`{name}` has shape {tensor.shape}, declared is {(b, t, *shape)}")
            tensor = tensor.cast(dtypes.int32 if dtypes.is_int(tensor.dtype) else dtypes.float32)
            # An output is a buffer of its own: what only is a view of another buffer is copied.
            base = internals.stands_on(tensor)
            taken = base in known or (base is not None and any(base is internals.stands_on(m) for m in made))
            made.append(tensor.clone() if taken else tensor)
        Tensor.realize(*made, *s.values())
        for (kind, index, name, _, _), tensor in zip(wanted, made, strict=True):
            lies = internals.storage(tensor)
            if lies is None or not lies.whole or lies.buffer in known:
                lies = internals.storage(tensor.clone().realize())
            assert lies is not None and lies.whole
            known[lies.buffer] = Known(kind, index, lies.nbytes, name)
    return internals.lower(recorder), known


def _store(s: Mapping[str, Any], values: Mapping[str, Any], settle: bool) -> None:
    """New values into the state buffers; those not named were written in place by the unit."""
    from tinygrad import Tensor

    changed = {n: v.cast(s[n].dtype).reshape(s[n].shape) for n, v in values.items()}
    if settle and changed:
        changed = {n: v.clone() for n, v in changed.items()}
        Tensor.realize(*changed.values())
    for name, value in changed.items():
        s[name].assign(value)
