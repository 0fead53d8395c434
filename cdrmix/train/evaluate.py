"""How well a model predicts text: loss, perplexity, bits per byte.

Input: a checkpoint, which becomes the spec's module, or an artefact, whose own program predicts.
Output: a `Score`.  Each document is read from its start to its end with its state carried, as it would be streamed;
every token is scored but a document's first, and the end-of-text token is scored too where the tokenizer has one.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdrmix.artifact import MANIFEST, beside
from cdrmix.check import load
from cdrmix.checkpoints import check_weights, find_weights
from cdrmix.compiler import lower, model_hash
from cdrmix.diagnose import UserError
from cdrmix.runtime.session import Session, read_manifest
from cdrmix.runtime.torch.module import Streaming
from cdrmix.train.batches import IGNORE, lanes
from cdrmix.train.build import build
from cdrmix.train.config import EvalConfig
from cdrmix.train.loss import summed_nats
from cdrmix.train.place import Placement, place, require_memory
from cdrmix.train.store import TokenStore, open_store
from cdrmix.train.tokenizer import load_tokenizer, require_fit


def score_checkpoint(config: EvalConfig) -> Score:
    """Load the checkpoint into the spec's module, or the artefact into sessions, and score the data."""
    placement = Placement(threads=config.threads)
    placement.prepare()
    model = load(config.spec, config.set, options=config.options)
    artefact = config.checkpoint if (config.checkpoint / MANIFEST).is_file() else None
    size, what = (model.width, "values") if artefact is None else (model.vocab, "logits")
    require_memory(config.rows * config.context, size, what, "a smaller `rows` or `context`")
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
        module: Streaming
        if artefact is None:
            built = build(model, lower(model, work=placement.work), Path(scratch) / "module", weights=weights)
            module = place(built, placement)
        else:
            module = Streamed(artefact, config.rows)
        store = open_store(Path(scratch) / "tokens", config.data, config.field, loaded, model.vocab)
        return evaluate(module, store, config.context, config.rows)


@dataclass(frozen=True, slots=True)
class Score:
    """`nats` over `tokens` scored tokens, which are `size` bytes of text."""

    nats: float
    tokens: int
    size: int

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Bits a byte of text; the end-of-text token costs bits and is no byte."""
        return self.nats / math.log(2) / max(1, self.size)


@torch.no_grad()
def evaluate(
    module: Streaming,
    store: TokenStore,
    length: int,
    rows: int = 8,
    limit: int | None = None,
    device: str = "cpu",
) -> Score:
    """Score a store, `length` tokens at a time in `rows` lanes; with a `limit`, only its first so many predictions.
    `device` is the module's."""
    was_training = module.training
    module.eval()
    sizes = torch.from_numpy(store.sizes)
    state: Any = None
    nats, tokens, size = 0.0, 0, 0
    for batch in lanes(store, rows, length, limit):
        there = batch.to(device)
        x, state = module.hidden(there.tokens, state, there.reset)
        nats += summed_nats(module, x, there.targets)
        scored = batch.targets[batch.targets != IGNORE]
        tokens, size = tokens + len(scored), size + int(sizes[scored].sum())
    module.train(was_training)
    return Score(nats, max(1, tokens), size)


class Streamed(Streaming):
    """An artefact in a module's place: each of `rows` rows is streamed token by token through a session of its own."""

    def __init__(self, folder: Path, rows: int):
        super().__init__()
        first = Session.open(folder)
        self.sessions = [first, *(first.fork() for _ in range(rows - 1))]

    def hidden(self, tokens: Tensor, state: object, reset: Tensor) -> tuple[Tensor, Any]:  # type: ignore[override]
        """tokens, reset [B, T] to logits [B, T, vocab]; a `state` of None begins every row anew."""
        rows, length = tokens.shape
        logits = torch.empty(rows, length, self.sessions[0].vocab)
        for row, session in zip(range(rows), self.sessions, strict=False):
            if state is None:
                session.reset()
            for t in range(length):
                if reset[row, t]:
                    session.reset()
                logits[row, t] = torch.from_numpy(session.step(int(tokens[row, t])))
        return logits, self
