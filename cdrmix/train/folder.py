"""A run's folder while a process trains in it: one writer, a run that fits, checkpoints in and out.

Input: a config and the hash of its spec.
Output: a `RunFolder`, locked until it is closed; by the first rank, where there are several.  What it does not fit is
refused before anything is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from cdrmix.diagnose import UserError
from cdrmix.runs import CHECKPOINTS, LAST, checkpoints, first_whole, read_checkpoint, tell_choice
from cdrmix.runtime.parts import sweep
from cdrmix.runtime.torch.load import ALIAS
from cdrmix.runtime.torch.module import Streaming
from cdrmix.runtime.torch.stream import State
from cdrmix.train.average import Average
from cdrmix.train.checkpoint import (
    check_checkpoint,
    load_checkpoint,
    load_state,
    point_last,
    save_checkpoint,
    set_aside,
)
from cdrmix.train.config import OptimConfig, TrainConfig
from cdrmix.train.lock import Lock
from cdrmix.train.ranks import ALONE, Ranks
from cdrmix.train.shard import own
from cdrmix.train.tensor_file import Share

_MAY_CHANGE = {"steps", "out", "log_every", "eval_every", "eval_tokens", "save_every", "keep", "threads", "mesh"}
"""What a run may be resumed with another value of."""


class RunFolder:
    """The folder `out` of a config, this process's alone; `resume` says whether it has to hold a run or must not."""

    def __init__(self, config: TrainConfig, hash: str, resume: bool, ranks: Ranks = ALONE):
        self.path, self._ranks = config.out, ranks
        self.module, self.tokens, self.metrics = (self.path / n for n in ("module", "tokens", "metrics.jsonl"))
        self._keep = config.keep
        self._rows = config.batch, ranks.rows(config.batch, config.accumulate)
        self._about: dict[str, Any] = {"hash": hash, "config": config.model_dump(mode="json")}
        self._lock: Lock | None = None
        ranks.once(lambda: self._take(resume))

    def _take(self, resume: bool) -> None:
        """Lock the folder, and look at what it holds."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"`out` is {self.path}, a file", "give a folder for the run")
        if resume and not self.path.is_dir():
            raise UserError(f"nothing to resume in {self.path}: no such folder", "leave --resume out to start")
        self._lock = Lock(self.path, self.path / ".lock")
        try:
            for folder in (self.path, self.path / CHECKPOINTS, self.module, self.module / ALIAS):
                sweep(folder)
            self._require_fit(resume)
            for folder in (self.path / CHECKPOINTS, self.module):  # what cannot be written is told before any work
                try:
                    folder.mkdir(exist_ok=True)
                except OSError as e:
                    raise UserError(f"{folder}: {e.strerror}", "remove it, or give another `out`") from e
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others write to it."""
        if self._lock:
            self._lock.close()

    def _require_fit(self, resume: bool) -> None:
        """Refuse a folder that holds a run already, or, to be resumed, none or another one."""
        run = self.path
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
        if about["hash"] != self._about["hash"]:
            raise UserError(
                f"the spec is not the one {self.path} was trained with", "resume with the same spec and `set`"
            )
        now: dict[str, Any] = self._about["config"]
        then = _as_of_now(about["config"])
        changed = [k for k in now if k not in _MAY_CHANGE and now[k] != then.get(k)]
        if changed:
            raise UserError(
                f"{', '.join(changed)} changed since {self.path} was started", "resume with the same config"
            )
        if about["data"] != self._about.get("data", about["data"]):
            raise UserError(
                f"the data or the tokenizer is not what {self.path} was trained with", "resume with the same files"
            )

    def trains_on(self, digest: str) -> None:
        """Name the data of the run."""
        self._about["data"] = digest

    def resume(
        self, module: Streaming, optimiser: torch.optim.Optimizer, carried: State | None, average: Average | None
    ) -> int:
        """Load the newest whole checkpoint, and return its step.

        Damaged ones before it are set aside, as `step-….damaged`.
        """
        has = carried is not None, average is not None
        home, step = self._ranks.once(lambda: self._choose(module, optimiser, has))
        self._ranks.together(lambda: load_checkpoint(home, module, optimiser, average))
        if carried is not None:
            carried.clear()
            carried.update(self._ranks.together(lambda: load_state(home, self._rows[1])))
        return step

    def _choose(self, module: Streaming, optimiser: torch.optim.Optimizer, has: tuple[bool, bool]) -> tuple[Path, int]:
        """The checkpoint to go on from, and its step."""
        run = self.path
        of = module, optimiser, *has
        home, about, damaged = first_whole(run, lambda home: check_checkpoint(home, *of))
        self._require_same(about)
        tell_choice(run, home, damaged)
        for path in damaged:
            if path.parent == run / CHECKPOINTS:
                set_aside(path)
        if home.parent == run / CHECKPOINTS:
            point_last(run, home)
        return home, about["step"]

    def save(
        self,
        step: int,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        tokenizer: str,
        carried: State | None,
        average: Average | None,
    ) -> None:
        """Write a checkpoint.  Refuses weights that are not finite."""
        if self._ranks.any(not all(bool(own(p).isfinite().all()) for p in module.parameters())):
            raise UserError(f"the weights of step {step} are not finite", self.remedy())
        state = None if carried is None else {n: Share.of_batch(x, *self._rows) for n, x in carried.items()}
        given = self.path, step, module, optimiser, tokenizer, self._about, self._keep
        save_checkpoint(*given, state, average, self._ranks)

    def remedy(self) -> str:
        """What to do about a run that went astray, and what is left of it."""
        last = self.path / LAST
        saved = f"{last} is the checkpoint before" if last.exists() else "nothing was saved yet"
        return f"lower optim.lr or optim.clip; {saved}"


def _as_of_now(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a run, perhaps of another version: what that knew no key for was as the default says, and before
    there was a choice of devices it was the CPU."""
    known = {name: field.default for name, field in TrainConfig.model_fields.items()}
    known |= {"device": "cpu", "precision": config.get("work", "f32"), "compile": False}
    optim = {name: field.default for name, field in OptimConfig.model_fields.items()} | config.get("optim", {})
    return known | config | {"optim": optim}
