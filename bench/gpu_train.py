"""Training on one GPU: are the kernels right there, and how fast is a step.  Written for less than five minutes of one.

Input: `python -m bench.gpu_train [--dry] [--steps N] [part …]`, from the root of the project; parts: kernels, scan,
models.  `--dry`: tiny shapes on this CPU, the kernels in Triton's interpreter: that everything runs, no speed.
Output: `kernels`: each kernel's distance from the float64 loop, outputs and all gradients (exit status 1 where one is
beyond 1e-4).  `scan`: milliseconds of the RWKV-7 recurrence, forward and backward, beside flash-linear-attention's
where that is installed.  `models`: tokens/s, share of the card's bf16 peak (`--peak`, TFLOP/s), and peak memory of a
step (forward, loss, backward, clipping, AdamW) in bf16.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

if "--dry" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

import torch
import torch.nn.functional as F
from cdrmix.runtime.torch import chunk_reads, gpu
from torch import Tensor

from cdrmix.check import load
from cdrmix.compiler import lower
from cdrmix.ir.cost import cost
from cdrmix.train.batches import Batch
from cdrmix.train.build import build_module
from cdrmix.train.config import OptimConfig
from cdrmix.train.optimiser import make_optimiser
from cdrmix.train.place import Placement, place
from cdrmix.train.step import take_step
from tests.conformance.loops import DECAYS, element_loop, gradients, matrix_loop, operands, worst

SPEC = Path(__file__).parents[1] / "spec"
RANKS = {"head_size": "64", "rank": "64", "gate_rank": "128", "vocab": "65536"}
# spec, settings, sequences, tokens of each
MODELS: dict[str, tuple[str, dict[str, str], int, int]] = {
    "RWKV-7 0.1B": ("rwkv7.cdr", RANKS | {"layers": "12", "d_model": "768"}, 8, 4096),
    "RWKV-7 0.4B": ("rwkv7.cdr", RANKS | {"layers": "24", "d_model": "1024"}, 4, 4096),
    "1b": ("1b.cdr", {}, 4, 2048),
}
DRY: dict[str, tuple[str, dict[str, str], int, int]] = {"RWKV-7, small": ("rwkv7.cdr", {"layers": "1"}, 1, 17)}
TOLERANCE = 1e-4


# --- kernels -------------------------------------------------------------------------------------------------------
def check_kernels(device: str, dry: bool) -> bool:
    """Print each kernel's distance from the loop; whether all are near."""
    near = True
    T = 18 if dry else 150
    for decay in ["0 among 1"] if dry else DECAYS:
        for rank, K in ((1, 16),) if dry else ((0, 64), (1, 64), (2, 64), (1, 128), (1, 256)):
            given = [x if x is None else x.to(device) for x in operands(T, K, K, rank=rank, decay=decay).all()]
            reset = torch.zeros(2, T, dtype=torch.bool, device=device)
            reset[0, [0, T // 2]] = True
            for initial in (None, torch.randn(K, K, device=device)):
                scan = partial(_scan, gpu.chunk_scan, reset)
                loop = partial(_scan, _loop, reset)
                name = f"matrix, rank {rank}, K {K}, {decay}, begins {'at zero' if initial is None else 'somewhere'}"
                near &= _tell(name, scan, loop, [*given, initial])
        line = DECAYS[decay](torch.randn(2, T, 3, 40)).float().to(device)
        b, h0 = torch.randn(2, T, 3, 40, device=device), torch.randn(2, 3, 40, device=device)
        near &= _tell(f"linear, {decay}", _linear, partial(_elements, T, lambda h, a, b: a * h + b), [line, b, h0])
        for soft, join in ((False, torch.maximum), (True, torch.logaddexp)):
            form = partial(_maxplus, soft)
            near &= _tell(
                f"max-plus, {join.__name__}, {decay}",
                form,
                partial(_elements, T, partial(_joined, join)),
                [line, b, h0],
            )
    return near


def _scan(form: Callable[..., tuple[Tensor, Tensor]], reset: Tensor, *xs: Tensor | None) -> tuple[Tensor, Tensor]:
    return form(*xs[:8], reset=reset, initial=xs[8])


def _loop(*xs: Tensor, reset: Tensor, initial: Tensor | None) -> tuple[Tensor, Tensor]:
    return matrix_loop(*xs, reset=reset, initial=initial)


def _linear(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    return gpu.linear_scan(a, b, h0, None, None)


def _maxplus(soft: bool, d: Tensor, b: Tensor, p0: Tensor) -> Tensor:
    return gpu.maxplus_scan(d, b, p0, soft, None, None)


def _joined(join: Callable[[Tensor, Tensor], Tensor], h: Tensor, d: Tensor, b: Tensor) -> Tensor:
    return join(h + d, b)


def _elements(T: int, step: Callable[[Tensor, Tensor, Tensor], Tensor], a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    return element_loop(lambda x, t: step(x, a[:, t], b[:, t]), h, T)


def _tell(name: str, scan: Callable[..., object], loop: Callable[..., object], given: Sequence[Tensor | None]) -> bool:
    far = worst(_weighed(scan, given, torch.float32), _weighed(loop, given, torch.float64))
    print(f"{'ok ' if far <= TOLERANCE else 'FAR'} {far:.1e}  {name}", flush=True)
    return far <= TOLERANCE


def _weighed(form: Callable[..., object], given: Sequence[Tensor | None], dtype: torch.dtype) -> list[Tensor]:
    """`gradients` with the outputs brought to the CPU, where its random weights are."""

    def outputs(*xs: Tensor | None) -> tuple[Tensor, ...]:
        y = form(*xs)
        return tuple(x.cpu() for x in (y if isinstance(y, tuple) else (y,)))

    return [x.cpu() for x in gradients(outputs, given, dtype)]


# --- the recurrence ------------------------------------------------------------------------------------------------
def time_scan(device: str, dry: bool, rounds: int) -> None:
    """Ours and flash-linear-attention's, turn by turn."""
    B, T, H, N = (1, 17, 1, 16) if dry else (8, 4096, 12, 64)
    draw = partial(torch.randn, device=device, dtype=torch.bfloat16)
    q, k, v = draw(B, T, H, N), draw(B, T, H, N), draw(B, T, H, N)
    log_w = -0.6065 * torch.sigmoid(draw(B, T, H, N).float())
    key = F.normalize(draw(B, T, H, N), dim=-1)
    given = [x.requires_grad_() for x in (q, k, v, log_w, -key, key * torch.sigmoid(draw(B, T, H, N)))]
    S0, weigh = torch.zeros(B, H, N, N, device=device), draw(B, T, H, N)

    def ours(q: Tensor, k: Tensor, v: Tensor, log_w: Tensor, a: Tensor, b: Tensor) -> Tensor:
        one = [x.unsqueeze(3) for x in (k, v, a, b)]
        return chunk_reads([q], [True], log_w.exp(), one[0], one[1], S0, one[2], one[3])[0][0]

    forms: dict[str, Callable[..., Tensor]] = {"ours": ours}
    try:
        from fla.ops.rwkv7 import chunk_rwkv7  # type: ignore[import-not-found]
    except ImportError:
        print("flash-linear-attention is not installed: ours alone")
    else:

        def theirs(q: Tensor, k: Tensor, v: Tensor, log_w: Tensor, a: Tensor, b: Tensor) -> Tensor:
            y: Tensor = chunk_rwkv7(q, log_w.to(q.dtype), k, v, a, b, scale=1.0, output_final_state=False)[0]
            return y

        forms["flash-linear-attention"] = theirs
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for turn in range(rounds + 2):
        for name, form in forms.items():
            begun = _now(device)
            y = form(*given)
            between = _now(device)
            torch.autograd.grad((y.float() * weigh.float()).sum(), given)
            if turn >= 2:  # the first compile
                taken[name].append((between - begun, _now(device) - between))
    for name, times in taken.items():
        forward, backward = (1e3 * statistics.median(x) for x in zip(*times, strict=True))
        print(f"scan [{B}, {T}, {H}, {N}] {name}: forward {forward:.2f} ms, backward {backward:.2f} ms", flush=True)


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


# --- models --------------------------------------------------------------------------------------------------------
def time_model(name: str, case: tuple[str, dict[str, str], int, int], device: str, steps: int, peak: float) -> None:
    """One line: a model's training step."""
    spec, settings, rows, length = case
    model = load(SPEC / spec, settings)
    placement = Placement(device, "bf16" if device == "cuda" else "f32", compiled=device == "cuda")
    with tempfile.TemporaryDirectory() as folder:
        module = place(build_module(lower(model, work=placement.work), Path(folder), seed=0), placement).train()
    optimiser = make_optimiser(module, OptimConfig(lr=1e-5))
    tokens = torch.randint(model.vocab, (rows, length + 1), device=device)
    reset = torch.zeros(rows, length, dtype=torch.bool, device=device)
    reset[:, 0] = True
    batch = Batch(tokens[:, :-1], tokens[:, 1:], reset)
    taken = []
    for _ in range(steps + 2):
        begun = _now(device)
        found, _ = take_step(module, optimiser, batch, None, 1.0, 1.0, 1)
        taken.append(_now(device) - begun)
    second = statistics.median(taken[2:])
    speed = rows * length / second
    share = 3.0 * cost(model).total.flops * speed / (peak * 1e12)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    print(
        f"{name}, {rows} x {length}: {speed:.0f} tokens/s, {share:.3f} of {peak:.0f} TFLOP/s, {memory:.1f} GiB, "
        f"first step {taken[0]:.0f} s, loss {found.loss:.3f}",
        flush=True,
    )


def main() -> int:
    """Run the parts named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--dry", action="store_true", help="tiny shapes in Triton's interpreter")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of the card in bf16, dense: H100, H200 989")
    parser.add_argument("part", nargs="*", default=["kernels", "scan", "models"])
    args = parser.parse_args()
    device = "cpu" if args.dry else "cuda"
    if args.dry:
        gpu.usable = lambda state: True  # as if the state were on a GPU
    elif not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here: --dry runs tiny shapes without one")
    torch.manual_seed(0)
    near = "kernels" not in args.part or check_kernels(device, args.dry)
    if "scan" in args.part:
        time_scan(device, args.dry, 1 if args.dry else args.steps)
    for name, case in (DRY if args.dry else MODELS).items() if "models" in args.part else ():
        time_model(name, case, device, 1 if args.dry else args.steps, args.peak)
        if not args.dry:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    return 0 if near else 1


if __name__ == "__main__":
    sys.exit(main())
