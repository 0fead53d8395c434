"""The sequence scans, timed side by side: a token loop in torch (of a convolution: windows in memory), the form in
plain torch, the CPU kernel.

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
from cdrmix.runtime.torch import convolve, coupled_scan, linear_scan, maxplus_scan, native, unfold
from cdrmix.runtime.torch.chunked import chunked_scan
from torch import Tensor

Scan = Callable[..., Tensor | tuple[Tensor, Tensor]]


def matrix_loop(
    q: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    S: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    wv: Tensor | None = None,
    reset: Tensor | None = None,
    initial: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The token loop of a matrix state; operands are cut once: an index a token makes a full-size gradient each."""
    tokens = [x.unbind(1) for x in (q, w, k, v)]
    low_rank = None if a is None or b is None else (a.unbind(1), b.unbind(1))
    rows = None if wv is None else wv.unsqueeze(-1).unbind(1)
    starts = None if reset is None else reset[:, :, None, None, None].unbind(1)
    begin = torch.zeros(()) if initial is None else initial
    read = []
    for t, (ask, decay, key, value) in enumerate(zip(*tokens, strict=True)):
        S = S if starts is None else torch.where(starts[t], begin, S)
        read.append(ask @ S.mT)
        new = S * decay.unsqueeze(-2)
        if low_rank is not None:
            new = new + (S @ low_rank[0][t].mT) @ low_rank[1][t]
        S = (new if rows is None else new * rows[t]) + value.mT @ key
    return torch.stack(read, 1), S


def element_loop(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """The token loop of an elementwise state."""
    out = []
    for decay, addend in zip(a.unbind(1), b.unbind(1), strict=True):
        h = decay * h + addend
        out.append(h)
    return torch.stack(out, 1)


def coupled_loop(A: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """The token loop of states that mix element by element."""
    out = []
    for mix, addend in zip(A.unbind(1), b.unbind(1), strict=True):
        h = (mix * h.unsqueeze(1)).sum(2) + addend
        out.append(h)
    return torch.stack(out, 1)


def maxplus_loop(d: Tensor, b: Tensor, p: Tensor) -> Tensor:
    """The token loop of a running maximum."""
    out = []
    for decay, addend in zip(d.unbind(1), b.unbind(1), strict=True):
        p = torch.maximum(p + decay, addend)
        out.append(p)
    return torch.stack(out, 1)


def convolve_windows(x: Tensor, taps: Tensor) -> Tensor:
    """A convolution over windows in memory."""
    return (unfold(x, taps.shape[0])[0] * taps).sum(2)


def without_kernels(scan: Scan) -> Scan:
    """The scan with the kernels out of the way."""

    def form(*xs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        usable, native.usable = native.usable, lambda state: False
        try:
            return scan(*xs)
        finally:
            native.usable = usable

    return form


def matrix_operands(B: int, T: int, H: int, N: int, kind: str) -> list[Tensor | None]:
    """RWKV-7-like operands; `kind` is diagonal, scalar (one decay a head), values (a decay along them too), delta, or
    documents (delta)."""
    w = torch.exp(-0.6065 * torch.sigmoid(torch.randn(B, T, H, 1 if kind == "scalar" else N)))
    xs: list[Tensor | None] = [
        torch.randn(B, T, H, 1, N),
        w,
        torch.randn(B, T, H, 1, N),
        torch.randn(B, T, H, 1, N),
        torch.randn(B, H, N, N),
    ]
    if kind in ("delta", "documents"):
        key = F.normalize(torch.randn(B, T, H, 1, N), dim=-1)
        xs += [-key, key * torch.sigmoid(torch.randn(B, T, H, 1, N))]
    if kind == "values":
        xs += [None, None, torch.sigmoid(torch.randn(B, T, H, N))]
    if kind == "documents":  # one in a hundred tokens begins a document, with a state of its own
        xs += [None, torch.rand(B, T) < 0.01, torch.randn(B, H, N, N)]
    return xs


def element_operands(*shape: int, states: int = 0) -> list[Tensor | None]:
    """Decays in 0 to 1; of so many states that mix."""
    B, T, *rest = shape
    if states:
        mixes = torch.rand(B, T, states, states, *rest) / states
        return [mixes, torch.randn(B, T, states, *rest), torch.randn(B, states, *rest)]
    return [torch.sigmoid(torch.randn(shape)), torch.randn(shape), torch.randn(B, *rest)]


def forms(scan: Scan, loop: Scan) -> dict[str, Scan]:
    """A scan in its three forms."""
    return {"loop": loop, "chunked": without_kernels(scan), "native": scan}


MATRIX: dict[str, Scan] = {"loop": matrix_loop, "chunked": chunked_scan, "native": native.chunk_scan}
ELEMENT = forms(linear_scan, element_loop)
CASES: dict[str, tuple[dict[str, Scan], Callable[[], list[Tensor | None]]]] = {
    "diagonal B4 T512 H8 N64": (MATRIX, lambda: matrix_operands(4, 512, 8, 64, "diagonal")),
    "scalar B4 T512 H8 N64": (MATRIX, lambda: matrix_operands(4, 512, 8, 64, "scalar")),
    "delta B4 T512 H8 N64": (MATRIX, lambda: matrix_operands(4, 512, 8, 64, "delta")),
    "delta B8 T128 H4 N32": (MATRIX, lambda: matrix_operands(8, 128, 4, 32, "delta")),
    "delta B1 T2048 H4 N128": (MATRIX, lambda: matrix_operands(1, 2048, 4, 128, "delta")),
    "values B4 T512 H8 N64": (MATRIX, lambda: matrix_operands(4, 512, 8, 64, "values")),
    "documents B4 T512 H8 N64": (MATRIX, lambda: matrix_operands(4, 512, 8, 64, "documents")),
    "elementwise B4 T512 [512]": (ELEMENT, lambda: element_operands(4, 512, 512)),
    "elementwise B4 T512 [512, 16]": (ELEMENT, lambda: element_operands(4, 512, 512, 16)),
    "coupled 2 x 2 B4 T512 [512]": (forms(coupled_scan, coupled_loop), lambda: element_operands(4, 512, 512, states=2)),
    "max-plus B4 T512 [512]": (forms(maxplus_scan, maxplus_loop), lambda: element_operands(4, 512, 512)),
    "convolution of 4 B4 T512 [512]": (
        forms(convolve, convolve_windows),
        lambda: [torch.randn(4, 512, 512), torch.randn(4, 512)],
    ),
}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def once(scan: Scan, xs: Sequence[Tensor | None], clock: Callable[[], float]) -> tuple[float, float]:
    """Milliseconds of a forward and of its backward."""
    xs = [x.detach().requires_grad_() if x is not None and x.is_floating_point() else x for x in xs]
    start = clock()
    y = scan(*xs)
    middle = clock()
    outputs = y if isinstance(y, tuple) else (y,)
    ones = [torch.ones_like(x) for x in outputs]
    begun = clock()
    torch.autograd.backward(outputs, ones)
    return 1e3 * (middle - start), 1e3 * (clock() - begun)


def compare(forms: dict[str, Scan], xs: Sequence[Tensor | None], rounds: int, clock: Callable[[], float]) -> str:
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
