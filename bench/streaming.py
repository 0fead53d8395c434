"""An RWKV-7 streamed on one CPU thread: the compiled C program against the `rwkv` package.

Input: `python -m bench.streaming [--layers N] [--width N] [--vocab N] [--rounds N]`, from the root of the project, with
the packages of its `dev` extra.
Output: whether both give the same logits, then a markdown table: tokens a CPU second of decoding and of reading a
prompt, the ratio, and the share of what one thread of this machine can do, measured in the same rounds: the bytes of
weights a token needs against the rate at which a loop of sums reads memory, and the FLOPs of a prompt against those of
a product of matrices.

Both run in this process, on one thread, and take turns; the figures are medians over the rounds, those of ratios and
shares of each round's own.  Time is the process's own CPU time, for machines that others use; wall time stands last.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "RWKV_V7_ON": "1", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"}  # read at import

import numpy as np
import torch
from cdrmix.runtime.session import Session
from safetensors.numpy import save_file

from cdrmix.artifact import write_artifact
from cdrmix.check import load
from cdrmix.compiler import lower
from cdrmix.ir.cost import cost
from cdrmix.ir.nodes import Model
from cdrmix.weights import owners
from tests.conformance.test_oracles import V7, V7_LATER, Arrays, named_as_theirs

ROOT = Path(__file__).parents[1]
READ = """
#include <stddef.h>
typedef float lanes __attribute__((vector_size(64)));
/* `n` in whole blocks of 128 floats */
float read_all(const float *x, size_t n)
{
  lanes s[8] = {{0}};
  for (size_t i = 0; i < n; i += 128)
    for (int l = 0; l < 8; l++) s[l] += *(const lanes *)(x + i + 16 * l);
  for (int l = 1; l < 8; l++) s[0] += s[l];
  return s[0][0];
}
"""
Step = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of a run: this process's own, and the wall's."""

    cpu: float
    wall: float


def clocked(run: Step) -> Taken:
    """One run, timed."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return Taken(time.process_time() - cpu, time.perf_counter() - wall)


def sane_weights(model: Model, seed: int = 0) -> Arrays:
    """Random tensors at which activations stay near one; the values do not matter to the speed."""
    random = np.random.default_rng(seed)

    def tensor(path: str, shape: tuple[int, ...]) -> np.ndarray:
        noise = random.standard_normal(shape, np.float32)
        if len(shape) > 1 and not path.endswith("r_k"):
            return noise * np.float32(0.5 / shape[-1] ** 0.5)
        return 0.3 * noise + np.float32(path.endswith((".w", "gn_w", "k_k", "k_a")))

    return {w.path: tensor(w.path, w.shape) for w in owners(model)}


def our_session(model: Model, weights: Arrays, folder: Path) -> Session:
    """The artefact, built by its own Makefile."""
    (folder / "given").mkdir()
    save_file(weights, folder / "given" / "weights.safetensors")
    write_artifact(lower(model), "cpu", folder / "artefact", folder / "given")
    return Session.open(folder / "artefact")


def their_model(model: Model, weights: Arrays, folder: Path) -> Any:
    """The package's model of the same weights."""
    named = named_as_theirs(weights, int(model.settings["layers"]), V7, V7_LATER)
    torch.save({k: torch.tensor(np.ascontiguousarray(v)) for k, v in named.items()}, folder / "model.pth")
    with contextlib.redirect_stdout(io.StringIO()):
        from rwkv.model import RWKV

        return RWKV(model=str(folder / "model"), strategy="cpu fp32")


def compare_logits(session: Session, theirs: Any, tokens: list[int]) -> float:
    """The largest difference over a prompt and then token by token, relative to the largest logit."""
    session.reset()
    ours = [session.prefill(tokens[:16])] + [session.step(t) for t in tokens[16:]]
    y, state = theirs.forward(tokens[:16], None)
    want = [y.numpy()]
    for token in tokens[16:]:
        y, state = theirs.forward([token], state)
        want.append(y.numpy())
    return float(np.abs(np.stack(ours) - np.stack(want)).max() / np.abs(np.stack(want)).max())


def reader(folder: Path) -> Step:
    """Reads `SIZE` bytes once, from memory."""
    (folder / "read.c").write_text(READ)
    command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", "-o", "read.so", "read.c"]
    subprocess.run(command, cwd=folder, check=True)
    read = ctypes.CDLL(str(folder / "read.so")).read_all
    read.argtypes, read.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_float
    space = np.ones(SIZE // 4 + 16, np.float32)
    start = space.ctypes.data + -space.ctypes.data % 64
    return lambda: (read(start, SIZE // 4), space)


SIZE, SQUARE = 1 << 28, 768


def decoder(step: Callable[[int], Any], tokens: list[int]) -> Step:
    """Feeds tokens one at a time."""

    def run() -> None:
        for token in tokens:
            step(token)

    return run


def programs(session: Session, theirs: Any, prompt: list[int], tokens: list[int], folder: Path) -> dict[str, Step]:
    """What is timed, by name."""
    _, state = theirs.forward(prompt, None)
    matrix = torch.randn(SQUARE, SQUARE)
    return {
        "decode, ours": decoder(session.step, tokens),
        "decode, rwkv": decoder(lambda token: theirs.forward([token], state), tokens),
        "prompt, ours": lambda: session.prefill(prompt),
        "prompt, rwkv": lambda: theirs.forward(prompt, None),
        "read": reader(folder),
        "product": lambda: [matrix @ matrix for _ in range(8)],
    }


def table(found: dict[str, list[Taken]], model: Model, counts: dict[str, int]) -> str:
    """The markdown table and the two bounds."""
    amount = cost(model).total
    size = 4 * amount.active
    read = [SIZE / t.cpu for t in found["read"]]
    product = [8 * 2 * SQUARE**3 / t.cpu for t in found["product"]]
    lines = [
        f"reads {statistics.median(read) / 1e9:.1f} GB/s, multiplies {statistics.median(product) / 1e9:.0f} GFLOP/s; "
        f"a token needs {size / 1e6:.0f} MB of weights and {amount.flops / 1e6:.0f} MFLOP",
        "",
        "| | C program tokens/s | `rwkv` tokens/s | ratio | share of the bound, C | share, `rwkv` | wall tokens/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, count in counts.items():
        ours, theirs = ([count / t.cpu for t in found[f"{name}, {who}"]] for who in ("ours", "rwkv"))
        bound = [r / size for r in read] if name == "decode" else [p / amount.flops for p in product]
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        shares = [statistics.median(a / b for a, b in zip(rates, bound, strict=True)) for rates in (ours, theirs)]
        walls = [statistics.median(count / t.wall for t in found[f"{name}, {who}"]) for who in ("ours", "rwkv")]
        what = "memory" if name == "decode" else "FLOPs"
        lines.append(
            f"| {name}, {count} tokens | {statistics.median(ours):.1f} | {statistics.median(theirs):.1f} | {ratio:.2f} "
            f"| {shares[0]:.2f} of {what} | {shares[1]:.2f} | {walls[0]:.1f}, {walls[1]:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Build both, check that they agree, and let them take turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=16, help="tokens decoded a round")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"layers": args.layers, "d_model": args.width, "vocab": args.vocab, "head_size": 64}
    settings |= {"rank": 64, "gate_rank": 128}
    model = load(ROOT / "spec" / "rwkv7.cdr", {k: str(v) for k, v in settings.items()})
    ids = np.random.default_rng(1).integers(0, args.vocab, args.prompt + args.tokens).tolist()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = sane_weights(model)
        session, theirs = our_session(model, weights, folder), their_model(model, weights, folder)
        del weights
        error = compare_logits(session, theirs, ids[:32])
        print(f"{settings}: logits differ by {error:.1e} of the largest", flush=True)
        if not error < 1e-4:
            raise SystemExit("the two programs do not compute the same")
        turns = programs(session, theirs, ids[: args.prompt], ids[args.prompt :], folder)
        found: dict[str, list[Taken]] = {name: [] for name in turns}
        for turn in range(args.rounds + 1):
            for name in list(turns)[:: -1 if turn % 2 else 1]:
                taken = clocked(turns[name])
                if turn:  # the first round is not counted
                    found[name].append(taken)
        print(table(found, model, {"decode": args.tokens, "prompt": args.prompt}))


if __name__ == "__main__":
    main()
