"""A copy of an artefact whose parameters are all random: what its program computes shows, whatever its weights are.

Most specs begin with zeros at the end of every mixer and expert, and behind zeros no equation can be seen.

Input: the artefact's folder, its manifest and its model.  Output: a folder that lasts as long as the block.  The same
seed gives the same parameters: the spec's init with noise on each.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdrmix.artifact import WEIGHTS, listed, store, write_manifest
from cdrmix.ir.initial import initial_tensor, shaken
from cdrmix.ir.nodes import Model
from cdrmix.runtime.files import read_file
from cdrmix.weights import owners


@contextmanager
def random_copy(folder: Path, manifest: Mapping[str, Any], model: Model, seed: int) -> Iterator[Path]:
    """The copy, in the artefact's own format: packed, arranged and rounded as its own weights are."""
    by_path = {w.path: w for w in owners(model)}
    with tempfile.TemporaryDirectory(prefix="cdrmix-verify-") as place:
        copy = Path(place, "artefact")
        for name in manifest["files"]:
            if name != WEIGHTS:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes(read_file(folder, manifest, name))
        copy.mkdir(exist_ok=True)
        weights = copy / WEIGHTS
        store(weights, manifest["target"], model, lambda path: initial_tensor(by_path[path], seed, shaken), manifest)
        write_manifest(copy, {**manifest, "files": {**manifest["files"], WEIGHTS: listed(weights)}})
        yield copy
