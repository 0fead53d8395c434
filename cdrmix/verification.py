"""Run an artefact against the interpreter, the definition of what its spec means.

Input: an artefact's folder.  Output: the relative RMS error of its logits, token by token and as a prompt, and of every
piece of its final state; the manifest then says what was found, and how.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cdrmix.artifact import layout, write_manifest
from cdrmix.check import load_sources
from cdrmix.compiler import backend, model_hash
from cdrmix.diagnose import UserError
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Model
from cdrmix.packing import read_values
from cdrmix.passes.encodings import encode
from cdrmix.passes.precision import decide_precision
from cdrmix.progress import doing
from cdrmix.random_copy import random_copy
from cdrmix.runtime.encodings import ENCODINGS
from cdrmix.runtime.errors import ArtifactError, NoDevice
from cdrmix.runtime.files import check_files
from cdrmix.runtime.session import Session, read_manifest, require_weights

SEED = 0
"""Of random weights."""

TOLERANCE = 1e-4
"""The largest relative RMS error that f32 arithmetic is allowed; a backend whose arithmetic is another
says which (`tolerances`)."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of an artefact's program over some tokens: `how` it ran, in the words of the README's table.

    `stepped` is [tokens, vocab], `prompted` [vocab], or None where no prompt was run; `states` are the final ones by
    path, by `step` and by `prefill`.
    """

    how: str
    stepped: np.ndarray
    prompted: np.ndarray | None
    states: Mapping[str, Mapping[str, np.ndarray]]

    def errors(self, wanted: np.ndarray, state: Mapping[str, Any]) -> dict[str, float]:
        """The relative RMS error of everything that came out, by what it is."""
        found = {"logits, token by token": relative_rms(self.stepped, wanted)}
        if self.prompted is not None:
            found["logits after the prompt"] = relative_rms(self.prompted, wanted[-1])
        for way, values in self.states.items():
            for path, value in values.items():
                found[f"{path} ({way})"] = relative_rms(value, np.asarray(state[path]))
        return found


def relative_rms(found: np.ndarray, wanted: np.ndarray) -> float:
    """RMS of the error over RMS of what was wanted (or the error itself, where zero was wanted)."""
    if found.shape != wanted.shape:
        return float("inf")
    if wanted.size == 0:
        return 0.0
    error = float(np.sqrt(np.mean((found.astype(np.float64) - wanted) ** 2)))
    scale = float(np.sqrt(np.mean(np.square(wanted, dtype=np.float64))))
    return error / scale if scale else error


def checked_model(manifest: Mapping[str, Any]) -> Model:
    """The model an artefact was made from, checked again from the text in its manifest; its weights are all f32."""
    texts = [*manifest["spec"].values(), *manifest["set"].values(), *manifest.get("encode", [])]
    if not manifest["spec"] or not all(isinstance(text, str) for text in texts):
        raise UserError(
            "the artefact's manifest is damaged: its `spec`, `set` or `encode` is no text", "compile the spec again"
        )
    model = load_sources(manifest["spec"], manifest["set"], model=manifest["model"])
    if model_hash(model) != manifest["hash"]:
        raise UserError(
            "the artefact's hash is not its spec's", "it was made by another version, or edited: compile it again"
        )
    return model


def spec_of(manifest: Mapping[str, Any]) -> Model:
    """The same model with its weights as the artefact holds them."""
    model = checked_model(manifest)
    if manifest["stored"] not in ENCODINGS:
        raise UserError(f"no type of weights `{manifest['stored']}`", "the manifest was edited: compile the spec again")
    model = decide_precision(encode(model, manifest["stored"], manifest.get("encode", [])))
    wrong = [key for key, value in layout(model).items() if manifest.get(key) != value]
    if wrong:
        raise UserError(f"the manifest's `{wrong[0]}` is not its spec's", "it was edited: compile the spec again")
    return model


def run_session(folder: Path, ids: Sequence[int]) -> Ran:
    """Run the program as its users do.  Raises `NoDevice` where nothing here can run it."""
    with Session.open(folder) as session:
        prompt = session.fork()
        stepped = np.stack([session.step(token) for token in ids])
        prompted = prompt.prefill(ids)
        return Ran(session.how, stepped, prompted, {"step": session.state(), "prefill": prompt.state()})


def run(folder: Path, target: str, ids: Sequence[int]) -> Ran:
    """Run the program; where its device is absent, the way its backend has to run it without."""
    try:
        return run_session(folder, ids)
    except NoDevice as e:
        execute = backend(target).execute
        if execute is None:
            raise
        how, arrays = execute(folder, ids)
        print(f"note: {e.message}; {how}", file=sys.stderr)
        return _ran(how, arrays)


def run_others(folder: Path, target: str, ids: Sequence[int], how: str) -> list[Ran]:
    """The other ways in which the program can be run here, as its backend knows them; `how` it ran already."""
    return [_ran(*found) for found in backend(target).others(folder, ids, how)]


def _ran(how: str, arrays: Mapping[str, np.ndarray]) -> Ran:
    """What a backend's `execute` or `others` gives: `stepped`, `prompted`, `step:<path>` and `prefill:<path>`."""
    states: dict[str, dict[str, np.ndarray]] = {"step": {}, "prefill": {}}
    for name, value in arrays.items():
        way, _, path = name.partition(":")
        if path:
            states[way][path] = value
    return Ran(how, arrays["stepped"], arrays.get("prompted"), states)


def verify_artifact(
    folder: Path, tokens: int, tolerance: float | None = None, random_weights: bool = False
) -> dict[str, Any]:
    """Run `tokens` random tokens through the artefact and the interpreter, and record the result in its manifest.

    Without a checkpoint, or with `random_weights`, it runs with every parameter random, in a copy: behind outputs that
    begin at zero no equation shows.  Without a tolerance it is what the target's arithmetic promises for the way its
    matrices are stored.
    """
    if tokens < 1:
        raise UserError(f"--tokens {tokens}: nothing to run", "give 1 or more")
    manifest = read_manifest(folder)
    model = spec_of(manifest)
    try:
        check_files(folder, manifest)
    except ArtifactError as e:
        _record(folder, manifest, {"how": "failed", "why": e.message})
        raise
    if tolerance is None:
        known = backend(manifest["target"]).tolerances
        tolerance = max(known.get(tensor["stored"], TOLERANCE) for tensor in manifest["tensors"])
    if random_weights or manifest.get("weights") != "checkpoint":
        with doing("making random weights"), random_copy(folder, manifest, model, SEED) as copy:
            ran, wanted, state = _runs(copy, manifest, model, tokens)
        used = f"random, seed {SEED}"
    else:
        require_weights(folder, manifest)
        ran, wanted, state = _runs(folder, manifest, model, tokens)
        used = "the checkpoint's"
    errors, how, worst_of = dict[str, float](), ran[0].how, dict[str, float]()
    for one in ran:
        found = one.errors(wanted, state)
        worst_of[one.how] = _worst(found)
        errors |= {name if one is ran[0] else f"{name}, {one.how}": error for name, error in found.items()}
        how = one.how if how == "emulated" else how  # what is nearer to the card is said
    worst = _worst(worst_of)
    found_all: dict[str, Any] = {"how": how, "weights": used, "tokens": tokens, "worst": worst, "tolerance": tolerance}
    if len(worst_of) > 1:
        found_all["worst of"] = worst_of
    found_all["within"] = bool(worst <= tolerance)
    verified = {**found_all, "how": how if worst <= tolerance else "failed"}
    return {**found_all, "errors": errors, "unrecorded": _record(folder, manifest, verified)}


def _runs(
    folder: Path, manifest: Mapping[str, Any], model: Model, tokens: int
) -> tuple[list[Ran], np.ndarray, Mapping[str, Any]]:
    """Every way of running the program here, and what the interpreter gives with the same weights."""
    target, weights = manifest["target"], folder / "weights.safetensors"
    own = backend(target)
    values = read_values(model, weights, own.arrange(manifest, model), own.starts)
    ids = np.random.default_rng(0).integers(0, model.vocab, tokens).tolist()
    with doing("running the artefact"):
        first = run(folder, target, ids)
    with doing("running the interpreter"):
        wanted, state = Interpreter(model, values).run(ids)
    return [first, *run_others(folder, target, ids, first.how)], wanted, state


def _record(folder: Path, manifest: Mapping[str, Any], verified: Mapping[str, Any]) -> str:
    """Say in the manifest what was found; why not, where an artefact lies where nobody can write."""
    try:
        write_manifest(folder, {**manifest, "verified": verified})
    except UserError as e:
        return e.message
    return ""


def _worst(errors: Mapping[str, float]) -> float:
    """The largest; NaN where any is, which is within no tolerance."""
    return float(np.max(list(errors.values())))
