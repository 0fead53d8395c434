"""What a run shows: a bar on a terminal, plain lines elsewhere, and `metrics.jsonl` always."""

from __future__ import annotations

import json
import os
import sys
import warnings
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cdrmix.diagnose import UserError
from cdrmix.plain_json import to_json
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
