"""Evaluate a checkpoint by its config."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from cdrmix.artifact import beside
from cdrmix.check import load
from cdrmix.compiler import lower
from cdrmix.diagnose import UserError
from cdrmix.train.config import EvalConfig
from cdrmix.train.evaluate import Score, evaluate
from cdrmix.train.loop import build_module
from cdrmix.train.store import open_store
from cdrmix.train.tokenizer import load_tokenizer
from cdrmix.weights import check_weights, find_weights


def score_checkpoint(config: EvalConfig) -> Score:
    """Load the checkpoint into the spec's module and score the data."""
    if config.threads:
        torch.set_num_threads(config.threads)
    model = load(config.spec, config.set)
    weights = find_weights(config.checkpoint)
    check_weights(model, weights)
    tokenizer = config.tokenizer or beside(weights, "tokenizer.json")
    if tokenizer is None:
        raise UserError(f"no tokenizer beside {weights}", "give `tokenizer` in the config")
    with tempfile.TemporaryDirectory() as scratch:
        module = build_module(lower(model), Path(scratch) / "module", 0)
        module.load_state_dict(load_file(str(weights)))
        store = open_store(Path(scratch) / "tokens", config.data, config.field, load_tokenizer(tokenizer), model.vocab)
        return evaluate(module, store, config.context, config.rows)
