"""What a run shows: a bar on a terminal, plain lines elsewhere, and `metrics.jsonl` always."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cdrmix.plain_json import to_json
from cdrmix.weights import atomic


class Metrics:
    """`metrics.jsonl`: one JSON object a line, each with its `step`.  Resuming drops what came after the checkpoint."""

    def __init__(self, path: Path, step: int):
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # a line cut short by a kill
                if isinstance(record, dict) and step and record.get("step", step + 1) <= step:
                    kept.append(line)
        with atomic(path) as f:
            f.write("".join(line + "\n" for line in kept).encode())
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; a number that is not finite becomes `null`."""
        self._file.write(to_json(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
