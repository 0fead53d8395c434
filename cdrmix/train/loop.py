"""The training loop: build the module, place it, run steps.

Input: a `TrainConfig`, and the ranks it runs on.  Output: a run's folder.  The loss of a step is a function of the
config, the step and the number of ranks alone: a run that is stopped and resumed gives bitwise the losses of one that
was not, and on another number of ranks those but for rounding.  Every rank runs this loop; only the first writes
metrics and what else is written once.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from cdrmix.artifact import beside
from cdrmix.check import load
from cdrmix.checkpoints import check_weights, find_weights
from cdrmix.compiler import Lowered, lower
from cdrmix.diagnose import UserError
from cdrmix.ir.nodes import DType, Model
from cdrmix.runtime.torch.stream import State
from cdrmix.train.average import Average
from cdrmix.train.batches import Batches, Lanes
from cdrmix.train.build import fill, read_source, require_finite, write_source
from cdrmix.train.config import TrainConfig
from cdrmix.train.evaluate import evaluate
from cdrmix.train.experts import Experts
from cdrmix.train.folder import RunFolder
from cdrmix.train.interrupt import asked_to_stop
from cdrmix.train.optimiser import make_optimiser, overlap, rate
from cdrmix.train.place import Placement, place, require_memory
from cdrmix.train.progress import Bar, Metrics, NoMetrics, Tally, describe, record
from cdrmix.train.ranks import ALONE, Ranks
from cdrmix.train.shard import Mesh, settle
from cdrmix.train.sources import files_of
from cdrmix.train.step import Measured, take_step
from cdrmix.train.store import TokenStore, make_store, read_store
from cdrmix.train.tokenizer import load_tokenizer, require_fit

BAD_STEPS = 20
"""A run ends after so many steps in a row without a finite loss and gradient."""


class Trainer:
    """One run: its module, data and optimiser."""

    def __init__(self, config: TrainConfig, resume: bool = False, ranks: Ranks = ALONE):
        self.config, self.ranks = config, ranks
        if config.batch % config.accumulate:
            raise UserError(
                f"batch {config.batch} does not divide into {config.accumulate} parts", "change `accumulate`"
            )
        if config.batch // config.accumulate % ranks.size:
            raise UserError(
                f"a part of {config.batch // config.accumulate} sequences does not divide over {ranks.size} processes",
                "change `batch`, `accumulate`, or how many processes are started",
            )
        self.placement = placement_of(config, ranks)
        self.placement.prepare()
        chosen = {"device": self.placement.device, "precision": self.placement.work, "compile": self.placement.compiled}
        self.config = config.model_copy(update=chosen)  # a run goes on as it began, wherever it is resumed
        model = load(config.spec, config.set, options=config.options)
        lowered = lower(model, work=self.placement.work)
        short = overlap(config.optim, config.steps)
        self.notes = (*lowered.notes, *([short] if short else []))
        self.context = context_of(config, model)
        at_once = config.batch // config.accumulate * self.context * ranks.local // ranks.size  # on this machine
        require_memory(at_once, model.width, "values", "a larger `accumulate`, or a smaller `batch` or `context`")
        self._tokenizer = load_tokenizer(config.tokenizer)
        require_fit(self._tokenizer, model)
        files_of([*config.data.train, *config.data.eval])  # missing ones are told before anything is written
        weights = None if resume or config.checkpoint is None else self._weights(config.checkpoint, model)
        self.folder = RunFolder(self.config, lowered.program.hash, resume, ranks)
        try:
            self._open(model, lowered, weights, resume)
        except BaseException:
            self.folder.close()
            raise

    def _weights(self, checkpoint: Path, model: Model) -> Path:
        """The file of the weights to start from, which fits."""
        weights = find_weights(checkpoint)
        check_weights(model, weights)
        own = beside(weights, "tokenizer.json")
        if own and load_tokenizer(own).to_str() != self._tokenizer.to_str():
            self.notes += (f"{own} is another tokenizer than the run's: its tokens mean other texts",)
        return weights

    def _open(self, model: Model, lowered: Lowered, weights: Path | None, resume: bool) -> None:
        """What the run's folder holds, and the module, built and placed."""
        config = self.config
        self.train_data = self._store(config.data.train, model.vocab)
        self.eval_data = self._store(config.data.eval, model.vocab) if config.data.eval else None
        self.folder.trains_on(self.train_data.digest)
        kind = Lanes if config.carry_state else Batches
        rows = np.concatenate([np.arange(r.start, r.stop) for r in self.ranks.rows(config.batch, config.accumulate)])
        self.batches = kind(self.train_data, config.batch, self.context, config.seed, rows)
        self.ranks.once(lambda: write_source(lowered, self.folder.module))
        self.module = place(read_source(self.folder.module), self.placement).train()
        if not resume:
            fill(self.module, model, config.seed, weights)
        if weights is not None:
            require_finite(self.module, weights)
        self.optimiser = make_optimiser(self.module, config.optim)
        self.carried: State | None = {} if config.carry_state else None
        self.average = Average(self.module, config.optim.ema) if config.optim.ema else None
        own = self.module, self.optimiser, self.carried, self.average
        self.step = self.folder.resume(*own) if resume else 0
        if self.carried:
            self.carried = {path: x.to(self.placement.device) for path, x in self.carried.items()}

    def _store(self, paths: list[Path], vocab: int) -> TokenStore:
        """The tokens of these files: the first rank makes them, all read them."""
        asked = self.folder.tokens, paths, self.config.data.field, self._tokenizer, vocab
        home = self.ranks.once(lambda: make_store(*asked))
        return self.ranks.together(lambda: read_store(home, self._tokenizer, vocab))

    def train(self) -> None:
        """Run to the last step, writing metrics and checkpoints.  Ctrl-C saves the step in hand and raises.

        The last step is always saved, unless no step of this call could move the weights for want of a finite loss.
        """
        try:
            self._train()
        finally:
            self.folder.close()

    def _train(self) -> None:
        config, tally, tokens = self.config, Tally(self.train_data), self.config.batch * self.context
        metrics = Metrics(self.folder.metrics, self.step) if self.ranks.first else NoMetrics()
        experts = Experts()
        with Bar(config.steps, self.step) as bar, asked_to_stop(self.ranks.first) as stopped:
            for note in self.notes:
                bar.say(f"note: {note}")
            while self.step < config.steps:
                began = time.perf_counter()
                found = self.train_step(self.step)
                seconds = time.perf_counter() - began
                self.step += 1
                last = self.step == config.steps
                experts.count(found.routed, found.metrics)
                if note := tally.count(self.step, found, tokens, seconds):
                    bar.say(note)
                if tally.bad >= BAD_STEPS or (last and tally.bad and not tally.moved):
                    raise UserError(
                        f"no finite loss in {tally.bad} steps, the last one step {self.step}", self.folder.remedy()
                    )
                if self.step % config.log_every == 0 or last:
                    lr = config.optim.lr * rate(config.optim, self.step - 1, config.steps)
                    reports, alarms = experts.reports()
                    told = record(self.step, found, lr, self.step * tokens, tally.speed(), reports)
                    metrics.write(told)
                    for alarm in alarms:
                        bar.say(f"step {self.step}: {alarm}")
                    bar.show(self.step, describe(told), True)
                else:
                    bar.show(self.step, f"loss {found.loss:.3f}", False)
                if self.eval_data and (self.step % config.eval_every == 0 or last):
                    self._score(self.eval_data, metrics, bar)
                stop = self.ranks.any(stopped())
                if stop or last or (not tally.bad and self.step % config.save_every == 0):
                    metrics.sync()
                    self.save()
                if stop and not last:
                    bar.say(f"step {self.step} is saved; --resume goes on from it")
                    raise KeyboardInterrupt
            for note in tally.end():
                bar.say(note)
        metrics.close()

    def train_step(self, step: int) -> Measured:
        """Forward, backward and update on the batch of a step."""
        batch, config = self.batches.at(step).to(self.placement.device), self.config
        share, clip, parts = rate(config.optim, step, config.steps), config.optim.clip, config.accumulate
        given = self.module, self.optimiser, batch, self.carried
        found, self.carried = take_step(*given, share, clip, parts, config.optim.z_loss, self.ranks)
        if self.average is not None and found.finite and found.targets:
            self.average.update(step)
        return found

    def _score(self, data: TokenStore, metrics: Metrics, bar: Bar) -> None:
        """Score the held-out data by the weights, and by their average where there is one: every rank all of it."""
        self._score_as("eval", "held-out loss", data, metrics, bar)
        if self.average is not None:
            with self.average.in_place():
                self._score_as("ema", "the average's held-out loss", data, metrics, bar)

    def _score_as(self, kind: str, what: str, data: TokenStore, metrics: Metrics, bar: Bar) -> None:
        score = evaluate(self.module, data, self.context, limit=self.config.eval_tokens, device=self.placement.device)
        settle(self.module)
        metrics.write({"step": self.step, f"{kind}_loss": score.loss, f"{kind}_bits": score.bits_per_byte})
        bar.say(f"step {self.step}: {what} {score.loss:.4f}, bits per byte {score.bits_per_byte:.4f}")

    def save(self) -> None:
        """Write a checkpoint of this step.  Refuses weights that are not finite."""
        given = self.module, self.optimiser, self._tokenizer.to_str(), self.carried, self.average
        self.folder.save(self.step, *given)


def placement_of(config: TrainConfig, ranks: Ranks = ALONE) -> Placement:
    """What a config asks for; `auto`: a GPU if torch finds one, and there bf16 and a compiled graph."""
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = auto if config.device == "auto" else config.device
    on_gpu = device == "cuda"
    work: DType = config.precision if config.precision != "auto" else "bf16" if on_gpu else "f32"
    compiled = on_gpu if config.compile == "auto" else config.compile
    mesh = Mesh.of(ranks.size, config.mesh.replicate, config.mesh.shards)
    return Placement(device, work, compiled, config.recompute == "layers", mesh, config.threads, ranks.local)


def context_of(config: TrainConfig, model: Model) -> int:
    """Tokens a sequence: the config's `context`, else the spec's setting of that name."""
    context = config.context or model.settings.get("context")
    if not isinstance(context, int) or context < 1:
        raise UserError(f"{model.name} has no `context` setting", "give `context` in the config")
    return context
