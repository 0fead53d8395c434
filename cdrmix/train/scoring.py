"""Evaluate a checkpoint, or an artefact by its own program, as a config says."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from cdrmix.artifact import MANIFEST, beside
from cdrmix.check import load
from cdrmix.checkpoints import check_weights, find_weights, read_weights
from cdrmix.compiler import lower, model_hash
from cdrmix.diagnose import UserError
from cdrmix.runtime.session import read_manifest
from cdrmix.train.config import EvalConfig
from cdrmix.train.evaluate import Score, evaluate
from cdrmix.train.loop import build_module
from cdrmix.train.memory import require_memory
from cdrmix.train.store import open_store
from cdrmix.train.streamed import Streamed
from cdrmix.train.tokenizer import load_tokenizer, require_fit


def score_checkpoint(config: EvalConfig) -> Score:
    """Load the checkpoint into the spec's module, or the artefact into sessions, and score the data."""
    if config.threads:
        torch.set_num_threads(config.threads)
    model = load(config.spec, config.set, options=config.options)
    require_memory(config.rows * config.context, model.vocab, "a smaller `rows` or `context`")
    artefact = config.checkpoint if (config.checkpoint / MANIFEST).is_file() else None
    weights = find_weights(config.checkpoint)
    if artefact is None:
        check_weights(model, weights)
    elif read_manifest(artefact)["hash"] != model_hash(model):
        raise UserError(
            f"{artefact} was not compiled from {config.spec}", "give its spec, and its --set options as `set`"
        )
    tokenizer = config.tokenizer or beside(weights, "tokenizer.json")
    if tokenizer is None:
        raise UserError(f"no tokenizer beside {weights}", "give `tokenizer` in the config")
    loaded = load_tokenizer(tokenizer)
    require_fit(loaded, model)
    with tempfile.TemporaryDirectory() as scratch:
        module: nn.Module
        if artefact is None:
            module = build_module(lower(model), Path(scratch) / "module", 0)
            module.load_state_dict({n: torch.from_numpy(x) for n, x in read_weights(model, weights).items()})
        else:
            module = Streamed(artefact, config.rows)
        store = open_store(Path(scratch) / "tokens", config.data, config.field, loaded, model.vocab)
        return evaluate(module, store, config.context, config.rows)
