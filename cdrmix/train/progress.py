"""What a run shows: a bar on a terminal, plain lines elsewhere, `metrics.jsonl` always.

Input: what each step measured.  Output: notes and lines for people, records, and a curve drawn from these.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cdrmix.diagnose import UserError
from cdrmix.plain_json import to_json
from cdrmix.train.step import Measured
from cdrmix.train.store import END, TokenStore
from cdrmix.weights import atomic


class Metrics:
    """`metrics.jsonl`: one JSON object a line, each with its `step`.

    Resuming drops what came after the checkpoint.  What is not this run's, or cannot be read, is kept in a
    `metrics-….jsonl` of its own, with a word.
    """

    def __init__(self, path: Path, step: int):
        self._path = path
        if os.path.lexists(path) and not path.is_file():
            raise UserError(f"{path} is no file", "remove it, or give another `out`")
        before = path.read_bytes() if path.exists() else b""
        *lines, _ = before.split(b"\n")  # what follows the last line's end was cut short by a kill
        steps = [_step(line) for line in lines]
        if lines and (not step or None in steps):
            aside = next(p for n in count(1) if not (p := path.with_name(f"{path.stem}-{n}{path.suffix}")).exists())
            with atomic(aside) as f:
                f.write(before)
            why = "lines that cannot be read" if step else "what a run wrote that saved no checkpoint"
            warnings.warn(f"{path} held {why}: it is kept as {aside}", stacklevel=2)
        with atomic(path) as f:
            f.writelines(line + b"\n" for line, at in zip(lines, steps, strict=True) if at is not None and at <= step)
        self._file = path.open("ab", buffering=0)

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; a number that is not finite becomes `null`."""
        line = to_json(record).encode() + b"\n"
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as e:
            raise UserError(
                f"cannot write {self._path}: {e.strerror}", "make room; --resume goes on from the last checkpoint"
            ) from e

    def sync(self) -> None:
        """Let all that was written be on the disk: a checkpoint comes after the metrics that led to it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class NoMetrics(Metrics):
    """What a rank writes that is not the first: nothing."""

    def __init__(self) -> None: ...

    def write(self, record: dict[str, Any]) -> None: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


def _step(line: bytes) -> int | None:
    """The step of a record, or None for what is none."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int and step > 0 else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`."""
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if _step(line) is None:
            raise UserError(f"{path}:{number}: no record of a step", "`cdrmix train --resume` puts such lines aside")
    return [json.loads(line) for line in lines]


class Bar:
    """The progress of a run on stderr."""

    def __init__(self, steps: int, done: int):
        self._console = Console(stderr=True)
        self._live = sys.stderr.isatty()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=self._console, disable=not self._live)
        self._task = self._progress.add_task("training", total=steps, completed=done, text="")
        self._steps = steps

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, step: int, text: str, line: bool) -> None:
        """Move the bar; off a terminal print the text when `line`."""
        self._progress.update(self._task, completed=step, text=text)
        if line and not self._live:
            print(f"step {step}/{self._steps}  {text}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def record(
    step: int, found: Measured, lr: float, tokens: int, speed: float, experts: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """What `metrics.jsonl` says of a step: `tokens` since the run began, `speed` in tokens a second, `experts` by
    bank."""
    return {
        "step": step,
        "loss": found.loss,
        "norm": found.norm,
        "lr": lr,
        "tokens": tokens,
        "tokens_per_s": round(speed, 1),
        "aux": found.aux,
        "metrics": {path: x.tolist() for path, x in found.metrics.items()},
        "experts": experts,
    }


def describe(record: dict[str, Any]) -> str:
    """One line for people: loss, speed, and the least and most loaded expert as a share of an even load."""
    text = f"loss {record['loss']:.3f}  lr {record['lr']:.1e}  {record['tokens_per_s']:,.0f} tokens/s"
    shares = [share * len(bank["load"]) for bank in record["experts"].values() for share in bank["load"]]
    if shares:
        text += f"  expert load {min(shares):.2f}..{max(shares):.2f}"
    return text


@dataclass(slots=True)
class Tally:
    """The steps of one call so far.

    `bad` ones in a row had no finite loss or gradient, `moved` moved the weights, `empty` had nothing to predict.
    """

    data: TokenStore
    steps: int = 0
    bad: int = 0
    moved: int = 0
    empty: int = 0
    _tokens: int = 0
    _seconds: float = 0.0

    def count(self, step: int, found: Measured, tokens: int, seconds: float) -> str:
        """Count a step; a note about the first of a kind that changes nothing, or an empty text."""
        self.steps, self._tokens, self._seconds = self.steps + 1, self._tokens + tokens, self._seconds + seconds
        if found.targets == 0:
            self.empty += 1
            return f"note: step {step} has nothing to predict: {self._ones()}" if self.empty == 1 else ""
        if found.finite:
            self.bad, self.moved = 0, self.moved + 1
            return ""
        self.bad += 1
        return f"note: step {step} changes nothing: its loss or gradient is not finite" if self.bad == 1 else ""

    def speed(self) -> float:
        """Tokens a second since this was asked last."""
        speed, self._tokens, self._seconds = self._tokens / self._seconds, 0, 0.0
        return speed

    def end(self) -> Iterator[str]:
        """What there is to say at the end."""
        if self.bad:
            said = "steps changed" if self.bad > 1 else "step changed"
            yield f"note: the last {self.bad} {said} nothing, without a finite loss; lower optim.lr or optim.clip"
        if self.empty:
            yield f"note: {self.empty} of {self.steps} steps had nothing to predict and changed nothing"

    def _ones(self) -> str:
        """Why a step may have nothing to predict, and what helps."""
        starts = self.data.starts
        ones = int((np.diff(starts, append=len(self.data.tokens)) == 1).sum())
        about = f"{ones} of {len(starts)} documents are one token long"
        return f"{about}; give longer documents, a larger `batch`, or a tokenizer with `{END}`, which is predicted too"


def plot_loss(metrics: Path, picture: Path) -> None:
    """Write the training loss and, where it was measured, held-out bits per byte, as a .png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = read_metrics(metrics)
    figure, left = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    losses = [(r["step"], r["loss"]) for r in records if r.get("loss") is not None]
    if losses:
        left.plot(*zip(*losses, strict=True), lw=1, label="training loss")
    left.set(xlabel="step", ylabel="nats a token")
    scored = [(r["step"], r["eval_loss"]) for r in records if r.get("eval_loss") is not None]
    if scored:
        left.plot(*zip(*scored, strict=True), "o-", ms=4, label="held-out loss")
    if losses or scored:
        left.legend()
    left.grid(alpha=0.3)
    with atomic(picture) as f:
        figure.savefig(f, format="png", dpi=120)
    pyplot.close(figure)


def sparkline(values: list[float], width: int = 60) -> str:
    """The values as one line of blocks, averaged down to `width` of them."""
    if not values:
        return ""
    size = max(1, len(values) // width)
    means = [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]
    low, high = min(means), max(means)
    return "".join("▁▂▃▄▅▆▇█"[int(7.999 * (m - low) / (high - low or 1))] for m in means)
