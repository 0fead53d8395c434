"""The training loop.

Input: a `TrainConfig`.  Output: a run's folder.  The loss of a step is a function of the config and the step alone: a
run that is stopped and resumed gives bitwise the losses of one that was not.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cdrmix.artifact import beside
from cdrmix.check import load
from cdrmix.checkpoints import check_weights, find_weights, read_weights
from cdrmix.compiler import Lowered, emit, lower
from cdrmix.diagnose import UserError
from cdrmix.ir.nodes import Model
from cdrmix.progress import doing
from cdrmix.runs import CHECKPOINTS, LAST, checkpoints, first_whole, read_checkpoint, tell_choice
from cdrmix.runtime.parts import sweep
from cdrmix.runtime.torch.load import ALIAS, load_module
from cdrmix.runtime.torch.stream import State
from cdrmix.runtime.torch.sums import Sums
from cdrmix.train.batches import IGNORE, Batch, Batches, Lanes
from cdrmix.train.checkpoint import load_checkpoint, point_last, save_checkpoint, set_aside
from cdrmix.train.config import TrainConfig
from cdrmix.train.evaluate import evaluate
from cdrmix.train.interrupt import asked_to_stop
from cdrmix.train.lock import Lock
from cdrmix.train.memory import keep_freed_memory, require_memory
from cdrmix.train.optimiser import make_optimiser, overlap, rate, set_rate
from cdrmix.train.progress import Bar, Metrics
from cdrmix.train.sources import files_of
from cdrmix.train.store import END, TokenStore, open_store
from cdrmix.train.tokenizer import load_tokenizer, require_fit
from cdrmix.weights import atomic

BAD_STEPS = 20
"""A run ends after so many steps in a row without a finite loss and gradient."""


@dataclass(slots=True)
class Loss:
    """What one step measured, summed over its parts; `targets` is how many tokens it predicted."""

    targets: int
    loss: float
    norm: float
    aux: dict[str, float]
    metrics: dict[str, torch.Tensor]

    @property
    def finite(self) -> bool:
        """Whether the step may move the weights."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


def build_module(lowered: Lowered, folder: Path, seed: int) -> nn.Module:
    """The generated torch module, its source kept in `folder`."""
    for name, content in emit(lowered, "torch").items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as f:
            f.write(content)
    with doing("making the first weights"):
        module: nn.Module = load_module(folder / "model.py").Model(seed=seed)
    return module


class Trainer:
    """One run: its module, data and optimiser."""

    def __init__(self, config: TrainConfig, resume: bool = False):
        self.config = config
        if config.batch % config.accumulate:
            raise UserError(
                f"batch {config.batch} does not divide into {config.accumulate} parts", "change `accumulate`"
            )
        if config.threads:
            torch.set_num_threads(config.threads)
        keep_freed_memory()
        model = load(config.spec, config.set, options=config.options)
        lowered = lower(model)
        self.notes = lowered.notes
        if short := overlap(config.optim, config.steps):
            self.notes += (short,)
        self.context = context_of(config, model)
        at_once = config.batch // config.accumulate * self.context
        require_memory(at_once, model.vocab, "a larger `accumulate`, or a smaller `batch` or `context`")
        self._tokenizer = load_tokenizer(config.tokenizer)
        require_fit(self._tokenizer, model)
        files_of([*config.data.train, *config.data.eval])  # missing ones are told before anything is written
        self._start = None if resume else self._weights(model)
        self._about = {"hash": lowered.program.hash, "config": config.model_dump(mode="json")}
        if config.out.exists() and not config.out.is_dir():
            raise UserError(f"`out` is {config.out}, a file", "give a folder for the run")
        if resume and not config.out.is_dir():
            raise UserError(f"nothing to resume in {config.out}: no such folder", "leave --resume out to start")
        self._lock = Lock(config.out, config.out / ".lock")
        try:
            self._open(model, lowered, resume)
        except BaseException:
            self._lock.close()
            raise

    def _open(self, model: Model, lowered: Lowered, resume: bool) -> None:
        """Everything in the run's folder, which is this process's alone."""
        config, run = self.config, self.config.out
        for folder in (run, run / CHECKPOINTS, run / "module", run / "module" / ALIAS):
            sweep(folder)
        self.step = 0
        self.carried: State | None = {} if config.carry_state else None
        self._require_fit(resume)
        for name in (CHECKPOINTS, "module"):  # what cannot be written is told before any work
            try:
                (run / name).mkdir(exist_ok=True)
            except OSError as e:
                raise UserError(f"{run / name}: {e.strerror}", "remove it, or give another `out`") from e
        self.train_data = self._store(config.data.train, model.vocab)
        self.eval_data = self._store(config.data.eval, model.vocab) if config.data.eval else None
        kind = Lanes if config.carry_state else Batches
        self._batches = kind(self.train_data, config.batch, self.context, config.seed)
        self.module = build_module(lowered, run / "module", config.seed)
        if self._start:
            self._begin_from(model, self._start)
        self.module.train()
        self.optimiser = make_optimiser(self.module, config.optim)
        self._about["data"] = self.train_data.digest
        if resume:
            self._resume()

    def _weights(self, model: Model) -> Path | None:
        """The file of the weights to start from, if it fits."""
        if self.config.checkpoint is None:
            return None
        weights = find_weights(self.config.checkpoint)
        check_weights(model, weights)
        own = beside(weights, "tokenizer.json")
        if own and load_tokenizer(own).to_str() != self._tokenizer.to_str():
            self.notes += (f"{own} is another tokenizer than the run's: its tokens mean other texts",)
        return weights

    def _begin_from(self, model: Model, weights: Path) -> None:
        tensors = {name: torch.from_numpy(x) for name, x in read_weights(model, weights).items()}
        odd = [name for name, x in tensors.items() if not x.isfinite().all()]
        if odd:
            raise UserError(f"{weights}: {odd[0]} holds numbers that are not finite", "start from another checkpoint")
        self.module.load_state_dict(tensors)

    def _store(self, paths: list[Path], vocab: int) -> TokenStore:
        folder = self.config.out / "tokens"
        return open_store(folder, paths, self.config.data.field, self._tokenizer, vocab)

    def _require_fit(self, resume: bool) -> None:
        """Refuse a folder that holds a run already, or, to be resumed, none or another one."""
        run = self.config.out
        if (run / LAST).exists() and not (run / LAST).is_symlink():
            raise UserError(f"{run / LAST} is no link", f"give it the name of its step in {run / CHECKPOINTS}")
        if not resume and checkpoints(run):
            raise UserError(f"{run} holds a run already", "go on with --resume, or give another `out`")
        if resume:
            if not checkpoints(run):
                raise UserError(f"nothing to resume in {run}: no checkpoint", "leave --resume out to start")
            _, about, _ = first_whole(run, lambda home: read_checkpoint(home, ()))
            self._require_same(about)

    def _require_same(self, about: dict[str, Any]) -> None:
        """Refuse to go on from what another spec, config or text has led to."""
        run = self.config.out
        if about["hash"] != self._about["hash"]:
            raise UserError(f"the spec is not the one {run} was trained with", "resume with the same spec and `set`")
        free = {"steps", "out", "log_every", "eval_every", "eval_tokens", "save_every", "keep", "threads"}
        now: dict[str, Any] = self._about["config"]  # type: ignore[assignment]
        # what a run of another version knew no key for was as the default says
        then = {name: field.default for name, field in TrainConfig.model_fields.items()} | about["config"]
        changed = [k for k in now if k not in free and now[k] != then.get(k)]
        if changed:
            raise UserError(f"{', '.join(changed)} changed since {run} was started", "resume with the same config")
        if about["data"] != self._about.get("data", about["data"]):
            raise UserError(
                f"the data or the tokenizer is not what {run} was trained with", "resume with the same files"
            )

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint; damaged ones before it are set aside, as `step-….damaged`."""
        run = self.config.out
        home, about, damaged = first_whole(run, self._load)
        self._require_same(about)
        tell_choice(run, home, damaged)
        for path in damaged:
            if path.parent == run / CHECKPOINTS:
                set_aside(path)
        if home.parent == run / CHECKPOINTS:
            point_last(run, home)
        self.step = about["step"]

    def _load(self, home: Path) -> dict[str, Any]:
        return load_checkpoint(home, self.module, self.optimiser, self.carried)

    def train(self) -> None:
        """Run to the last step, writing metrics and checkpoints.  Ctrl-C saves the step in hand and raises.

        The last step is always saved, unless no step of this call could move the weights for want of a finite loss.
        """
        with self._lock:
            self._train()

    def _train(self) -> None:
        config = self.config
        metrics = Metrics(config.out / "metrics.jsonl", self.step)
        first, bad, moved, seconds, tokens = self.step, 0, 0, 0.0, 0
        empty = 0
        with Bar(config.steps, self.step) as bar, asked_to_stop() as stopped:
            for note in self.notes:
                bar.say(f"note: {note}")
            while self.step < config.steps:
                began = time.perf_counter()
                found = self.train_step(self.step)
                seconds += time.perf_counter() - began
                tokens += config.batch * self.context
                self.step += 1
                last = self.step == config.steps
                if found.targets == 0:
                    empty += 1
                    if empty == 1:
                        bar.say(f"note: step {self.step} has nothing to predict: {one_token(self.train_data)}")
                elif found.finite:
                    bad, moved = 0, moved + 1
                else:
                    bad += 1
                    if bad == 1:
                        bar.say(f"note: step {self.step} changes nothing: its loss or gradient is not finite")
                if bad >= BAD_STEPS or (last and bad and not moved):
                    raise UserError(f"no finite loss in {bad} steps, the last one step {self.step}", self._before())
                if self.step % config.log_every == 0 or last:
                    speed, seconds, tokens = tokens / seconds, 0.0, 0
                    record = self._record(found, speed)
                    metrics.write(record)
                    bar.show(self.step, describe(record), True)
                else:
                    bar.show(self.step, f"loss {found.loss:.3f}", False)
                if self.eval_data and (self.step % config.eval_every == 0 or last):
                    score = evaluate(self.module, self.eval_data, self.context, limit=config.eval_tokens)
                    metrics.write({"step": self.step, "eval_loss": score.loss, "eval_bits": score.bits_per_byte})
                    bar.say(
                        f"step {self.step}: held-out loss {score.loss:.4f}, bits per byte {score.bits_per_byte:.4f}"
                    )
                stop = stopped()
                if stop or last or (not bad and self.step % config.save_every == 0):
                    metrics.sync()
                    self.save()
                if stop and not last:
                    bar.say(f"step {self.step} is saved; --resume goes on from it")
                    raise KeyboardInterrupt
            if bad:
                said = "steps changed" if bad > 1 else "step changed"
                bar.say(f"note: the last {bad} {said} nothing, without a finite loss; lower optim.lr or optim.clip")
            if empty:
                bar.say(f"note: {empty} of {self.step - first} steps had nothing to predict and changed nothing")
        metrics.close()

    def save(self) -> Path:
        """Write a checkpoint of this step.  Refuses weights that are not finite."""
        if not all(bool(p.isfinite().all()) for p in self.module.parameters()):
            raise UserError(f"the weights of step {self.step} are not finite", self._before())
        text = self._tokenizer.to_str()
        return save_checkpoint(
            self.config.out,
            self.step,
            self.module,
            self.optimiser,
            text,
            self._about,
            self.config.keep,
            self.carried,
        )

    def _before(self) -> str:
        """What to do about a run that went astray, and what is left of it."""
        last = self.config.out / LAST
        saved = f"{last} is the checkpoint before" if last.exists() else "nothing was saved yet"
        return f"lower optim.lr or optim.clip; {saved}"

    def _record(self, found: Loss, speed: float) -> dict[str, Any]:
        lr = self.config.optim.lr * rate(self.config.optim, self.step - 1, self.config.steps)
        record: dict[str, Any] = {"step": self.step, "loss": found.loss, "norm": found.norm, "lr": lr}
        record |= {"tokens": self.step * self.config.batch * self.context, "tokens_per_s": round(speed, 1)}
        record["aux"] = found.aux
        record["metrics"] = {path: x.tolist() for path, x in found.metrics.items()}
        return record

    def train_step(self, step: int) -> Loss:
        """Forward, backward and update on the batch of a step."""
        config, module = self.config, self.module
        batch = self._batches.at(step)
        scored = int((batch.targets != IGNORE).sum())
        if scored == 0:
            return Loss(0, 0.0, 0.0, {}, {})
        total, share = 0.0, 1 / config.accumulate
        sums = Sums()
        self.optimiser.zero_grad(set_to_none=True)
        after: list[State] = []
        for part, before in zip(*_parts(batch, self.carried, config.accumulate), strict=True):
            own = Sums()
            logits, state = module(part.tokens, before, part.reset, own)
            after.append(state)
            loss = F.cross_entropy(
                logits.flatten(0, 1).float(), part.targets.flatten(), ignore_index=IGNORE, reduction="sum"
            )
            loss = loss / scored
            sums += own.detach()
            aux = module.aux(own.of_step(sums, share))  # type: ignore[operator]
            (loss + sum(aux.values()) * share).backward()
            total += float(loss.detach())
        norm = float(nn.utils.clip_grad_norm_(module.parameters(), config.optim.clip))
        with torch.no_grad():
            extra = {path: float(x) for path, x in module.aux(sums).items()}  # type: ignore[operator]
        found = Loss(scored, total, norm, extra, module.metrics(sums))  # type: ignore[operator]
        if found.finite:  # a bad batch moves nothing
            set_rate(self.optimiser, rate(config.optim, step, config.steps))
            self.optimiser.step()
            module.after_step(sums)  # type: ignore[operator]
        if self.carried is not None:  # after a bad batch the lanes begin anew
            whole = {path: torch.cat([s[path].detach() for s in after]) for path in after[0]} if found.finite else {}
            self.carried.clear()
            self.carried.update(whole)
        return found


def context_of(config: TrainConfig, model: Model) -> int:
    """Tokens a sequence: the config's `context`, else the spec's setting of that name."""
    context = config.context or model.settings.get("context")
    if not isinstance(context, int) or context < 1:
        raise UserError(f"{model.name} has no `context` setting", "give `context` in the config")
    return context


def describe(record: dict[str, Any]) -> str:
    """One line for people: loss, speed, and the least and most loaded expert as a share of an even load."""
    text = f"loss {record['loss']:.3f}  lr {record['lr']:.1e}  {record['tokens_per_s']:,.0f} tokens/s"
    loads = [x for path, x in record["metrics"].items() if path.endswith(".load")]
    if loads:
        shares = [share * len(load) for load in loads for share in load]
        text += f"  expert load {min(shares):.2f}..{max(shares):.2f}"
    return text


def one_token(store: TokenStore) -> str:
    """Why a step may have nothing to predict, and what helps."""
    ones = int((np.diff(store.starts, append=len(store.tokens)) == 1).sum())
    about = f"{ones} of {len(store.starts)} documents are one token long"
    return f"{about}; give longer documents, a larger `batch`, or a tokenizer with `{END}`, which is predicted too"


def _parts(batch: Batch, state: State | None, count: int) -> tuple[list[Batch], list[State | None]]:
    """A batch and the state that it begins with, in parts."""
    cut = [x.chunk(count) for x in (batch.tokens, batch.targets, batch.reset)]
    rows = {path: x.chunk(count) for path, x in (state or {}).items()}
    states = [{path: x[i] for path, x in rows.items()} or None for i in range(count)]
    return [Batch(*part) for part in zip(*cut, strict=True)], states
