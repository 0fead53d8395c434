"""What is to be quantised: a model and its weights, from the one path that a user gives.

Input: an artefact, a run, a checkpoint or a file of weights; and a spec where none of them says which is theirs.
Output: a `Source`.  Raises `UserError` where the weights are not the spec's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cdrmix.artifact import MANIFEST, WEIGHTS, beside
from cdrmix.check import load
from cdrmix.checkpoints import check_weights, find_weights
from cdrmix.compiler import model_hash
from cdrmix.diagnose import UserError
from cdrmix.ir.nodes import Model
from cdrmix.record import Damaged
from cdrmix.runs import RECORD, read_checkpoint
from cdrmix.runtime.files import check_files
from cdrmix.runtime.session import read_manifest
from cdrmix.verification import checked_model


@dataclass(frozen=True, slots=True)
class Source:
    """A checked model, the `--set` options it was checked with, its weights, and the tokenizer beside them."""

    model: Model
    overrides: Mapping[str, str]
    weights: Path
    tokenizer: Path | None


def find_source(given: Path, spec: Path | None, overrides: Mapping[str, str], name: str | None) -> Source:
    """The source at a path; `spec`, `overrides` and `name` are what `--spec`, `--set` and `--model` say."""
    if (given / MANIFEST).is_file():
        if spec is not None or overrides or name is not None:
            raise UserError(f"{given} holds its own spec", "leave --spec, --set and --model out")
        manifest = read_manifest(given)
        check_files(given, manifest)
        model, overrides = checked_model(manifest), manifest["set"]
        weights = given / WEIGHTS
        if not weights.is_file():
            raise UserError(f"{given} has no weights", "give the checkpoint that it was compiled for")
    else:
        weights = find_weights(given)
        if spec is None:
            model, overrides = _trained(weights, overrides, name)
        else:
            model = load(spec, overrides, model=name)
    check_weights(model, weights)
    return Source(model, overrides, weights, beside(weights, "tokenizer.json"))


def _trained(weights: Path, overrides: Mapping[str, str], name: str | None) -> tuple[Model, Mapping[str, str]]:
    """The model that the record beside a checkpoint names."""
    if beside(weights, RECORD) is None:
        raise UserError(f"nothing beside {weights} says what spec it is of", "give --spec SPEC, and its --set options")
    if overrides or name is not None:
        raise UserError("--set and --model are for a spec", "give --spec SPEC too, or leave them to the run's record")
    try:
        record = read_checkpoint(weights.parent, ())
    except Damaged as why:
        raise UserError(f"{weights.parent} is damaged: {why}", "give --spec SPEC, and its --set options") from why
    config = record["config"]
    model = load(Path(config["spec"]), config["set"])
    if model_hash(model) != record["hash"]:
        raise UserError(
            f"{config['spec']} is not what {weights.parent} was trained as: it has changed since",
            "give --spec with the spec as it was then",
        )
    return model, config["set"]
