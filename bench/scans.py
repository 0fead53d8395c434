"""The sequence scans, timed side by side: a token loop in torch, the chunked torch form, the CPU kernel.

Input: `python bench/scans.py [--threads N] [--rounds N] [--clock wall|cpu] [case …]`.
Output: a markdown table: median forward and backward milliseconds, and ratios, the median of each round's own.  The
forms take turns within a round, so that a slow moment of the machine meets all of them.  On a machine that others use,
`--clock cpu --threads 1` counts this process's own time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from cdrmix.runtime.torch import linear_scan, native
from cdrmix.runtime.torch.chunked import chunked_scan
from torch import Tensor

Scan = Callable[..., Tensor | tuple[Tensor, Tensor]]


def matrix_loop(
    q: Tensor, w: Tensor, k: Tensor, v: Tensor, S: Tensor, a: Tensor | None = None, b: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The token loop of a matrix state; operands are cut once: an index a token makes a full-size gradient each."""
    tokens = [x.unbind(1) for x in (q, w, k, v)]
    low_rank = None if a is None or b is None else (a.unbind(1), b.unbind(1))
    read = []
    for t, (ask, decay, key, value) in enumerate(zip(*tokens, strict=True)):
        read.append(ask @ S.mT)
        new = S * decay.unsqueeze(-2)
        if low_rank is not None:
            new = new + (S @ low_rank[0][t].mT) @ low_rank[1][t]
        S = new + value.mT @ key
    return torch.stack(read, 1), S


def element_loop(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """The token loop of an elementwise state."""
    out = []
    for decay, addend in zip(a.unbind(1), b.unbind(1), strict=True):
        h = decay * h + addend
        out.append(h)
    return torch.stack(out, 1)


def element_torch(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """`linear_scan` with the kernels out of the way."""
    usable, native.usable = native.usable, lambda state: False
    try:
        return linear_scan(a, b, h0)
    finally:
        native.usable = usable


def matrix_operands(B: int, T: int, H: int, N: int, kind: str) -> list[Tensor]:
    """RWKV-7-like operands; `kind` is diagonal, scalar (one decay a head) or delta."""
    w = torch.exp(-0.6065 * torch.sigmoid(torch.randn(B, T, H, 1 if kind == "scalar" else N)))
    xs = [
        torch.randn(B, T, H, 1, N),
        w,
        torch.randn(B, T, H, 1, N),
        torch.randn(B, T, H, 1, N),
        torch.randn(B, H, N, N),
    ]
    if kind == "delta":
        key = F.normalize(torch.randn(B, T, H, 1, N), dim=-1)
        xs += [-key, key * torch.sigmoid(torch.randn(B, T, H, 1, N))]
    return xs


def element_operands(*shape: int) -> list[Tensor]:
    """Decays in 0 to 1."""
    return [torch.sigmoid(torch.randn(shape)), torch.randn(shape), torch.randn(shape[0], *shape[2:])]


MATRIX: dict[str, Scan] = {"loop": matrix_loop, "chunked": chunked_scan, "native": native.chunk_scan}
ELEMENT: dict[str, Scan] = {"loop": element_loop, "chunked": element_torch, "native": linear_scan}
CASES: dict[str, tuple[dict[str, Scan], Callable[[], list[Tensor]]]] = {
    "diagonal B4 T512 H8 N64": (MATRIX, lambda: matrix_operands(4, 512, 8, 64, "diagonal")),
    "scalar B4 T512 H8 N64": (MATRIX, lambda: matrix_operands(4, 512, 8, 64, "scalar")),
    "delta B4 T512 H8 N64": (MATRIX, lambda: matrix_operands(4, 512, 8, 64, "delta")),
    "delta B8 T128 H4 N32": (MATRIX, lambda: matrix_operands(8, 128, 4, 32, "delta")),
    "delta B1 T2048 H4 N128": (MATRIX, lambda: matrix_operands(1, 2048, 4, 128, "delta")),
    "elementwise B4 T512 [512]": (ELEMENT, lambda: element_operands(4, 512, 512)),
    "elementwise B4 T512 [512, 16]": (ELEMENT, lambda: element_operands(4, 512, 512, 16)),
}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def once(scan: Scan, xs: Sequence[Tensor], clock: Callable[[], float]) -> tuple[float, float]:
    """Milliseconds of a forward and of its backward."""
    xs = [x.detach().requires_grad_() for x in xs]
    start = clock()
    y = scan(*xs)
    middle = clock()
    outputs = y if isinstance(y, tuple) else (y,)
    ones = [torch.ones_like(x) for x in outputs]
    begun = clock()
    torch.autograd.backward(outputs, ones)
    return 1e3 * (middle - start), 1e3 * (clock() - begun)


def compare(forms: dict[str, Scan], xs: Sequence[Tensor], rounds: int, clock: Callable[[], float]) -> str:
    """One row of the table, after a round that is not counted."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for turn in range(rounds + 1):
        for name, scan in forms.items():
            measured = once(scan, xs, clock)
            if turn:
                times[name].append(measured)
    cells = []
    for taken in times.values():
        forward, backward = zip(*taken, strict=True)
        cells.append(f"{statistics.median(forward):.1f} / {statistics.median(backward):.1f}")
    whole = {name: [f + b for f, b in taken] for name, taken in times.items()}
    for name in ("loop", "chunked"):
        cells.append(f"{statistics.median(x / y for x, y in zip(whole[name], whole['native'], strict=True)):.1f}")
    return " | ".join(cells)


def main() -> None:
    """Run the cases named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("case", nargs="*", default=list(CASES), help=", ".join(CASES))
    args = parser.parse_args()
    if native.kernels() is None:
        raise SystemExit("the CPU kernels cannot be built here")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(
        "| case | loop fwd / bwd ms | chunked | native | loop : native | chunked : native |\n|---|---|---|---|---|---|"
    )
    for case in args.case:
        forms, make = CASES[case]
        print(f"| {case} | {compare(forms, make(), args.rounds, CLOCKS[args.clock])} |", flush=True)


if __name__ == "__main__":
    main()
