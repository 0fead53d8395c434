"""Write an artefact: a folder that is whole by itself, and byte-identical for the same inputs.

Input: a lowered program, a target, and optionally a checkpoint and a tokenizer.
Output: `manifest.json`, `weights.safetensors`, `tokenizer.json` and the program's files.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdrmix.compiler import Lowered, emit, quoting
from cdrmix.diagnose import UserError
from cdrmix.ir.initial import initial_tensor
from cdrmix.ir.layout import slots
from cdrmix.ir.nodes import Model
from cdrmix.weights import atomic, check_weights, find_weights, owners, write_weights

FORMAT = 1
MANIFEST = "manifest.json"


def write_artifact(
    lowered: Lowered,
    target: str,
    out: Path,
    checkpoint: Path | None = None,
    tokenizer: Path | None = None,
    seed: int = 0,
    overrides: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write the folder `out` and return its files.  Without a checkpoint the weights are the spec's init at `seed`.

    `overrides` are the `--set` options the program was checked with; `verify` needs them to check it again.
    """
    model = lowered.program.model
    files = emit(lowered, target)
    source = find_weights(checkpoint) if checkpoint else None
    if source:
        check_weights(model, source)
    tokenizer = tokenizer or beside(source, "tokenizer.json")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file", "give a folder to write to")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot make {out}: {e.strerror}", "give a folder that can be written") from e
    written = []
    for name, content in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as f:
            f.write(content)
        written.append(path)
    weights = out / "weights.safetensors"
    if source is None:
        by_path = {w.path: w for w in owners(model)}
        shapes = {path: w.shape for path, w in by_path.items()}
        with quoting(model):
            write_weights(weights, shapes, lambda path: initial_tensor(by_path[path], seed))
    elif not (weights.exists() and os.path.samefile(source, weights)):
        with source.open("rb") as given, atomic(weights) as f:
            shutil.copyfileobj(given, f)
    written.append(weights)
    if tokenizer:
        if not tokenizer.is_file():
            raise UserError(f"no tokenizer at {tokenizer}", "give the tokenizer.json that training used")
        if not ((out / "tokenizer.json").exists() and os.path.samefile(tokenizer, out / "tokenizer.json")):
            with atomic(out / "tokenizer.json") as f:
                f.write(tokenizer.read_bytes())
        written.append(out / "tokenizer.json")
    manifest = describe(lowered, target, "checkpoint" if source else f"init, seed {seed}", overrides or {})
    manifest["tokenizer"] = tokenizer is not None
    write_manifest(out, manifest)
    return [*written, out / MANIFEST]


def beside(source: Path | None, name: str) -> Path | None:
    """The file of that name next to a checkpoint's weights, or None."""
    found = source.parent / name if source else None
    return found if found and found.is_file() else None


def write_manifest(out: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json` atomically."""
    with atomic(out / MANIFEST) as f:
        f.write((json.dumps(manifest, indent=1, ensure_ascii=True) + "\n").encode())


def describe(lowered: Lowered, target: str, weights: str, overrides: Mapping[str, str]) -> dict[str, Any]:
    """The manifest: what the folder holds, for people and for the runtime."""
    model: Model = lowered.program.model
    return {
        "format": FORMAT,
        "target": target,
        "model": model.name,
        "hash": lowered.program.hash,
        "spec": dict(model.sources),
        "set": dict(overrides),
        "settings": {
            name: str(value) if not isinstance(value, int | float | bool) else value
            for name, value in model.settings.items()
        },
        "vocab": model.vocab,
        "width": model.width,
        "dtype": "f32",
        "weights": weights,
        "state": [
            {"path": s.path, "kind": s.kind, "shape": list(s.shape), "banks": list(s.place.banks)} for s in slots(model)
        ],
        "tensors": [{"path": w.path, "shape": list(w.shape)} for w in owners(model)],
        "notes": list(lowered.notes),
        "verified": {"how": "not verified"},
    }
