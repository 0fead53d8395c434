"""A training step on one CPU thread: ours beside a loop over tokens, a GRU and a transformer of torch.

Input: `python -m bench.train [--rounds N] [case …]`, from the root of the project; `--list` names the cases.
Output: markdown tables.

A step is forward, loss, backward, clipping and AdamW: ours is the training loop's own (`cdrmix.train.step`), in f32.
The loop is the same module with its recurrence as the loop over tokens that other projects train with on a CPU.  GRU
and transformer (pre-norm, torch's SDPA) have as many layers and, by their width, as many parameters; they compute
their loss at once.  All take turns in one process; ratios are medians of each round's own, of this process's CPU time.
The share of the bound: three times the FLOPs of a token by `ir/cost.py`, against products of 768 x 768 in the same
rounds.  Peak memory is a process's of its own, a step or two of ours, with what Python and torch take (`idle`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"  # read at import

import torch
import torch.nn.functional as F
from cdrmix.runtime.torch import native
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from bench.scans import element_loop, matrix_loop, maxplus_loop
from cdrmix.check import load
from cdrmix.compiler import lower
from cdrmix.ir.cost import cost
from cdrmix.ir.nodes import Model
from cdrmix.train.batches import Batch
from cdrmix.train.build import build_module
from cdrmix.train.config import OptimConfig
from cdrmix.train.optimiser import make_optimiser
from cdrmix.train.place import keep_freed_memory
from cdrmix.train.step import take_step

ROOT = Path(__file__).parents[1]
SQUARE = 768
DENSE = {"layers": "6", "d_model": "512", "head_size": "64", "rank": "64", "gate_rank": "128"}
MIXERS = ("rwkv4", "rwkv6", "gla", "mamba2", "gated_delta", "mamba1")
"""Of `bench/mixers.cdr`."""
LENGTHS = (512, 2048, 8192, 32768)
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_grouped_mm", "dot", "mkldnn")
SCANS = ("chunk_scan", "linear_scan", "maxplus_scan", "convolve")
OPTIMISER = ("_foreach", "_fused", "lerp")


@dataclass(frozen=True, slots=True)
class Case:
    """A model, sequences a step and tokens a sequence; `layers` are what the peers are built with."""

    model: Callable[[], Model]
    batch: int
    length: int
    layers: int
    peers: tuple[str, ...] = ("loop", "GRU", "transformer")


def _mixers() -> Iterator[tuple[str, Case]]:
    for name in MIXERS:
        case = Case(lambda mixer=name: load(ROOT / "bench" / "mixers.cdr", {"mixer": mixer}), 2, 512, 4, ("loop",))
        yield f"{name} L4 D512 B2 T512", case


def _long() -> Iterator[tuple[str, Case]]:
    small = {"layers": "2", "d_model": "128"}
    for length in LENGTHS:
        batch = LENGTHS[-1] // length
        yield f"T{length}", Case(lambda: load(ROOT / "spec" / "rwkv7.cdr", small), batch, length, 2, ())


CASES: dict[str, Case] = {
    "dense L6 D512 B4 T512": Case(lambda: load(ROOT / "spec" / "rwkv7.cdr", DENSE), 4, 512, 6),
    "MoE 8 top-2 L6 D512 B4 T512": Case(lambda: load(ROOT / "bench" / "rwkv7_moe.cdr", DENSE), 4, 512, 6, ("dense",)),
    "tiny B8 T256": Case(lambda: load(ROOT / "spec" / "tiny.cdr", {}), 8, 256, 4),
    **dict(_mixers()),
    **dict(_long()),
}


# --- what takes turns ----------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Run:
    """One that trains: a step, how many tokens it takes, its parameters and what its products need at least."""

    step: Callable[[], object]
    tokens: int
    parameters: int
    flops: float = 0.0
    taken: list[float] = field(default_factory=list)


def ours(case: Case, folder: Path) -> Run:
    """Our module and step."""
    model = case.model()
    module = build_module(lower(model), folder, seed=0).train()
    config = OptimConfig(lr=1e-5)
    optimiser = make_optimiser(module, config)
    tokens, targets = text_of(model.vocab, case)
    batch = Batch(tokens, targets, torch.zeros(tokens.shape, dtype=torch.bool))
    count = sum(p.numel() for p in module.parameters())
    flops = 3.0 * cost(model).total.flops * tokens.numel()
    return Run(lambda: take_step(module, optimiser, batch, None, 1.0, config.clip, 1), tokens.numel(), count, flops)


def text_of(vocab: int, case: Case) -> tuple[Tensor, Tensor]:
    """Tokens and what follows them, at random."""
    ids = torch.randint(vocab, (case.batch, case.length + 1), generator=torch.Generator().manual_seed(0))
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def looped(run: Run) -> Run:
    """The same with its states computed token by token."""
    loops: dict[str, Callable[..., object]] = {
        "chunk_scan": matrix_loop,
        "linear_scan": lambda a, b, h, *_: element_loop(a, b, h),
        "maxplus_scan": lambda d, b, p, *_: maxplus_loop(d, b, p),
    }

    def step() -> None:
        with mock.patch.multiple(native, **loops):
            run.step()

    return Run(step, run.tokens, run.parameters, run.flops)


class Recurrent(nn.Module):
    """A stack of GRUs."""

    def __init__(self, vocab: int, width: int, layers: int):
        super().__init__()
        self.emb, self.head = nn.Embedding(vocab, width), nn.Linear(width, vocab, bias=False)
        self.mix = nn.GRU(width, width, layers, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] to logits [B, T, vocab]."""
        y: Tensor = self.head(self.mix(self.emb(tokens))[0])
        return y


class Block(nn.Module):
    """Attention and a feed-forward network of four times the width, each after a norm."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = width // 64
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] to the same."""
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # [B, heads, T, 64]
        x = x + self.out(y.transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class Transformer(nn.Module):
    """A pre-norm transformer with learned positions."""

    def __init__(self, vocab: int, width: int, layers: int, length: int):
        super().__init__()
        self.emb, self.head = nn.Embedding(vocab, width), nn.Linear(width, vocab, bias=False)
        self.place = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)), nn.LayerNorm(width))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] to logits [B, T, vocab]."""
        y: Tensor = self.head(self.blocks(self.emb(tokens) + self.place))
        return y


def peer(kind: str, case: Case, parameters: int) -> Run:
    """A peer of the width, a multiple of 64, that comes nearest to so many parameters."""
    vocab = case.model().vocab

    def made(width: int) -> nn.Module:
        if kind == "GRU":
            return Recurrent(vocab, width, case.layers)
        return Transformer(vocab, width, case.layers, case.length)

    def off(width: int) -> int:
        with torch.device("meta"):
            return abs(sum(p.numel() for p in made(width).parameters()) - parameters)

    module = made(min(range(64, 2049, 64), key=off))
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True)
    tokens, targets = text_of(vocab, case)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(module(tokens).flatten(0, 1), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()

    return Run(step, tokens.numel(), sum(p.numel() for p in module.parameters()))


# --- measuring -----------------------------------------------------------------------------------------------------
def seconds(run: Callable[[], object]) -> float:
    """This process's CPU seconds of a call."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def interleave(runs: dict[str, Run], rounds: int) -> list[float]:
    """Fill in what each took; the seconds of a product of squares in the same rounds."""
    matrix, products = torch.randn(SQUARE, SQUARE), []
    for turn in range(rounds + 1):
        for run in [*runs.values()][:: -1 if turn % 2 else 1]:
            spent = seconds(run.step)
            if turn:  # the first round is not counted
                run.taken.append(spent)
        products.append(seconds(lambda: [matrix @ matrix for _ in range(16)]) / 16)
    return products[1:]


def ratio(one: Run, two: Run) -> float:
    """How many times as many tokens a second the first takes."""
    pairs = zip(one.taken, two.taken, strict=True)
    return statistics.median(b / a for a, b in pairs) * one.tokens / two.tokens


def share(run: Run, products: list[float]) -> float:
    """Of what products of matrices alone would reach."""
    pairs = zip(run.taken, products, strict=True)
    return statistics.median(run.flops / t / (2 * SQUARE**3 / p) for t, p in pairs)


def places(run: Run) -> str:
    """Where a step's time goes, by torch's profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run.step()
    spent = {"products": 0.0, "scans": 0.0, "optimiser": 0.0, "rest": 0.0}
    for event in seen.key_averages():
        name = event.key.rpartition("::")[2]
        kinds = {"scans": SCANS, "optimiser": OPTIMISER, "products": PRODUCTS}
        spent[next((k for k, names in kinds.items() if name.startswith(names)), "rest")] += event.self_cpu_time_total
    return ", ".join(f"{kind} {taken / sum(spent.values()):.2f}" for kind, taken in spent.items())


def peak(case: str) -> int:
    """Bytes at most resident in a process that takes two steps; of no case, in one that only begins."""
    command = [sys.executable, "-m", "bench.train", "--peak", case]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()[-1])


def measure(name: str, rounds: int, idle: int) -> str:
    """One row of the table."""
    case = CASES[name]
    with contextlib.ExitStack() as stack:

        def folder() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory()))

        runs = {"ours": ours(case, folder())}
        for kind in case.peers:
            match kind:
                case "loop":
                    runs[kind] = looped(runs["ours"])
                case "dense":
                    runs[kind] = ours(CASES["dense L6 D512 B4 T512"], folder())
                case _:
                    runs[kind] = peer(kind, case, runs["ours"].parameters)
        products = interleave(runs, rounds)
        mine = runs["ours"]
        ratios = ", ".join(f"{kind} {ratio(mine, run):.2f}" for kind, run in runs.items() if run is not mine)
        speed = statistics.median(mine.tokens / t for t in mine.taken)
        memory = f"{peak(name) / 1e9:.2f} ({idle / 1e9:.2f})"
        row = (name, f"{mine.parameters / 1e6:.2f} M", f"{speed:.0f}", f"{share(mine, products):.2f}", ratios, memory)
        return " | ".join((*row, places(mine)))


def main() -> None:
    """Run the cases named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--peak", metavar="CASE", help=argparse.SUPPRESS)
    parser.add_argument("case", nargs="*", default=list(CASES), help="a case, or the beginning of the names of some")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if args.list:
        print(*CASES, sep="\n")
        return
    if args.peak is not None:
        if args.peak:
            with tempfile.TemporaryDirectory() as folder:
                run = ours(CASES[args.peak], Path(folder))
                run.step()
                run.step()
        status = Path("/proc/self/status").read_text()  # `getrusage` would count what the parent had when it forked
        print(1024 * int(status.partition("VmHWM:")[2].split()[0]))
        return
    if native.kernels() is None:
        raise SystemExit("the CPU kernels cannot be built here")
    idle = peak("")
    print("| case | parameters | tokens/s | of the GEMM bound | ours over | peak GB (idle) | a step's time |")
    print("|---|---|---|---|---|---|---|")
    for name in [n for n in CASES if any(n.startswith(asked) for asked in args.case)]:
        print(f"| {measure(name, args.rounds, idle)} |", flush=True)


if __name__ == "__main__":
    main()
