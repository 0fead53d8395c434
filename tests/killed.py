"""Training in child processes that are killed between two file operations, and gone on with: `python -m tests.killed`.

Input: a folder to work in, and when to kill: `every N` operations of a run, at every one while a checkpoint is saved
(`saves`) or every Nth of a compiler (`compiles N`), or `random N SEED`: N times at any moment, the resumed runs too.
Output: a JSON line for each run that is not bitwise the uninterrupted one, or leaves something over, and one that
counts them.  The children are forked from a process that has imported everything.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from itertools import chain
from itertools import count as steps
from pathlib import Path
from typing import Any

from cdrmix.runtime.parts import sweep

from cdrmix.artifact import write_artifact
from cdrmix.check import load_text
from cdrmix.compiler import lower
from cdrmix.runs import checkpoints, read_checkpoint
from cdrmix.train.checkpoint import save_checkpoint
from cdrmix.train.config import TrainConfig
from cdrmix.train.loop import Trainer
from cdrmix.train.progress import read_metrics
from tests.small import ADDS, TEXT, write_spec

STEPS = 7
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.truncate", "shutil.rmtree"}


def config() -> TrainConfig:
    """A run with a checkpoint every two steps, of which two are kept, and held-out scores."""
    return TrainConfig.model_validate(
        {
            "spec": "small.cdr", "data": {"train": "text.txt", "eval": "text.txt"}, "out": "run", "steps": STEPS,
            "batch": 2, "context": 8, "log_every": 1, "eval_every": 3, "save_every": 2, "threads": 1,
            "optim": {"warmup": 2},
        }
    )  # fmt: skip


def train(folder: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Train, or go on, in a child; its status, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(folder)
            quiet = os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(quiet, 2)
            resume = Path("run/last").exists()
            prepare()
            Trainer(config(), resume=resume).train()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(operation: int) -> Callable[[], None]:
    """Prepares a child to be killed before its nth change to the disk."""

    def prepare() -> None:
        done = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal done
            written = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in CHANGES or written:
                done += 1
                if done == operation:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return prepare


def kill_after(seconds: float) -> Callable[[], None]:
    """Prepares a child to be killed at any moment."""

    def prepare() -> None:
        def wait() -> None:
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=wait, daemon=True).start()

    return prepare


def left_in(run: Path) -> dict[str, bytes]:
    """Every file of a run, but for how fast it was."""
    files = {}
    for path in sorted(p for p in run.rglob("*") if p.is_file() and not p.name.endswith("lock")):
        name = str(path.relative_to(run))
        if not name.startswith("metrics"):
            files[name] = path.read_bytes()
    records = [{k: v for k, v in r.items() if k != "tokens_per_s"} for r in read_metrics(run / "metrics.jsonl")]
    return files | {"metrics.jsonl": json.dumps(records).encode(), "last": os.readlink(run / "last").encode()}


def fresh(folder: Path) -> Path:
    """An empty place for a run."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_spec(folder, ADDS)
    (folder / "text.txt").write_text(TEXT[:2000])
    return folder


def saves(folder: Path) -> None:
    """Kill at every operation of saving a checkpoint that takes the place of another and lets a third one go."""
    os.chdir(fresh(folder))
    trainer = Trainer(config())
    about = {"hash": "", "config": {}, "data": ""}

    def save(step: int, keep: int) -> None:
        save_checkpoint(Path("run"), step, trainer.module, trainer.optimiser, "{}", about, keep)

    for step in (2, 4, 6):
        save(step, 3)
    shutil.move("run", "before")
    kills = wrong = 0
    while True:
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree("before", "run", symlinks=True)
        child = os.fork()
        if child == 0:
            kill_at(kills + 1)()
            save(6, 2)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        kills += 1
        homes = checkpoints(Path("run"))
        for home in homes:
            read_checkpoint(home)  # raises where it is not whole
        wrong += not {"step-00000004", "step-00000006"} & {home.name for home in homes}
        sweep(Path("run/checkpoints"))
        wrong += any(p.name.endswith(".part") for p in Path("run/checkpoints").iterdir())
    print(json.dumps({"kills": kills, "wrong": wrong}))


def compiles(folder: Path, count: int) -> None:
    """Kill a compiler at every `count`th operation; the next one makes what one that nobody disturbed makes."""
    program = lower(load_text(ADDS))
    fresh(folder)
    kills = wrong = 0

    def compiled(out: Path, operation: int) -> bool:
        child = os.fork()
        if child == 0:
            kill_at(operation)()
            write_artifact(program, "torch", out, None, "bytes")
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def held(out: Path) -> dict[str, bytes]:
        return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}

    compiled(folder / "whole", 0)
    wanted = held(folder / "whole")
    for operation in chain(range(1, 5), steps(5, count)):
        if compiled(folder / "cut", operation):
            break
        kills += 1
        found = held(folder / "cut")
        if json.loads(found.get("manifest.json", b'{"format": "unfinished"}'))["format"] != "unfinished":
            wrong += found != wanted  # it was killed when all was done
        wrong += not compiled(folder / "cut", 0) or held(folder / "cut") != wanted
        shutil.rmtree(folder / "cut")
    print(json.dumps({"kills": kills, "wrong": wrong}))


def main(folder: Path, how: str, count: int = 1, seed: int = 0) -> None:
    """Kill, go on, compare."""
    warnings.simplefilter("ignore")
    if how == "saves":
        return saves(folder)
    if how == "compiles":
        return compiles(folder, count)
    whole = fresh(folder / "whole")
    began = time.monotonic()
    if train(whole):
        sys.exit((whole / "stderr").read_text())
    took = time.monotonic() - began
    wanted = left_in(whole / "run")
    kills = wrong = 0

    def check(home: Path, what: str, plans: Iterable[Callable[[], None]]) -> bool:
        nonlocal kills, wrong
        died = 0
        for plan in plans:
            status = train(home, plan)
            died += status == -signal.SIGKILL
            if status != -signal.SIGKILL:
                break
        kills += died
        while (status := train(home)) == -signal.SIGKILL:
            pass
        found = left_in(home / "run") if status == 0 else {}
        differ = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
        if status or differ:
            wrong += 1
            said = (home / "stderr").read_text()[-800:]
            print(json.dumps({"killed": what, "status": status, "differ": differ, "said": said}), flush=True)
        return bool(died)

    if how == "random":
        chance = random.Random(seed)
        while kills < count:
            plans = [kill_after(chance.uniform(0, took)) for _ in range(chance.randint(1, 4))]
            check(fresh(folder / "killed"), "at random", plans)
    else:
        operation = 1
        while check(fresh(folder / "killed"), f"before operation {operation}", [kill_at(operation)]):
            operation += count
    print(json.dumps({"kills": kills, "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
