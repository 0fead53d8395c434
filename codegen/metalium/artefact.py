"""The program part of a `tenstorrent` artefact.

Input: a `Program`, and what the user asked of it (device, cores).  Output: the kernels and the headers they include,
the host program with its modules, and under "metalium" in the manifest what the host allocates and launches.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np

from cdrmix.diagnose import Need, UserError, command, need_compiler
from cdrmix.ir import layout
from cdrmix.ir.backend import Files, Options, Ran
from cdrmix.ir.forms import Program
from cdrmix.ir.nodes import Model, Stored

from .apart import PYTHON, run_apart
from .cost.devices import DEVICES
from .emit.kernels import emit_kernels
from .emit.launch import launch_description
from .emit.registers import ELEMENTWISE
from .lower.definitions import REDUCTIONS
from .model import plan_model
from .plan import TILE
from .tiles import in_planes, pages_of, tilise, untilise

OPS: frozenset[str] = ELEMENTWISE | REDUCTIONS | {"read", "index", "context"}
"""The primitives that it has rules for."""

HOST = ("host.py", "states.py", "weights.py")
"""What the artefact runs by itself with."""


def needs(target: str) -> list[Need]:
    """What is missing to run an artefact's kernels over the emulation; compiling a spec needs nothing."""
    return need_compiler("CXX", ("g++", "c++"), "a C++ compiler", "it builds the kernels for the emulation", "g++")


def tools(target: str) -> list[str]:
    """What builds the kernels for the emulation here, in words."""
    return [f"the emulation by {' '.join(command('CXX', 'g++', 'c++'))}"]


def device(target: str) -> str | None:
    """The card that ttnn finds here."""
    try:
        count = importlib.import_module("ttnn").get_num_devices()
    except (ImportError, RuntimeError):
        return None
    return f"{count} Tenstorrent cards" if count else None


def require(target: str, options: Options) -> None:
    """Refuse at once what no plan can be made for."""
    known = DEVICES.get(options["device"])
    if known is None:
        raise UserError(f"no Tenstorrent device `{options['device']}`", f"there are {', '.join(DEVICES)}")
    most = known.grid[0] * known.grid[1]
    if options["cores"] is not None and not 1 <= options["cores"] <= most:
        raise UserError(f"--cores {options['cores']}: {options['device']} has {most}", f"give 1 to {most}")


def runtime_files() -> dict[str, bytes]:
    """The host program, and the headers that the kernels include."""
    folder = resources("cdrmix.runtime.metalium")
    found = {name: _alone(folder.joinpath(name).read_text(encoding="utf-8")).encode() for name in HOST}
    for header in folder.joinpath("kernels").iterdir():
        if header.name.endswith(".h"):
            found[f"kernels/{header.name}"] = header.read_bytes()
    return found


def _alone(text: str) -> str:
    """A module of the package as one that lies beside its siblings."""
    return text.replace("\nfrom .", "\nfrom ")


def emit(program: Program, target: str, options: Options) -> Files:
    """The files by name; `manifest.json` among them holds the launch description."""
    plan = plan_model(program, options["device"], options["cores"])
    own = json.dumps({"metalium": launch_description(plan)})
    return {**runtime_files(), **emit_kernels(plan), "manifest.json": own}


# --- weights ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Streamed:
    """A parameter in the order in which the kernels read it, as `cdrmix.packing` takes it."""

    owner: str
    shape: tuple[int, ...]
    dtype: Stored
    arrange: Callable[[np.ndarray], np.ndarray]
    restore: Callable[[np.ndarray], np.ndarray]


def arrange(manifest: Mapping[str, Any], model: Model) -> dict[str, Streamed]:
    """The tensors that the kernels read in an order of their own, by their names in the file."""
    shapes = {w.path: w.shape for w in layout.weights(model)}
    try:
        tensors: Mapping[str, Any] = manifest["metalium"]["tensors"]
        planes = {of["weight"]: of["tiled"]["planes"] for of in tensors.values() if of["kind"] == "tiles"}
        found: dict[str, Streamed] = {}
        for name, of in sorted(tensors.items(), key=lambda item: item[1]["kind"] != "tiles"):
            if of["weight"] is None:
                continue
            owner: str = of["weight"]
            shape, tiled = shapes[owner], of["tiled"]
            if of["kind"] == "tiles":
                put = partial(_to_pages, view=of["shape"], tiled=tiled)
                back = partial(_from_pages, shape=shape, view=of["shape"], tiled=tiled)
                found[name] = Streamed(owner, (pages_of(of["shape"], tiled), TILE, TILE), of["dtype"], put, back)
            else:
                rounded = partial(_as_streamed, planes=planes.get(owner, 0))
                found[name] = Streamed(owner, shape, of["dtype"], rounded, np.asarray)
    except (KeyError, TypeError, ValueError) as e:
        raise UserError(f"the manifest's `metalium` is damaged ({e!r})", "compile the spec again") from e
    return found


def _to_pages(param: np.ndarray, view: Sequence[int], tiled: Mapping[str, Any]) -> np.ndarray:
    """The pages of a parameter whose axes the program sees split or merged."""
    return tilise(param.reshape(view), tiled)


def _from_pages(pages: np.ndarray, shape: Sequence[int], view: Sequence[int], tiled: Mapping[str, Any]) -> np.ndarray:
    return untilise(pages, view, tiled).reshape(shape)


def _as_streamed(param: np.ndarray, planes: int) -> np.ndarray:
    """A table with the values that its tiles have, where there are any: a tied parameter has one value an element."""
    return np.sum(in_planes(param, planes), axis=0) if planes > 1 else param


# --- without a card --------------------------------------------------------------------------------------------------
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
