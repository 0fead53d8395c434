"""A spec compiled for the `tenstorrent` target and run by its own host program on a simulated card.

Input: a spec of `specs/`.  Output: what the program gave (logits of every token, the state after them) beside what the
interpreter says with the values that the program computes with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cdrmix.artifact import write_artifact
from cdrmix.check import load
from cdrmix.compiler import lower, options_of
from cdrmix.ir.nodes import Model, Stored
from cdrmix.weights import owners, write_weights
from tests.tenstorrent.agree import definition, ids_of

from . import environment

SPECS = Path(__file__).parent / "specs"
BOARDS = {"wormhole": "n150", "blackhole": "p150"}


@dataclass(frozen=True, slots=True)
class Compared:
    """What came back and what was wanted, by name."""

    found: Mapping[str, np.ndarray]
    wanted: Mapping[str, np.ndarray]

    def sha256(self) -> str:
        """Of every number, by name."""
        whole = hashlib.sha256()
        for name in sorted(self.found):
            whole.update(name.encode() + np.ascontiguousarray(self.found[name], "<f4").tobytes())
        return whole.hexdigest()


def compile_to(folder: Path, model: Model, stored: Stored, cores: int, board: str) -> None:
    """An artefact with every parameter random: drawn without a function whose last bit depends on the machine."""
    random = np.random.default_rng(0)
    values = {}
    for weight in owners(model):
        matrix = len(weight.shape) > 1
        reach = 1.5 / np.sqrt(weight.shape[-1]) if matrix else 0.5
        values[weight.path] = random.uniform(-reach, reach, weight.shape) + (0 if matrix else 0.6)
    given = folder.with_suffix(".safetensors")
    write_weights(given, {w.path: w.shape for w in owners(model)}, lambda path: values[path].astype(np.float32))
    options = options_of("tenstorrent", {"device": board, "cores": cores}, stored)
    write_artifact(lower(model, weights=stored), "tenstorrent", folder, given, options=options)


def simulate(folder: Path, ids: Sequence[int], limit: float, device: str = "wormhole") -> dict[str, np.ndarray]:
    """What the artefact's host program saves: `logits` and `state:<path>`."""
    saved = folder.with_suffix(".npz")
    command = [str(folder / "host.py"), "--tokens", *map(str, ids), "--save", str(saved)]
    done = environment.run(command, limit, environment.variables(device))
    assert done.returncode == 0, f"ended with {done.returncode}\n{done.stdout[-3000:]}"
    with np.load(saved) as file:
        return dict(file)


def compare(
    name: str, folder: Path, stored: Stored, cores: int, tokens: int, limit: float, device: str = "wormhole"
) -> Compared:
    """Compile `specs/<name>.cdr` into `folder`, every parameter random, and run some tokens."""
    model = load(SPECS / f"{name}.cdr")
    compile_to(folder, model, stored, cores, BOARDS[device])
    ids = ids_of(model, tokens)
    logits, state = definition(folder, model).run(ids)
    wanted = {"logits": np.asarray(logits)}
    found = simulate(folder, ids, limit, device)
    for path in (key.removeprefix("state:") for key in found if key.startswith("state:")):
        wanted[f"state:{path}"] = np.asarray(state[path])
    return Compared({key: value.reshape(wanted[key].shape) for key, value in found.items()}, wanted)


def correlation(found: np.ndarray, wanted: np.ndarray) -> float:
    """Pearson's, as Tenstorrent's own tests judge."""
    return float(np.corrcoef(found.ravel().astype(np.float64), wanted.ravel().astype(np.float64))[0, 1])
