"""RWKV-7 on one CPU thread: `cpu` artefacts against llama.cpp on the same random weights, encoding by encoding.

Input: `python -m bench.cpu [--layers N] [--width N] [--vocab N] [--rounds N] [--prompt N] [--tokens N]`, from the root
of the project, with the packages of `bench/llama.py`.
Output: how far the logits of each are from those of our f32 artefact, then a markdown table: tokens a CPU second of
decoding and of a prompt, the ratio of ours to theirs, and the share of the memory that one thread can read, measured in
the same rounds from large pages.

Every program is a process of its own below this one, opened once; they take turns, in one order and then in the other.
Time is the CPU time of the process that runs; figures are medians over the rounds, those of ratios and shares of each
round's own.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1"}

import numpy as np
from cdrmix.runtime.session import Session

from bench.llama import Llama, quantise, write_gguf
from bench.streaming import READ, ROOT, sane_weights
from cdrmix.artifact import write_artifact
from cdrmix.check import load
from cdrmix.compiler import lower
from cdrmix.ir.cost import cost
from cdrmix.weights import write_weights

PAIRS = {"f16": "f16", "bf16": "bf16", "i8": "q8_0", "i8g32": "q8_0", "i4": "q4_0"}
"""Our encodings and the types of llama.cpp that they are compared with; f32 is compared with nothing."""
READ_SIZE = 1 << 28


# --- a program in a process of its own -------------------------------------------------------------------------------
def serve(kind: str, path: str) -> None:
    """Open a program and do what the lines of standard input say: {"prompt": […], "tokens": […]}."""
    session = Session.open(path) if kind == "ours" else None
    llama = Llama(Path(path)) if kind == "llama" else None

    def reset() -> None:
        session.reset() if session else llama.reset()  # type: ignore[union-attr]

    def read(tokens: list[int]) -> np.ndarray:
        return session.prefill(tokens) if session else llama.read(tokens)  # type: ignore[union-attr]

    read([1])
    print(json.dumps("open"), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        reset()
        start = time.process_time()
        logits = read(asked["prompt"])
        middle = time.process_time()
        for token in asked["tokens"]:
            logits = read([token])
        found: dict[str, Any] = {"prompt": middle - start, "decode": time.process_time() - middle}
        if asked["logits"]:
            found["logits"] = logits.tolist()
        print(json.dumps(found), flush=True)


class Program:
    """The other end of `serve`."""

    def __init__(self, kind: str, path: Path):
        command = [sys.executable, "-m", "bench.cpu", "--serve", kind, str(path)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith(("{", '"')):
                return json.loads(line)
        raise SystemExit("a program stopped: see above")

    def run(self, prompt: list[int], tokens: list[int], logits: bool = False) -> dict[str, Any]:
        """A prompt and then tokens, from a new document on; CPU seconds of both."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"prompt": prompt, "tokens": tokens, "logits": logits}) + "\n")
        self.process.stdin.flush()
        return dict(self._answer())


def programs(settings: dict[str, int], folder: Path) -> dict[str, Program]:
    """Everything that is timed, by encoding."""
    model = load(ROOT / "spec" / "rwkv7.cdr", {k: str(v) for k, v in settings.items()})
    weights, given, gguf = sane_weights(model), folder / "given.safetensors", folder / "f32.gguf"
    write_weights(given, {n: x.shape for n, x in weights.items()}, weights.__getitem__)
    write_gguf(gguf, weights, settings)
    del weights
    found = {}
    for encoding in ("f32", *PAIRS):
        write_artifact(lower(model, weights=encoding), "cpu", folder / encoding, given)
        found[encoding] = Program("ours", folder / encoding)
    for name in dict.fromkeys(PAIRS.values()):
        quantise(gguf, folder / f"{name}.gguf", name)
        found[f"llama.cpp {name}"] = Program("llama", folder / f"{name}.gguf")
    return found


def reader(folder: Path) -> Any:
    """Reads READ_SIZE bytes once, from memory in large pages."""
    (folder / "read.c").write_text(READ)
    command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", "-o", "read.so", "read.c"]
    subprocess.run(command, cwd=folder, check=True)
    read = ctypes.CDLL(str(folder / "read.so")).read_all
    read.argtypes, read.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_float
    memory = mmap.mmap(-1, READ_SIZE + (1 << 21))
    memory.madvise(mmap.MADV_HUGEPAGE)
    space = np.frombuffer(memory, np.uint8)
    space[:] = 0
    start = space.ctypes.data + -space.ctypes.data % (1 << 21)
    return lambda: (read(start, READ_SIZE // 4), space)


def main() -> None:
    """Build all, compare their logits, and let them take turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=65536)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=48, help="tokens decoded a round")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(*args.serve)
        return
    settings = {"layers": args.layers, "d_model": args.width, "vocab": args.vocab, "head_size": 64}
    settings |= {"rank": 64, "gate_rank": 128}
    ids = np.random.default_rng(1).integers(1, args.vocab, args.prompt + args.tokens).tolist()
    prompt, tokens = ids[: args.prompt], ids[args.prompt :]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running, read = programs(settings, folder), reader(folder)
        logits = {n: np.asarray(p.run(ids[:16], ids[16:20], logits=True)["logits"]) for n, p in running.items()}
        scale = np.sqrt(np.mean(logits["f32"] ** 2))
        for n, x in logits.items():
            print(
                f"{n}: RMS difference from our f32 {np.sqrt(np.mean((x - logits['f32']) ** 2)) / scale:.1e}", flush=True
            )
        found: dict[str, list[dict[str, float]]] = {n: [] for n in running}
        bandwidth = []
        for turn in range(args.rounds + 1):
            for n in list(running)[:: -1 if turn % 2 else 1]:
                taken = running[n].run(prompt, tokens)
                if turn:  # the first round is not counted
                    found[n].append(taken)
            start = time.process_time()
            read()
            if turn:
                bandwidth.append(READ_SIZE / (time.process_time() - start))
        print(table(settings, found, bandwidth, len(prompt), len(tokens)))


def table(
    settings: dict[str, int], found: dict[str, list[dict[str, float]]], bandwidth: list[float], prompt: int, tokens: int
) -> str:
    """The markdown table."""
    model = load(ROOT / "spec" / "rwkv7.cdr", {k: str(v) for k, v in settings.items()})
    lines = [f"one thread reads {statistics.median(bandwidth) / 1e9:.1f} GB/s", ""]
    lines += ["| | decode, tokens/s | llama.cpp | ratio | share of memory | prompt, tokens/s | llama.cpp | ratio |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for encoding in ("f32", *PAIRS):
        size = cost(lower(model, weights=encoding).program.model).total.read_bytes()
        ours = {k: [n / t[k] for t in found[encoding]] for k, n in (("prompt", prompt), ("decode", tokens))}
        share = statistics.median(rate * size / read for rate, read in zip(ours["decode"], bandwidth, strict=True))
        row = [encoding]
        for k, n in (("decode", tokens), ("prompt", prompt)):
            row.append(f"{statistics.median(ours[k]):.1f}")
            peer = PAIRS.get(encoding)
            theirs = [n / t[k] for t in found[f"llama.cpp {peer}"]] if peer else []
            ratio = [a / b for a, b in zip(ours[k], theirs, strict=False)]
            row += [f"{peer} {statistics.median(theirs):.1f}", f"{statistics.median(ratio):.2f}"] if peer else ["", ""]
            row += [f"{share:.2f}"] if k == "decode" else []
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
