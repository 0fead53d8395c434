"""A training step of a generated torch module on one CPU thread, with three forms of its recurrence.

Input: `python -m bench.training [--rounds N] [case …]`, from the root of the project.
Output: a markdown table: tokens a CPU second of a whole step (forward, loss, backward, clipping, AdamW) with the
recurrence as the CPU kernel, as the chunked torch form (what runs without a C++ compiler) and as the loop over tokens
that other projects train with on a CPU; the ratios; the step's share of what products of matrices reach, measured in
the same rounds; and where the time of a step goes, by torch's profiler.

The module is the same in all three: only the function under `chunk_reads` is exchanged.  The forms take turns within a
round; ratios are medians of each round's own.  Time is this process's own CPU time.  That the three compute the same
loss and gradients is checked first.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"  # read at import

import torch
import torch.nn.functional as F
from cdrmix.runtime.torch import native
from cdrmix.runtime.torch.sums import Sums
from torch import nn
from torch.profiler import ProfilerActivity, profile

from bench.scans import matrix_loop
from cdrmix.check import load
from cdrmix.compiler import lower
from cdrmix.ir.cost import cost
from cdrmix.train.build import build_module
from cdrmix.train.config import OptimConfig
from cdrmix.train.optimiser import make_optimiser
from cdrmix.train.place import keep_freed_memory

SPEC = Path(__file__).parents[1] / "spec"
SQUARE = 768
DENSE = {"layers": "6", "d_model": "512", "head_size": "64", "rank": "64", "gate_rank": "128"}
# spec, settings, sequences, tokens of each
CASES: dict[str, tuple[str, dict[str, str], int, int]] = {
    "tiny B16 T256": ("tiny.cdr", {}, 16, 256),
    "dense L6 D512 B2 T128": ("rwkv7.cdr", DENSE, 2, 128),
}
FORMS = ("kernel", "chunked", "loop")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_grouped_mm", "dot", "mkldnn")
SCANS = ("chunk_scan", "linear_scan")
OPTIMISER = ("_foreach", "_fused")


@dataclass(slots=True)
class Run:
    """A module, its optimiser and one batch."""

    module: nn.Module
    optimiser: torch.optim.Optimizer
    tokens: torch.Tensor
    clip: float

    def backward(self) -> float:
        """Forward and backward, as the training loop has them."""
        self.optimiser.zero_grad(set_to_none=True)
        ids = self.tokens
        sums = Sums()
        logits, _ = self.module(ids[:, :-1], sums=sums)
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        aux = self.module.aux(sums)  # type: ignore[operator]
        torch.stack([loss, *aux.values()]).sum().backward()
        return float(loss.detach())

    def step(self) -> None:
        """A whole step."""
        self.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
        self.optimiser.step()


@contextlib.contextmanager
def form(name: str) -> Iterator[None]:
    """The recurrence in one of its forms."""
    match name:
        case "chunked":
            change: Any = mock.patch.object(native, "usable", lambda state: False)
        case "loop":
            change = mock.patch.object(native, "chunk_scan", matrix_loop)
        case _:
            change = contextlib.nullcontext()
    with change:
        yield


def made(case: str, folder: Path) -> tuple[Run, float]:
    """The case's run, and the FLOPs of a token's step: forward, and backward for twice as much."""
    spec, settings, batch, length = CASES[case]
    model = load(SPEC / spec, settings)
    module = build_module(lower(model), folder / Path(spec).name, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # what begins at zero would hide a difference of the forms
        for p in module.parameters():
            p += 0.02 * torch.randn(p.shape, generator=generator)
    tokens = torch.randint(model.vocab, (batch, length + 1), generator=generator)
    config = OptimConfig(lr=1e-5)
    return Run(module.train(), make_optimiser(module, config), tokens, config.clip), 3.0 * cost(model).total.flops


def disagreement(run: Run) -> float:
    """The largest difference between the forms' gradients, relative to the largest of a tensor's."""
    found = []
    for name in FORMS:
        with form(name):
            loss = run.backward()
        found.append([torch.tensor(loss), *(p.grad.clone() for p in run.module.parameters() if p.grad is not None)])
    return max(
        float((x - y).abs().max() / y.abs().max().clamp(min=1e-12))
        for other in found[:-1]
        for x, y in zip(other, found[-1], strict=True)
    )


def seconds(run: Callable[[], object]) -> float:
    """This process's CPU seconds of a call."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def shares(run: Run) -> str:
    """Where a step's time goes."""
    run.step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run.step()
    spent = {"products": 0.0, "scans": 0.0, "optimiser": 0.0, "rest": 0.0}
    for event in seen.key_averages():
        name = event.key.rpartition("::")[2]
        if name.startswith(SCANS):
            kind = "scans"
        elif name.startswith(OPTIMISER):
            kind = "optimiser"
        else:
            kind = "products" if name.startswith(PRODUCTS) else "rest"
        spent[kind] += event.self_cpu_time_total
    whole = sum(spent.values())
    return ", ".join(f"{kind} {taken / whole:.2f}" for kind, taken in spent.items())


def measure(case: str, rounds: int) -> str:
    """One row of the table."""
    matrix = torch.randn(SQUARE, SQUARE)
    with tempfile.TemporaryDirectory() as folder:
        run, flops = made(case, Path(folder))
        error = disagreement(run)
        if not error < 1e-3:
            raise SystemExit(f"{case}: the forms do not compute the same: gradients differ by {error:.1e}")
        taken: dict[str, list[float]] = {name: [] for name in (*FORMS, "product")}
        for turn in range(rounds + 1):
            for name in FORMS[:: -1 if turn % 2 else 1]:
                with form(name):
                    spent = seconds(run.step)
                if turn:  # the first round is not counted
                    taken[name].append(spent)
            if turn:
                taken["product"].append(seconds(lambda: [matrix @ matrix for _ in range(16)]) / 16)
        where = shares(run)
    tokens = run.tokens.shape[0] * (run.tokens.shape[1] - 1)
    speeds = [f"{statistics.median(tokens / t for t in taken[name]):.0f}" for name in FORMS]
    ratios = [
        f"{statistics.median(b / a for a, b in zip(taken['kernel'], taken[name], strict=True)):.2f}"
        for name in FORMS[1:]
    ]
    pairs = zip(taken["kernel"], taken["product"], strict=True)
    share = statistics.median(tokens * flops / t / (2 * SQUARE**3 / p) for t, p in pairs)
    return " | ".join([case, *speeds, *ratios[::-1], f"{share:.2f}", where, f"{error:.0e}"])


def main() -> None:
    """Run the cases named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("case", nargs="*", default=list(CASES), help=", ".join(CASES))
    args = parser.parse_args()
    if native.kernels() is None:
        raise SystemExit("the CPU kernels cannot be built here")
    torch.set_num_threads(1)
    keep_freed_memory()
    print(
        "| case | kernel, tokens/s | chunked | loop | kernel : loop | kernel : chunked | share of FLOPs "
        "| a step's time | gradients differ |\n|---|---|---|---|---|---|---|---|---|"
    )
    for case in args.case:
        print(f"| {measure(case, args.rounds)} |", flush=True)


if __name__ == "__main__":
    main()
