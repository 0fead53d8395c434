"""Programs that run RWKV-7, each in a process of its own that does what the lines of its standard input say.

Input: `Program(kind, path, threads)`: ours (an artefact), llama (a GGUF file), rwkv (a `.pth` and the type to compute
in, as `model.pth:bf16`).
Output: seconds of CPU and of the wall for each kind of work, logits, the time to open, and the memory that it took.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from cdrmix.runtime.session import Batch, Session

from cdrmix.speed import resident

ROOT = Path(__file__).parents[1]


class Runner(Protocol):
    """A model that was opened, and one stream of it."""

    def reset(self) -> None:
        """A new document."""

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        """The logits after some more tokens."""

    def together(self, rows: int, tokens: Sequence[int]) -> bool:
        """Every one of `rows` streams reads the tokens, a step for all of them at a time; false where it cannot."""


class Ours:
    """An artefact."""

    def __init__(self, path: str):
        self.session = Session.open(path)
        self.batches: dict[int, Batch] = {}

    def reset(self) -> None:
        self.session.reset()

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        return self.session.prefill(tokens)

    def together(self, rows: int, tokens: Sequence[int]) -> bool:
        if rows not in self.batches:
            self.batches[rows] = self.session.batch(rows)
        batch = self.batches[rows]
        for n in range(len(tokens)):
            batch.step([tokens[(n + row) % len(tokens)] for row in range(rows)])
        return True


class Package:
    """The `rwkv` package's model, as fast as it runs on a CPU: with its compiled functions."""

    def __init__(self, path: str, threads: int):
        import torch

        torch.set_num_threads(threads)
        name, _, dtype = path.rpartition(":")
        with contextlib.redirect_stdout(io.StringIO()):
            from rwkv.model import RWKV

            self.model = RWKV(model=name.removesuffix(".pth"), strategy=f"cpu {dtype}")
        self.state: Any = None

    def reset(self) -> None:
        self.state = None

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        logits, self.state = self.model.forward(list(tokens), self.state)
        return logits.float().numpy().copy()

    def together(self, rows: int, tokens: Sequence[int]) -> bool:
        return False


def opened(kind: str, path: str, threads: int) -> Runner:
    """The model of a kind of program."""
    if kind == "ours":
        return Ours(path)
    if kind == "rwkv":
        return Package(path, threads)
    from bench.llama import Llama

    return Llama(Path(path), threads)


def serve(kind: str, path: str, threads: int) -> None:
    """Open a program and do what the lines of standard input ask for: {"prompt", "tokens", "rows", "logits"}."""
    if kind == "ours":
        Session.open(path).close()  # built, so that opening alone is timed
    before, start = resident(), time.perf_counter()
    runner = opened(kind, path, threads)
    seconds = time.perf_counter() - start
    runner.read([1])
    print(json.dumps({"open": seconds}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        found: dict[str, Any] = {}
        runner.reset()
        _, found["prompt"] = clocked(lambda asked=asked: runner.read(asked["prompt"]))  # type: ignore[misc]
        logits, found["decode"] = clocked(lambda asked=asked: read_each(runner, asked["tokens"]))  # type: ignore[misc]
        found["resident"] = (resident() or 0) - (before or 0)
        for rows in asked["rows"]:
            ran, taken = clocked(lambda asked=asked, rows=rows: runner.together(rows, asked["tokens"]))  # type: ignore[misc]
            if ran:
                found[f"batch {rows}"] = taken
        if asked["logits"]:
            found["logits"] = logits.tolist()
        print(json.dumps(found), flush=True)


def read_each(runner: Runner, tokens: Sequence[int]) -> np.ndarray:
    """The logits after the last of some tokens that are read one by one."""
    return [runner.read([token]) for token in tokens][-1]


def clocked(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What it gives, and its seconds of this process's CPU time and of the wall."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = run()
    return found, {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


class Program:
    """The other end of `serve`."""

    def __init__(self, kind: str, path: str | Path, threads: int = 1):
        command = [sys.executable, "-m", "bench.programs", kind, str(path), str(threads)]
        one = {"OMP_NUM_THREADS": str(threads), "CDRMIX_THREADS": str(threads)}
        package = {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"}
        pipes: Mapping[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **one, **package}, **pipes)
        self.open: float = self._answer()["open"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                return dict(json.loads(line))
        raise SystemExit("a program stopped: see above")

    def run(
        self, prompt: Sequence[int], tokens: Sequence[int], rows: Sequence[int] = (), logits: bool = False
    ) -> dict[str, Any]:
        """A prompt and then tokens, from a new document on, and the tokens by batches of so many rows."""
        assert self.process.stdin is not None
        asked = {"prompt": prompt, "tokens": tokens, "rows": rows, "logits": logits}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
