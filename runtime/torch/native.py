"""The CPU kernels: built by the machine's C++ compiler on first use, kept in the user's cache.

Input: the sources beside this file; `CDRMIX_KERNELS` = `torch` (never use them), `native` (fail without them), unset or
`auto` (use them where they can be built, else warn once and run the torch forms); `CXX`; `XDG_CACHE_HOME`.
Output: `kernels()`, the operators, or None; `chunk_scan` and `linear_scan` on them, with gradients.
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
SOURCES = ("chunk_scan.cpp", "linear_scan.cpp")
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
    """The operators (`chunk_scan`, `linear_scan`, their backwards), or None."""
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
def chunk_scan(
    q: Tensor, w: Tensor | None, k: Tensor, v: Tensor, S0: Tensor, a: Tensor | None = None, b: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The native twin of `chunked.chunked_scan`, for w None, [B, T, H, 1] or [B, T, H, K]; float32 or float64."""
    if a is None or b is None:
        a, b = (q.new_empty(*q.shape[:3], 0, q.shape[-1]) for _ in "ab")
    xs = [x if x is None else x.contiguous() for x in _apart(q, w, k, v, a, b, S0)]
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in xs):
        return _ChunkScan.apply(*xs)  # type: ignore[no-any-return, no-untyped-call]
    ops = _required()
    y, S, _, _ = ops.chunk_scan(*xs, False)
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
        ctx.save_for_backward(*xs[:-1], x, kept)
        return y, S

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dS: Tensor) -> tuple[Tensor | None, ...]:
        grads = _required().chunk_scan_backward(*ctx.saved_tensors, dy.contiguous(), dS.contiguous())
        return tuple(grads)


# --- linear_scan ---------------------------------------------------------------------------------------------------
def linear_scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """h [B, T, *S] for a, b [B, T, *S] and h0 [B, *S], all of full shape; no gradient of its own."""
    h = _required().linear_scan(_channels(a, b), _flat(b, 2).contiguous(), _flat(h0, 1).contiguous())
    return h.view(b.shape)  # type: ignore[no-any-return]


def linear_scan_backward(a: Tensor, h: Tensor, h0: Tensor, dh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a (of full shape), b and h0."""
    da, db, dh0 = _required().linear_scan_backward(
        _channels(a, h), _flat(h, 2), _flat(h0, 1).contiguous(), _flat(dh, 2).contiguous()
    )
    return da.view(h.shape), db.view(h.shape), dh0.view(h0.shape)


def _channels(a: Tensor, like: Tensor) -> Tensor:
    """[B, T, C] with neighbouring channels side by side; what repeats over B and T stays unmaterialised."""
    a = _flat(a.expand(like.shape), 2)
    return a if a.stride(2) == 1 or a.shape[2] == 1 else a.contiguous()


def _flat(x: Tensor, lead: int) -> Tensor:
    """All axes after the first `lead` as one; a state of one number has none."""
    return x.flatten(lead) if x.dim() > lead else x.unsqueeze(lead)


def _required() -> Any:
    ops = kernels()
    if ops is None:
        raise CannotBuild("CDRMIX_KERNELS=torch, or the build failed")
    return ops


def _register_fakes(name: str) -> None:
    """The operators' shapes without their data, for torch.compile."""

    @torch.library.register_fake(f"{name}::chunk_scan")
    def _(q, w, k, v, a, b, S0, keep):  # type: ignore[no-untyped-def]
        B, T, H, n, K = q.shape
        V = v.shape[-1]
        kept = q.new_empty(B, H, -(-T // CHUNK) if keep else 0, V, K)
        return q.new_empty(B, T, H, n, V), torch.empty_like(S0), q.new_empty(B, T, H, a.shape[3], V), kept

    @torch.library.register_fake(f"{name}::chunk_scan_backward")
    def _(q, w, k, v, a, b, x, kept, dy, dlast):  # type: ignore[no-untyped-def]
        return tuple(x if x is None else torch.empty_like(x) for x in (q, w, k, v, a, b, dlast))

    @torch.library.register_fake(f"{name}::linear_scan")
    def _(a, b, h0):  # type: ignore[no-untyped-def]
        return torch.empty_like(b)

    @torch.library.register_fake(f"{name}::linear_scan_backward")
    def _(a, h, h0, dh):  # type: ignore[no-untyped-def]
        return torch.empty_like(h), torch.empty_like(h), torch.empty_like(h0)
