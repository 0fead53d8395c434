"""The whole path on one machine: text, tokenizer, training, a C program, a stream of tokens.

The text is the source of Python's standard library, found where this Python keeps it.  Each stage is a command that
anyone can type; it is printed before it runs.  What exists is not made again: a second run goes on where the first
stopped.  Everything is in demo/.
"""

from __future__ import annotations

import json
import lzma
import shlex
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from cdrmix.runs import checkpoints, step_of
from cdrmix.train.config import TrainConfig, read_config
from cdrmix.train.loop import Trainer
from cdrmix.train.progress import plot_loss, read_metrics, sparkline

HOME = Path("demo")
CONFIG = Path("configs/train-tiny.yaml")
MINUTES = 5.0
VOCAB = 4096
EVALS = 10
"""Held-out scores during training; the first comes after a tenth of it, about 30 seconds."""


def cdrmix(*arguments: object) -> str:
    """Run a command as a user would, its stderr on the screen; returns its stdout."""
    words = [str(a) for a in arguments]
    print(f"\n$ cdrmix {shlex.join(words)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "cdrmix.cli", *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def collect() -> None:
    """The standard library's .py files, a twentieth of them held out, by file."""
    if not (HOME / "data" / "train.jsonl").is_file():
        library = sysconfig.get_path("stdlib")
        if not any((HOME / "text").glob("shard-*")):
            skip = ("--exclude", "site-packages", "--exclude", "__pycache__", "--only", ".py")
            print(cdrmix("data", "from-directory", library, HOME / "text", *skip), end="")
        print(cdrmix("data", "split", HOME / "text", "--ratio", 0.05, "-o", HOME / "data"), end="")
    if not (HOME / "tokenizer.json").is_file():
        cdrmix("tokenizer", "train", HOME / "data" / "train.jsonl", "--vocab", VOCAB, "-o", HOME / "tokenizer.json")


def choose_steps() -> int:
    """As many steps as this machine makes in the demo's minutes, measured once and remembered."""
    kept = HOME / "steps.json"
    if kept.is_file():
        return int(json.loads(kept.read_text()))
    print("\nmeasuring this machine's speed …", flush=True)
    config = read_config(TrainConfig, CONFIG, [f"out={HOME}/speed", "steps=1000", "save_every=100000"])
    trainer = Trainer(config)
    times = []
    for step in range(12):
        began = time.perf_counter()
        trainer.train_step(step)
        times.append(time.perf_counter() - began)
    seconds = sorted(times[4:])[4]
    steps = max(100, round(MINUTES * 60 / seconds))
    kept.write_text(json.dumps(steps))
    print(f"{seconds * 1e3:.0f} ms a step of {config.batch} x {trainer.context} tokens: {steps} steps", flush=True)
    return steps


def train(steps: int) -> None:
    """Train, or go on with what was stopped."""
    homes = checkpoints(HOME / "run")
    if not homes or step_of(homes[0]) < steps:
        resume = ["--resume"] if homes else []
        cdrmix("train", CONFIG, "--set", f"steps={steps}", "--set", f"eval_every={max(1, steps // EVALS)}", *resume)


def stream() -> None:
    """Compile to C, build, and let the C program write."""
    artefact = HOME / "tiny-cpu"
    cdrmix("compile", "spec/tiny.cdr", "--target", "cpu", "--checkpoint", HOME / "run", "-o", artefact)
    print(f"\n$ make -C {artefact} && {artefact}/cdrmix-run -m {artefact} -n 200 'def '\n", flush=True)
    subprocess.run(["make", "-s", "-C", str(artefact)], check=True)
    subprocess.run([str(artefact / "cdrmix-run"), "-m", str(artefact), "-n", "200", "def "], check=True)


def score() -> None:
    """Held-out bits per byte, beside a general compressor's on the same bytes."""
    kept = HOME / "score.json"
    if not kept.is_file():
        kept.write_text(cdrmix("eval", "configs/eval-tiny.yaml", "--json"))
    found = json.loads(kept.read_text())
    texts = [json.loads(line)["text"].encode() for line in (HOME / "data" / "eval.jsonl").open(encoding="utf-8")]
    held_out = b"".join(texts)
    xz = 8 * len(lzma.compress(held_out, preset=9)) / len(held_out)
    records = read_metrics(HOME / "run" / "metrics.jsonl")
    losses = [r["loss"] for r in records if r.get("loss") is not None]
    bits = [r["eval_bits"] for r in records if r.get("eval_bits") is not None]
    plot_loss(HOME / "run" / "metrics.jsonl", HOME / "loss.png")
    print(f"\ntraining loss {losses[0]:.2f} {sparkline(losses)} {losses[-1]:.2f}")
    first, last, whole = bits[0], bits[-1], found["bits_per_byte"]
    print(f"held-out bits per byte, on a part: {first:.3f} after a tenth of the training, {last:.3f} at its end")
    print(f"held-out bits per byte, on all {len(held_out)} bytes: {whole:.3f}; xz -9 on the same: {xz:.3f}")


def main() -> None:
    """Every stage in order, then where things are."""
    HOME.mkdir(exist_ok=True)
    began = time.perf_counter()
    collect()
    train(choose_steps())
    score()
    stream()
    print(f"\n\ndone in {(time.perf_counter() - began) / 60:.1f} minutes")
    for path, what in (
        ("data/", "the text, train and held-out"),
        ("tokenizer.json", "the byte-level BPE"),
        ("run/module/model.py", "the generated PyTorch module"),
        ("run/metrics.jsonl", "the numbers of the training"),
        ("run/last/", "the newest checkpoint"),
        ("loss.png", "the loss curve"),
        ("tiny-cpu/model.c", "the model as one C file"),
        ("tiny-cpu/cdrmix-run", "the program that streams"),
    ):
        print(f"  {HOME / path}: {what}")


if __name__ == "__main__":
    main()
