"""The tools that make code for GPUs: which targets there are, where the tools are, and what is missing.

Input: names of targets (`sm_90`, `ptx`, `gfx1100`).  Output: `Arch` rows, `Need`s with the command that installs each,
and the environment of the child processes that do the work.

Everything comes from PyPI or Debian: nvrtc and CUDA's headers compile for NVIDIA, LLVM 19 and lld for AMD.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from cdrmix.codegen.tinygrad import internals

from cdrmix.diagnose import Need, UserError, did_you_mean

Vendor = Literal["cuda", "hip"]


@dataclass(frozen=True, slots=True)
class Arch:
    """A kind of device.  `code`: suffix of the machine code's file; `text`: of the source kept beside it."""

    name: str
    vendor: Vendor
    code: str
    text: str
    device: str
    """What tinygrad calls it when no device is there."""

    compiler: str
    """What the compiler calls it."""


def _nvidia(name: str) -> Arch:
    return Arch(name, "cuda", "cubin", "cu", f"NULL:CUDA:{name}", name)


def _amd(name: str) -> Arch:
    return Arch(name, "hip", "hsaco", "ll", f"NULL:AMDLLVM:{name}", name)


ARCHS = {
    a.name: a
    for a in (
        *map(_nvidia, ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120")),
        Arch("ptx", "cuda", "ptx", "cu", "NULL:CUDA:sm_80", "compute_80"),
        *map(_amd, ("gfx908", "gfx90a", "gfx942", "gfx1030", "gfx1100", "gfx1101", "gfx1102")),
        *map(_amd, ("gfx1151", "gfx1200", "gfx1201")),
    )
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
    return _first(
        os.environ.get("NVRTC_PATH"),
        _in_wheels("*/lib/libnvrtc.so.*"),
        _in_toolkits("lib*/libnvrtc.so*"),
        _in_system("libnvrtc.so*"),
    )


@cache
def cuda_headers() -> Path | None:
    """The folder whose `include` holds `cuda_fp16.h`."""
    header = "include/cuda_fp16.h"
    found = _first(None, _in_toolkits(header), _in_wheels(f"*/{header}"), Path("/usr").glob(header))
    return found.parent.parent if found is not None else None


@cache
def llvm() -> Path | None:
    """LLVM 19 as a library."""
    return _first(
        os.environ.get("LLVM_PATH"),
        Path("/usr/lib/llvm-19/lib").glob("libLLVM*19*"),
        _in_system("libLLVM-19.so*"),
        _in_system("libLLVM.so.19*"),
    )


@cache
def lld() -> Path | None:
    """The linker of ELF files."""
    found = shutil.which("ld.lld-19") or shutil.which("ld.lld", path="/usr/lib/llvm-19/bin") or shutil.which("ld.lld")
    return Path(found) if found else None


def _first(given: str | None, *places: Iterable[Path]) -> Path | None:
    """The file the user's setting names, or the first of the places (of several versions the newest)."""
    if given and Path(given).is_file():
        return Path(given)
    for place in places:
        if found := sorted((p for p in place if p.is_file() and "builtins" not in p.name), reverse=True):
            return found[0]
    return None


def _in_wheels(pattern: str) -> Iterator[Path]:
    for folder in sys.path:
        yield from (Path(folder) / "nvidia").glob(pattern)


def _in_toolkits(pattern: str) -> Iterator[Path]:
    for folder in (os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda", "/opt/cuda"):
        if folder:
            yield from Path(folder).glob(pattern)


def _in_system(pattern: str) -> Iterator[Path]:
    multiarch = sysconfig.get_config_var("MULTIARCH") or "lib64"
    for folder in (f"/usr/lib/{multiarch}", "/usr/lib64", "/usr/lib", "/usr/local/lib"):
        yield from Path(folder).glob(pattern)


# What is missing.

GPU_EXTRA = "pip install 'cdrmix[gpu]'"


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
        if llvm() is None:
            found.append(Need("LLVM 19", "it compiles the kernels for AMD", "apt-get install libllvm19"))
        elif (major := _llvm_version()) < 18:
            why = f"{llvm()} is version {major}, which does not know these devices"
            found.append(Need("LLVM 19", why, "apt-get install libllvm19, and unset LLVM_PATH"))
        if lld() is None:
            found.append(Need("lld 19", "it links the code objects for AMD", "apt-get install lld-19"))
    return found


def _missing_for_cuda(archs: Sequence[Arch]) -> list[Need]:
    found = []
    if nvrtc() is None:
        found.append(Need("nvrtc (nvidia-cuda-nvrtc)", "it compiles the kernels for NVIDIA", GPU_EXTRA))
    else:
        known = _nvrtc_archs()
        if unknown := [a.name for a in archs if a.compiler.startswith("sm_") and int(a.compiler[3:]) not in known]:
            why = f"{nvrtc()} cannot compile for {', '.join(unknown)}; it knows {', '.join(f'sm_{n}' for n in known)}"
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
def _nvrtc_archs() -> tuple[int, ...]:
    library = ctypes.CDLL(str(nvrtc()))
    count = ctypes.c_int()
    library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    archs = (ctypes.c_int * count.value)()
    library.nvrtcGetSupportedArchs(archs)
    return tuple(archs)


@cache
def _llvm_version() -> int:
    major, rest = ctypes.c_uint(), ctypes.c_uint()
    try:
        ctypes.CDLL(str(llvm())).LLVMGetVersion(ctypes.byref(major), ctypes.byref(rest), ctypes.byref(rest))
    except (OSError, AttributeError):  # not loadable, or from before LLVM 16
        return 0
    return major.value


# The child processes that do the work.

KEPT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
HASH_SEED = "0"


def environment(device: str, work: Path) -> dict[str, str]:
    """A child's whole environment: tinygrad reads dozens of variables, and the user's must not change the code made.

    `work` is a folder of the child's own; nothing is cached from one run to another.
    """
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    tools = {"NVRTC_PATH": nvrtc(), "CUDA_PATH": cuda_headers(), "LLVM_PATH": llvm()}
    return {
        **kept,
        **{name: str(path) for name, path in tools.items() if path is not None},
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


def ask_child(module: str, request: dict[str, Any], device: str) -> dict[str, Any]:
    """Run a module's `answer_parent` in a process of its own; its `UserError` is raised here."""
    with tempfile.TemporaryDirectory(prefix="cdrmix-") as folder:
        work = Path(folder)
        (work / "request.json").write_text(json.dumps(request))
        # -P: a folder named `tinygrad` where the user stands must not hide the library.
        done = subprocess.run(
            [sys.executable, "-P", "-m", module, "request.json", "reply.json"],
            cwd=work, env=environment(device, work), capture_output=True, text=True,
        )  # fmt: skip
        if not (work / "reply.json").exists():
            raise RuntimeError(f"{module} ended with {done.returncode}:\n{done.stderr[-4000:]}")
        reply: dict[str, Any] = json.loads((work / "reply.json").read_text())
    if "error" in reply:
        raise UserError(reply["error"], reply["help"])
    return reply


def answer_parent(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The child's main function: read the request, write the reply or the `UserError`."""
    request, reply = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        found = answer(json.loads(request.read_text()))
    except UserError as e:
        found = {"error": e.message, "help": e.help}
    written = reply.with_suffix(".part")
    written.write_text(json.dumps(found))
    written.rename(reply)
