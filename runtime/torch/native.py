"""The CPU kernels: built by the machine's C++ compiler on first use, kept in the user's cache.

Input: the sources beside this file; `CDRMIX_KERNELS` = `torch` (never use them), `native` (fail without them), unset or
`auto` (use them where they can be built, else warn once and run the torch forms); `CXX`; `XDG_CACHE_HOME`.
Output: `kernels()`, the operators, or None; on them, with gradients, `chunk_scan`, `linear_scan`, `coupled_scan`,
`maxplus_scan` and `convolve`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if __name__.startswith("cdrmix.runtime."):
    from cdrmix.runtime.cache import library, private_folder, users_cache
    from cdrmix.runtime.compilers import processor
    from cdrmix.runtime.errors import ArtifactError
else:  # an artefact's copy of this package, which has them beside it
    from .cache import library, private_folder, users_cache  # type: ignore[import-not-found,no-redef]
    from .compilers import processor  # type: ignore[import-not-found,no-redef]
    from .errors import ArtifactError  # type: ignore[import-not-found,no-redef]

HERE = Path(__file__).parent
SOURCES = ("chunk_scan.cpp", "elementwise.cpp", "convolve.cpp")
HEADERS = ("rows.h",)
CHUNK = 16  # as in chunk_scan.cpp
MOST = 16  # as in rows.h: queries + rank, and rank + addends

# Not -ffast-math: it would flush denormals, assume away NaN and infinity, and reorder sums.  What is allowed is what
# changes no result but by rounding (a*b+c fused) or by errno and floating-point traps, which nobody reads here.
# -march=native is right because the cache belongs to this machine: its processor is part of the key.
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
# OpenMP is compiled for but not linked: its symbols come from the library torch has loaded, so that there is one pool
# of threads and `torch.set_num_threads` holds.
BUILD = ("-std=c++20", "-fPIC", "-fopenmp", "-w")


class CannotBuild(ArtifactError):
    """Why this machine has no native kernels."""


def kernels() -> Any | None:
    """The operators (`chunk_scan`, `linear_scan`, `maxplus_scan`, `convolve`, their backwards), or None."""
    name = _namespace()
    return None if name is None else getattr(torch.ops, name)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _namespace() -> str | None:
    """That of the operators, for whoever compiles a graph of their calls."""
    return _loaded()


@functools.cache
def _loaded() -> str | None:
    """Load the operators, once; their namespace, or None."""
    choice = os.environ.get("CDRMIX_KERNELS") or "auto"
    if choice not in ("auto", "native", "torch"):
        raise ArtifactError(f"CDRMIX_KERNELS is `{choice}`", "set it to `auto`, `native` or `torch`, or unset it")
    if choice == "torch":
        return None
    try:
        name, path = _library()
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except (CannotBuild, OSError, subprocess.SubprocessError) as error:
        reason = error if isinstance(error, CannotBuild) else CannotBuild(f"they cannot be loaded: {error}")
        if choice == "native":
            reason.help = "install g++, or name a C++ compiler in CXX; CDRMIX_KERNELS=torch does without"
            raise reason from None
        warnings.warn(f"the CPU kernels are not used, the torch forms run instead: {reason}", RuntimeWarning, 2)
        return None
    with contextlib.suppress(RuntimeError):  # another copy of this package in the process has registered them
        _register_fakes(name)
    return name


def usable(state: Tensor) -> bool:
    """True where the kernels are the right choice for a state: float32 on a CPU, and they are there."""
    return state.dtype == torch.float32 and state.device.type == "cpu" and kernels() is not None


# --- building ------------------------------------------------------------------------------------------------------
def _library() -> tuple[str, Path]:
    """The operators' namespace and the shared library, built if it is not in the cache."""
    if not sys.platform.startswith("linux"):
        raise CannotBuild(f"they are built on Linux, not on {sys.platform}")
    compiler = _compiler()
    try:
        version = subprocess.run([*compiler, "--version"], capture_output=True, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotBuild(f"no C++ compiler ({' '.join(compiler)})") from error
    key = hashlib.sha256()
    for part in (torch.__version__, processor(), *FLAGS, *BUILD):
        key.update(part.encode() + b"\0")
    key.update(version + b"\0")
    for file in (*HEADERS, *SOURCES):
        key.update((HERE / file).read_bytes() + b"\0")
    name = f"cdrmix_{key.hexdigest()[:16]}"
    chosen = users_cache()
    folder = private_folder(chosen and chosen / "cdrmix" / "kernels", "cdrmix-kernels")
    return name, library(folder, name, lambda scratch: _build(compiler, name, scratch))


def _compiler() -> list[str]:
    """$CXX, or the first of the usual names that is there."""
    try:
        given = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise CannotBuild(f"CXX is `{os.environ['CXX']}`, which is no command: {error}") from error
    return given or [next(filter(shutil.which, ("c++", "g++", "clang++")), "c++")]


def _build(compiler: list[str], name: str, folder: Path) -> Path:
    """Compile into the folder and return the library."""
    torch_at = Path(torch.__file__).parent
    include = torch_at / "include"
    common = [*FLAGS, *BUILD, f"-DCDRMIX_OPS={name}"]
    common += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    common += ["-isystem", str(include), "-isystem", str(include / "torch" / "csrc" / "api" / "include")]
    objects = [f"{folder}/{Path(source).stem}.o" for source in SOURCES]
    _run_all(
        [
            [*compiler, *common, "-c", str(HERE / source), "-o", made]
            for source, made in zip(SOURCES, objects, strict=True)
        ]
    )
    made = folder / f"{name}.so"
    _run_all([[*compiler, "-shared", *objects, "-o", str(made), f"-L{torch_at / 'lib'}", "-ltorch_cpu", "-lc10"]])
    return made


def _run_all(commands: list[list[str]]) -> None:
    """Run commands side by side; the first failure is told with the end of what it printed."""
    kind: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    running = [subprocess.Popen(c, **kind) for c in commands]
    printed = [process.communicate()[0] for process in running]
    for process, text in zip(running, printed, strict=True):
        if process.returncode:
            raise CannotBuild(f"the compiler failed:\n{text[-2000:]}")


# --- chunk_scan ----------------------------------------------------------------------------------------------------
def counts(q: Tensor, k: Tensor, a: Tensor | None) -> bool:
    """Whether q [B, T, H, n, K], k [B, T, H, m, K], a [B, T, H, r, K] are few enough queries, addends and ranks."""
    return max(q.shape[3], k.shape[3]) + (0 if a is None else a.shape[3]) <= MOST


def chunk_scan(
    q: Tensor,
    w: Tensor | None,
    k: Tensor,
    v: Tensor,
    S0: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    wv: Tensor | None = None,
    reset: Tensor | None = None,
    initial: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The native twin of `chunked.chunked_scan`, with low rank and value decay together; float32 or float64."""
    if a is None or b is None:
        a, b = (q.new_empty(*q.shape[:3], 0, q.shape[-1]) for _ in "ab")
    initial = None if reset is None or initial is None else initial.expand(S0.shape)
    xs = [x if x is None else x.contiguous() for x in _apart(q, w, k, v, a, b, wv, S0, reset, initial)]
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in xs):
        return _ChunkScan.apply(*xs)  # type: ignore[no-any-return, no-untyped-call]
    y, S, _, _ = _required().chunk_scan(*xs, False)
    return y, S


def _apart(*given: Tensor | None) -> list[Tensor | None]:
    """The same, no tensor twice: a compiler of graphs takes none for two arguments of a function with a gradient."""
    found: list[Tensor | None] = []
    for x in given:
        again = x is not None and any(x is y for y in found)
        found.append(x.view_as(x) if again and x is not None else x)
    return found


class _ChunkScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *xs: Tensor | None) -> tuple[Tensor, Tensor]:
        y, S, x, kept = _required().chunk_scan(*xs, True)
        *operands, _, reset, initial = xs
        ctx.save_for_backward(*operands, reset, initial, x, kept)
        return y, S

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dS: Tensor) -> tuple[Tensor | None, ...]:
        grads = _required().chunk_scan_backward(*ctx.saved_tensors, dy.contiguous(), dS.contiguous())
        *operands, initial = grads
        return (*operands, None, initial)


# --- elementwise states --------------------------------------------------------------------------------------------
def coupled_scan(A: Tensor, b: Tensor, h0: Tensor, reset: Tensor | None, initial: Tensor | None) -> Tensor:
    """h [B, T, G, *S] for A [B, T, G, G, *S], b [B, T, G, *S] and h0 [B, G, *S]; `initial` broadcasts to h0."""
    begin = None if reset is None or initial is None else _flat(initial.expand(h0.shape), 2).contiguous()
    given = _apart(_tokens(_flat(A, 4)), _tokens(_flat(b, 3)), _flat(h0, 2).contiguous(), reset, begin)
    h = _LinearScan.apply(*given)  # type: ignore[no-untyped-call]
    return h.view(b.shape)  # type: ignore[no-any-return]


def linear_scan(a: Tensor, b: Tensor, h0: Tensor, reset: Tensor | None, initial: Tensor | None) -> Tensor:
    """h [B, T, *S] for a, b [B, T, *S] and h0 [B, *S], all of full shape; `initial` broadcasts to h0: one state."""
    begin = None if initial is None else initial.expand(h0.shape).unsqueeze(1)
    return coupled_scan(a[:, :, None, None], b.unsqueeze(2), h0.unsqueeze(1), reset, begin).squeeze(2)


def maxplus_scan(d: Tensor, b: Tensor, p0: Tensor, soft: bool, reset: Tensor | None, initial: Tensor | None) -> Tensor:
    """p [B, T, *S] for d, b [B, T, *S] and p0 [B, *S], all of full shape; `soft` is logaddexp."""
    begin = None if reset is None or initial is None else _flat(initial.expand(p0.shape), 1).contiguous()
    given = _apart(_tokens(_flat(d, 2)), _tokens(_flat(b, 2)), _flat(p0, 1).contiguous(), reset, begin)
    p = _MaxPlusScan.apply(soft, *given)  # type: ignore[no-untyped-call]
    return p.view(b.shape)  # type: ignore[no-any-return]


def _flat(x: Tensor, lead: int) -> Tensor:
    """All axes after the first `lead` as one; a state of one number has none."""
    return x.flatten(lead) if x.dim() > lead else x.unsqueeze(lead)


def _tokens(x: Tensor) -> Tensor:
    """[B, T, ...] with a token's numbers side by side; what repeats over B and T stays unmaterialised."""
    return x if x[0, 0].is_contiguous() else x.contiguous()


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, A: Tensor, b: Tensor, h0: Tensor, reset: Tensor | None, initial: Tensor | None) -> Tensor:
        h: Tensor = _required().linear_scan(A, b, h0, reset, initial)
        ctx.save_for_backward(A, h, h0, reset, initial)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor | None, ...]:
        dA, db, dh0, dinitial = _required().linear_scan_backward(*ctx.saved_tensors, _tokens(dh))
        return dA, db, dh0, None, dinitial


class _MaxPlusScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, soft: bool, d: Tensor, b: Tensor, p0: Tensor, reset: Tensor | None, initial: Tensor | None
    ) -> Tensor:
        p: Tensor = _required().maxplus_scan(d, b, p0, reset, initial, soft)
        ctx.soft = soft
        ctx.save_for_backward(d, b, p, p0, reset, initial)
        return p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dp: Tensor) -> tuple[Tensor | None, ...]:
        dd, db, dp0, dinitial = _required().maxplus_scan_backward(*ctx.saved_tensors, ctx.soft, _tokens(dp))
        return None, dd, db, dp0, None, dinitial


# --- convolve ------------------------------------------------------------------------------------------------------
def convolve(x: Tensor, taps: Tensor, before: Tensor | None, age: Tensor | None) -> Tensor:
    """y [B, T, *S] for x [B, T, *S], taps [W, *S], `before` [B, W-1, *S] (the most recent first) and age [B, T]."""
    flat = [None if z is None else _flat(z, lead).contiguous() for z, lead in ((x, 2), (taps, 1), (before, 2))]
    y = _Convolve.apply(*_apart(*flat), age)  # type: ignore[no-untyped-call]
    return y.view(x.shape)  # type: ignore[no-any-return]


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, before: Tensor | None, age: Tensor | None) -> Tensor:
        y: Tensor = _required().convolve(x, taps, before, age)
        ctx.save_for_backward(x, taps, before, age)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return (*_required().convolve_backward(*ctx.saved_tensors, dy.contiguous()), None)


def _required() -> Any:
    ops = kernels()
    if ops is None:
        raise CannotBuild("CDRMIX_KERNELS=torch, or the build failed")
    return ops


def _register_fakes(name: str) -> None:
    """The operators' shapes without their data, for torch.compile."""

    @torch.library.register_fake(f"{name}::chunk_scan")
    def _(q, w, k, v, a, b, wv, S0, reset, initial, keep):  # type: ignore[no-untyped-def]
        B, T, H, n, K = q.shape
        V = v.shape[-1]
        kept = q.new_empty(B, H, -(-T // CHUNK) if keep else 0, V, K)
        return q.new_empty(B, T, H, n, V), torch.empty_like(S0), q.new_empty(B, T, H, a.shape[3], V), kept

    @torch.library.register_fake(f"{name}::chunk_scan_backward")
    def _(q, w, k, v, a, b, wv, reset, initial, x, kept, dy, dlast):  # type: ignore[no-untyped-def]
        return tuple(x if x is None else torch.empty_like(x) for x in (q, w, k, v, a, b, wv, dlast, initial))

    @torch.library.register_fake(f"{name}::linear_scan")
    def _(A, b, h0, reset, initial):  # type: ignore[no-untyped-def]
        return h0.new_empty(h0.shape[0], b.shape[1], *h0.shape[1:])

    @torch.library.register_fake(f"{name}::linear_scan_backward")
    def _(A, h, h0, reset, initial, dh):  # type: ignore[no-untyped-def]
        begin = None if initial is None else torch.empty_like(initial)
        return h.new_empty(A.shape), torch.empty_like(h), torch.empty_like(h0), begin

    @torch.library.register_fake(f"{name}::maxplus_scan")
    def _(d, b, p0, reset, initial, soft):  # type: ignore[no-untyped-def]
        return p0.new_empty(b.shape)

    @torch.library.register_fake(f"{name}::maxplus_scan_backward")
    def _(d, b, p, p0, reset, initial, soft, dp):  # type: ignore[no-untyped-def]
        begin = None if initial is None else torch.empty_like(initial)
        return torch.empty_like(p), torch.empty_like(p), torch.empty_like(p0), begin

    @torch.library.register_fake(f"{name}::convolve")
    def _(x, F, before, age):  # type: ignore[no-untyped-def]
        return torch.empty_like(x)

    @torch.library.register_fake(f"{name}::convolve_backward")
    def _(x, F, before, age, dy):  # type: ignore[no-untyped-def]
        return torch.empty_like(x), torch.empty_like(F), None if before is None else torch.empty_like(before)
