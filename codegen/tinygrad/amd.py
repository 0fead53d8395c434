"""LLVM and the linker for AMD's devices.

Input: the LLVM IR of kernels.  Output: objects, and the one code object linked from them.  Everything comes from PyPI:
LLVM with llvmlite, lld within triton (the same call in all its releases, so any that torch asks for will do).  Where
those are not, Debian's LLVM 19 and lld 19 serve; LLVM_PATH names another LLVM, and goes first.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from cdrmix.codegen.tinygrad import internals
from cdrmix.codegen.tinygrad.places import GPU_EXTRA, first, in_system

from cdrmix.diagnose import Need, UserError

OLDEST = 18
"""The LLVM that knows all the devices."""

CODE_OBJECT = '\n!llvm.module.flags = !{!0}\n!0 = !{i32 1, !"amdhsa_code_object_version", i32 500}\n'
"""Version 5, which ROCm has loaded since 5.7; newer LLVMs would write one that only newer drivers know."""


def llvm() -> Literal["llvmlite"] | Path | None:
    """llvmlite, or LLVM as a library."""
    return library() or ("llvmlite" if importlib.util.find_spec("llvmlite") else None)


@cache
def library() -> Path | None:
    """The file LLVM_PATH names, or where llvmlite is not, LLVM 19 as Debian installs it."""
    given = os.environ.get("LLVM_PATH")
    if importlib.util.find_spec("llvmlite"):
        return first(given)
    return first(
        given,
        Path("/usr/lib/llvm-19/lib").glob("libLLVM*19*"),
        in_system("libLLVM-19.so*"),
        in_system("libLLVM.so.19*"),
    )


def lld() -> Literal["triton"] | Path | None:
    """The linker of ELF files: triton's, or a program."""
    if importlib.util.find_spec("triton"):
        return "triton"
    found = shutil.which("ld.lld-19") or shutil.which("ld.lld", path="/usr/lib/llvm-19/bin") or shutil.which("ld.lld")
    return Path(found) if found else None


def missing() -> list[Need]:
    """What must be installed to compile for AMD."""
    found = []
    if llvm() is None:
        found.append(Need("llvmlite", "its LLVM compiles the kernels for AMD", GPU_EXTRA))
    elif (major := llvm_version()) < OLDEST:
        why = f"{_named(llvm())} is version {major}, which does not know these devices"
        found.append(Need(f"LLVM {OLDEST} or newer", why, f"{GPU_EXTRA}, and unset LLVM_PATH"))
    if lld() is None:
        found.append(Need("triton", "its lld links the code objects for AMD", GPU_EXTRA))
    return found


def tools() -> list[str]:
    """What is used, in words."""
    return [f"LLVM {llvm_version()} ({_named(llvm())})", f"lld ({_named(lld())})"]


def _named(tool: str | Path | None) -> str:
    try:
        return f"{tool} {version(tool)}" if isinstance(tool, str) else str(tool)
    except PackageNotFoundError:  # the module of another package: pytorch-triton-rocm has triton's
        return str(tool)


@cache
def llvm_version() -> int:
    """The major version; 0 where none can be loaded."""
    if llvm() == "llvmlite":
        from llvmlite import binding

        return int(binding.llvm_version_info[0])
    major, rest = ctypes.c_uint(), ctypes.c_uint()
    try:
        ctypes.CDLL(str(llvm())).LLVMGetVersion(ctypes.byref(major), ctypes.byref(rest), ctypes.byref(rest))
    except (OSError, AttributeError):  # not loadable, or from before LLVM 16
        return 0
    return major.value


# What follows runs in a child process.


def compiler(device: str) -> Callable[[str], bytes]:
    """What turns the text of an LLVM module into an object for a device."""
    if llvm() != "llvmlite":
        return internals.amd_compiler(device)
    from llvmlite import binding

    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple("amdgcn-amd-amdhsa")
    machine = target.create_target_machine(device, "+cumode", opt=2, reloc="pic", codemodel="default")

    def compile_ir(text: str) -> bytes:
        module = binding.parse_assembly(f'target triple = "{machine.triple}"\n{text}{CODE_OBJECT}')
        tuning = binding.create_pipeline_tuning_options(speed_level=2)
        tuning.loop_unrolling = tuning.loop_vectorization = tuning.slp_vectorization = True
        builder = binding.create_pass_builder(machine, tuning)
        builder.getModulePassManager().run(module, builder)
        code: bytes = machine.emit_object(module)
        return code

    return compile_ir


def link(objects: Sequence[bytes], folder: Path) -> bytes:
    """The code object, as a driver loads it."""
    for i, code in enumerate(objects):
        (folder / f"{i}.o").write_bytes(code)
    names = "\n".join(str(folder / f"{i}.o") for i in range(len(objects)))
    response, out = folder / "objects", folder / "linked"
    response.write_text(f"--no-undefined\n{names}\n")
    if lld() == "triton":
        from triton._C.libtriton import amd

        try:
            amd.link_hsaco(f"@{response}", str(out))
        except RuntimeError as e:
            raise UserError(f"{_named(lld())} failed: {str(e)[:4000]}") from e
    else:
        command = [str(lld()), "-shared", "-o", str(out), f"@{response}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{lld()} failed: {done.stderr[:4000]}")
    return out.read_bytes()
