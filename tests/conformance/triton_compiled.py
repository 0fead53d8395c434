"""Triton's kernels compiled for GPUs that are not here: `python -m tests.conformance.triton_compiled [all]`.

Input: launches of the operators on tensors without data (torch's device `meta`), recorded instead of started, so that
what is compiled is what a card would be given.  `all`: every kernel in several shapes; else one, small.
Output: a line of JSON a kernel and card: registers a thread, what of them is spilled, bytes of shared memory, seconds;
exit status 1 where one is beyond what its card has.  A process of its own, since within the suite Triton interprets.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from cdrmix.runtime.torch.gpu import chunks
from cdrmix.runtime.torch.gpu.operators import DEFINITIONS
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

TARGETS = [
    GPUTarget("cuda", 80, 32), GPUTarget("cuda", 90, 32), GPUTarget("cuda", 100, 32),
    GPUTarget("hip", "gfx90a", 64), GPUTarget("hip", "gfx942", 64), GPUTarget("hip", "gfx1100", 32),
]  # fmt: skip
SHARED = {80: 163, 90: 227, 100: 227, "gfx90a": 64, "gfx942": 64, "gfx1100": 64}
"""KiB a program may have: CUDA's programming guide, table of compute capabilities; AMD's ISA guides, LDS."""
SPILLED = 512
"""Bytes a thread that we take: they stay in the first cache."""
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.uint8: "*u8"}
NAMED = {"num_warps", "num_stages"}

Launch = tuple[Any, dict[str, Any], dict[str, Any]]


def recorded(call: Callable[[], object]) -> list[Launch]:
    """Every launch that `call` would do: the kernel, its arguments by name, its options."""
    found: list[Launch] = []

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> None:
        options = {n: x for n, x in named.items() if n in NAMED}
        given = dict(zip(self.arg_names, args, strict=False)) | {n: x for n, x in named.items() if n not in NAMED}
        found.append((self, given, options))

    run, JITFunction.run = JITFunction.run, record
    try:
        call()
    finally:
        JITFunction.run = run
    return found


def compiled(launch: Launch, target: GPUTarget) -> dict[str, Any]:
    """What the compiler says of one launch on one card."""
    kernel, given, options = launch
    given = given | ({"P": chunks.precision(target.backend)} if given.get("P") == "tf32x3" else {})
    fixed = {p.name for p in kernel.params if p.is_constexpr}
    signature = {n: "constexpr" if n in fixed else _type(given[n]) for n in kernel.arg_names}
    aligned = [i for i, n in enumerate(kernel.arg_names) if n not in fixed and _divisible(given[n])]
    source = ASTSource(
        fn=kernel, signature=signature, constexprs={n: given[n] for n in fixed},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )  # fmt: skip
    began = time.time()
    made = triton.compile(source, target=target, options=options)
    registers, spilled = _nvidia(made.asm["cubin"]) if target.backend == "cuda" else _amd(made.asm["amdgcn"])
    text = made.asm.get("ptx") or made.asm["amdgcn"]
    return {
        "kernel": kernel.__name__, "card": str(target.arch), "registers": registers, "spilled": spilled,
        "shared": made.metadata.shared, "warps": made.metadata.num_warps, "seconds": round(time.time() - began, 1),
        "matrix": bool(re.search(r"mma\.sync|wgmma|tcgen05\.mma|mfma|wmma", text)),
    }  # fmt: skip


def _divisible(x: Any) -> bool:
    """Whether a launch would tell the compiler so: torch's memory is aligned, a number may be."""
    return isinstance(x, Tensor) or x % 16 == 0


def _type(x: Any) -> str:
    return TYPES[x.dtype] if isinstance(x, Tensor) else "i32"


def _nvidia(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack, as cuobjdump reads them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", text.stdout)
    assert found, text.stdout
    return int(found[1]), int(found[2])


def _amd(text: str) -> tuple[int, int]:
    """Vector registers and bytes of those that are spilled, from the code's own table."""
    counts = {name: int(n) for name, n in re.findall(r"\.(vgpr_count|vgpr_spill_count):\s*(\d+)", text)}
    return counts["vgpr_count"], 4 * counts["vgpr_spill_count"]


# --- shapes --------------------------------------------------------------------------------------------------------
def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without data."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def call(name: str, *given: object) -> Any:
    """An operator's own function: on `meta` torch would take its fake."""
    return DEFINITIONS[name][1](*given)


def matrix(
    K: int, V: int, N: int = 1, R: int = 1, M: int = 1, w: int | None = None, wv: bool = False, start: int = 1,
    dtype: torch.dtype = torch.bfloat16, rows: int = 8, T: int = 4096,
) -> None:  # fmt: skip
    """Launch `chunk_scan` forward and backward.  `start`: 0 no documents, 1 beginning at zero, 2 at a given state."""
    H = max(1, 768 // K)
    q, k, v, a, b = (empty(rows, T, H, n, size, dtype=dtype) for n, size in ((N, K), (M, K), (M, V), (R, K), (R, K)))
    decay, S = (None if w == 0 else empty(rows, T, H, w or K)), empty(rows, H, V, K)
    values = empty(rows, T, H, V) if wv else None
    reset = empty(rows, T, dtype=torch.bool) if start else None
    initial = S if start == 2 else None
    y, last, x, kept = call("chunk_scan", q, decay, k, v, a, b, values, S, reset, initial, True)
    call("chunk_scan_backward", q, decay, k, v, a, b, values, reset, initial, x, kept, y, last)


def elementwise(states: int, columns: int, rows: int = 8, T: int = 4096) -> None:
    """Launch the elementwise scans forward and backward."""
    A, b = empty(rows, T, states, states, columns), empty(rows, T, states, columns)
    h0, reset = empty(rows, states, columns), empty(rows, T, dtype=torch.bool)
    call("mix_scan", A, b, h0, reset, h0)
    call("mix_scan_backward", A, b, h0, reset, h0, b)
    d, p0 = b[:, :, 0], h0[:, 0]
    for soft in (True, False):
        call("maxplus_scan", d, d, p0, reset, p0, soft)
        call("maxplus_scan_backward", d, d, d, p0, reset, p0, soft, d)


def small() -> list[Launch]:
    """The first kernels of a delta rule: its states in chunks, or by token."""
    found = recorded(lambda: matrix(32, 32, start=0))
    return [x for x in found if x[0].__name__ in ("state_kernel", "forward_kernel")][:1]


def whole() -> list[Launch]:
    """Every kernel: RWKV-7's shape, Mamba-2's, others' in chunks; more ranks, a value decay, large heads by token."""

    def every() -> None:
        matrix(64, 64)
        matrix(128, 64, R=0, w=1)
        matrix(96, 96, N=2, start=0, dtype=torch.float32)
        matrix(16, 16, rows=256)
        matrix(64, 64, R=2, M=2, start=2)
        matrix(64, 64, R=0, wv=True)
        matrix(256, 256)
        matrix(24, 128, N=2, R=3, w=0, rows=256)
        for states, columns in ((1, 768), (2, 768), (3, 40)):
            elementwise(states, columns)

    found = recorded(every)
    apart = {(x[0].__name__, *((n, y) for n, y in x[1].items() if not isinstance(y, Tensor))): x for x in found}
    return list(apart.values())


def main() -> int:
    """Compile, print, judge."""
    bad = 0
    for target in TARGETS:
        chunks.architecture = lambda device, target=target: target.arch
        for launch in whole() if sys.argv[1:] == ["all"] else small():
            found = compiled(launch, target)
            over = found["shared"] > SHARED[target.arch] * 1024 or found["spilled"] > SPILLED
            bad += over
            print(json.dumps(found | {"over": over}), flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
