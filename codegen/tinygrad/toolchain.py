"""The tools that make code for GPUs: which targets there are, where the tools are, and what is missing.

Input: names of targets (`sm_90`, `ptx`, `gfx1100`).  Output: `Arch` rows, `Need`s with the command that installs each,
and the environment of the child processes that do the work.

Everything comes from PyPI: nvrtc and CUDA's headers compile for NVIDIA; `amd.py` has the tools for AMD.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from cdrmix.codegen.tinygrad import amd, internals
from cdrmix.codegen.tinygrad.places import GPU_EXTRA, first, in_system, in_toolkits, in_wheels

from cdrmix.diagnose import Need, UserError, did_you_mean

Vendor = Literal["cuda", "hip"]
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Arch:
    """A kind of device.  `code`: suffix of the machine code's file; `device`: what tinygrad calls it when none is
    there; `compiler`: what the compiler calls it.
    """

    name: str
    vendor: Vendor
    code: str
    device: str
    compiler: str


NVIDIA = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120")
AMD = ("gfx908", "gfx90a", "gfx942", "gfx1030", "gfx1100", "gfx1101", "gfx1102", "gfx1151", "gfx1200", "gfx1201")
ARCHS = {
    **{name: Arch(name, "cuda", "cubin", f"NULL:CUDA:{name}", name) for name in NVIDIA},
    "ptx": Arch("ptx", "cuda", "ptx", "NULL:CUDA:sm_80", "compute_80"),
    **{name: Arch(name, "hip", "hsaco", f"NULL:AMDLLVM:{name}", name) for name in AMD},
}

DEFAULTS = {
    "cuda": ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "ptx"),
    "rocm": ("gfx90a", "gfx942", "gfx1100", "gfx1201"),
}
"""What a target compiles for when `--arch` says nothing."""

VENDORS: dict[str, Vendor] = {"cuda": "cuda", "rocm": "hip"}


def choose(target: str, names: Sequence[str] = ()) -> list[Arch]:
    """The archs of a target (`cuda`, `rocm`) by name, or its usual ones; an unknown one is a `UserError`."""
    possible = [a.name for a in ARCHS.values() if a.vendor == VENDORS[target]]
    for name in names:
        if name in ARCHS and name not in possible:
            right = next(t for t, vendor in VENDORS.items() if vendor == ARCHS[name].vendor)
            raise UserError(f"`{name}` is an arch of the {right} target, not of {target}", f"use --target {right}")
        if name not in possible:
            near = f"{did_you_mean(name, possible)} there are {', '.join(possible)}"
            raise UserError(f"the {target} target knows no arch `{name}`", near.strip())
    return [ARCHS[name] for name in dict.fromkeys(names or DEFAULTS[target])]


# Where the tools are.


@cache
def nvrtc() -> Path | None:
    """The library that compiles CUDA C."""
    return first(
        os.environ.get("NVRTC_PATH"),
        in_wheels("*/lib/libnvrtc.so.*"),
        in_toolkits("lib*/libnvrtc.so*"),
        in_system("libnvrtc.so*"),
    )


def load_nvrtc() -> ctypes.CDLL:
    """The library, after the one of builtins beside it: some releases look for that among the system's alone."""
    found = nvrtc()
    assert found is not None
    for beside in found.resolve().parent.glob("libnvrtc-builtins.so*"):
        ctypes.CDLL(str(beside))
    return ctypes.CDLL(str(found))


@cache
def cuda_headers() -> Path | None:
    """The folder whose `include` holds `cuda_fp16.h`."""
    header = "include/cuda_fp16.h"
    found = first(None, in_wheels(f"*/{header}"), in_toolkits(header), Path("/usr").glob(header))  # as for nvrtc
    return found.parent.parent if found is not None else None


# What is missing, and what is used.


def missing(archs: Sequence[Arch]) -> list[Need]:
    """What must be installed before these archs can be compiled, asked before any long job."""
    found = []
    try:
        internals.check_version()
    except UserError as e:
        found.append(Need(f"tinygrad {internals.VERSION}", e.message, GPU_EXTRA))
    if nvidia := [a for a in archs if a.vendor == "cuda"]:
        found += _missing_for_cuda(nvidia)
    if any(a.vendor == "hip" for a in archs):
        found += amd.missing()
    return found


def _missing_for_cuda(archs: Sequence[Arch]) -> list[Need]:
    found = []
    if nvrtc() is None:
        found.append(Need("nvrtc (nvidia-cuda-nvrtc)", "it compiles the kernels for NVIDIA", GPU_EXTRA))
    else:
        known = _nvrtc_archs()
        if unknown := [a.name for a in archs if a.code == "cubin" and a.compiler not in known]:
            why = f"{nvrtc()} cannot compile for {', '.join(unknown)}; it knows {', '.join(known)}"
            found.append(Need("another nvrtc (nvidia-cuda-nvrtc)", why, GPU_EXTRA))
    if cuda_headers() is None:
        found.append(Need("CUDA's headers (nvidia-cuda-runtime)", "kernels with 16 bit weights need them", GPU_EXTRA))
    return found


def require(archs: Sequence[Arch], others: Sequence[Need] = ()) -> None:
    """Raise a `UserError` with all that is missing (`others` too) and how to get it."""
    if needs := [*missing(archs), *others]:
        what = "\n".join(f"  {n.what}: {n.why}" for n in needs)
        commands = "\n".join(f"  {c}" for c in dict.fromkeys(n.command for n in needs))
        raise UserError(f"cannot compile for {', '.join(a.name for a in archs)}; missing:\n{what}", f"run\n{commands}")


@cache
def _nvrtc_archs() -> tuple[str, ...]:
    library = load_nvrtc()
    count = ctypes.c_int()
    library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    archs = (ctypes.c_int * count.value)()
    library.nvrtcGetSupportedArchs(archs)
    return tuple(f"sm_{n}" for n in archs)


def tools(target: str) -> list[str]:
    """What a target is compiled with here, in words; ask `missing` first."""
    tinygrad = f"tinygrad {internals.VERSION}"
    return [tinygrad, f"nvrtc ({nvrtc()})"] if target == "cuda" else [tinygrad, *amd.tools()]


# The child processes that do the work.

KEPT = ("PATH", "CC", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
HASH_SEED = "0"


def environment(device: str, work: Path) -> dict[str, str]:
    """A child's whole environment: tinygrad reads dozens of variables, and the user's must not change the code made.

    `work` is a folder of the child's own; nothing is cached from one run to another.
    """
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    libraries = {"NVRTC_PATH": nvrtc(), "CUDA_PATH": cuda_headers(), "LLVM_PATH": amd.library()}
    return {
        **kept,
        **{name: str(path) for name, path in libraries.items() if path is not None},
        "PYTHONHASHSEED": HASH_SEED,
        "PYTHONDONTWRITEBYTECODE": "1",
        "DEV": device,
        "JIT": "2",
        "USE_TC": "0",
        "PARALLEL": "0",
        "NUM_CPU_THREADS": "1",
        "CCACHE": "0",
        "CACHEDB": str(work / "cache.db"),
    }


def in_child(device: str, task: Callable[..., Found], *args: Any) -> Found:
    """What a function of a module returns in a process of its own; its `UserError` is raised here."""
    with tempfile.TemporaryDirectory(prefix="cdrmix-") as folder:
        work = Path(folder)
        (work / "task").write_bytes(pickle.dumps((task, args)))
        # -P: a folder named `tinygrad` where the user stands must not hide the library.
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__, "task", "reply"],
            cwd=work, env=environment(device, work), capture_output=True, text=True,
        )  # fmt: skip
        if not (work / "reply").exists():
            raise RuntimeError(f"{task.__module__} ended with {done.returncode}:\n{done.stderr[-4000:]}")
        found: Found
        found, error = pickle.loads((work / "reply").read_bytes())
    if error is not None:
        raise error
    return found


def _answer(task: Path, reply: Path) -> None:
    """The child: do the task, and write what it returns or its `UserError`."""
    function, args = pickle.loads(task.read_bytes())
    answer: tuple[Any, UserError | None]
    try:
        answer = (function(*args), None)
    except UserError as error:
        answer = (None, error)
    part = reply.with_suffix(".part")
    part.write_bytes(pickle.dumps(answer))
    part.rename(reply)


if __name__ == "__main__":
    _answer(Path(sys.argv[1]), Path(sys.argv[2]))
