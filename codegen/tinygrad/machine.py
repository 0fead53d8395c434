"""From kernel sources to one code object for one arch.

Input: kernels by name (CUDA C, or LLVM IR one module a kernel).  Output: the readable text that keeps them all, and
the machine code: a cubin or PTX by nvrtc; for AMD one linked by `amd.py`.  The tools run in a child process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdrmix.codegen.tinygrad import amd, toolchain
from cdrmix.codegen.tinygrad.toolchain import Arch, Vendor

from cdrmix.diagnose import UserError

MARKER = "; ---- kernel "
"""Begins the line before each module of a `.ll` text; the kernel's name follows."""

PTX_VERSION = "7.1"
"""Of PTX: the oldest that has all of compute_80, so that drivers older than the compiler take it."""


@dataclass(frozen=True, slots=True)
class Named:
    """A kernel under its final name; `note` says in words what it is for."""

    name: str
    text: str
    note: str


def join(vendor: Vendor, kernels: Sequence[Named]) -> str:
    """One readable text of all kernels."""
    if vendor == "hip":
        return "".join(f"{MARKER}{k.name}\n; {k.note}\n{k.text.rstrip()}\n\n" for k in kernels)
    shared: dict[str, None] = {}
    bodies = []
    for kernel in kernels:
        lines = kernel.text.rstrip().split("\n")
        start = next(i for i, line in enumerate(lines) if line.startswith('extern "C" __global__'))
        shared.update(dict.fromkeys(lines[:start]))
        bodies.append("\n".join([f"// {kernel.note}", *lines[start:]]))
    # Headers first: the definitions below them may use their types.
    prefix = sorted(shared, key=lambda line: not line.startswith("#include"))
    return "\n\n".join(["\n".join(prefix), *bodies]) + "\n"


def split(text: str) -> dict[str, str]:
    """The modules of a `.ll` text by kernel."""
    parts = text.split(MARKER)[1:]
    return {name: body for name, _, body in (part.partition("\n") for part in parts)}


def build(arch: Arch, text: str) -> bytes:
    """The machine code of a text, made in a child process."""
    make = _nvidia if arch.vendor == "cuda" else _amd
    try:
        return toolchain.in_child(arch.device, make, arch.compiler, text)
    except UserError as e:
        raise UserError(f"the kernels do not compile for {arch.name}: {e.message}", e.help) from e


# What follows runs in the child.


def _nvidia(compiler: str, text: str) -> bytes:
    library = toolchain.load_nvrtc()
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    program = ctypes.c_void_p()

    def check(status: int) -> None:
        if status:
            size = ctypes.c_size_t()
            library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(max(size.value, 1))
            library.nvrtcGetProgramLog(program, log)
            said = library.nvrtcGetErrorString(status).decode()
            raise UserError(f"{said}\n{log.value.decode(errors='replace')[:4000]}")

    def result(kind: str) -> bytes:
        size = ctypes.c_size_t()
        check(getattr(library, f"nvrtcGet{kind}Size")(program, ctypes.byref(size)))
        data = ctypes.create_string_buffer(size.value)
        check(getattr(library, f"nvrtcGet{kind}")(program, data))
        return data.raw

    options = [f"--gpu-architecture={compiler}", f"-I{toolchain.cuda_headers()}/include", "--std=c++17"]
    given = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    check(library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None))
    check(library.nvrtcCompileProgram(program, len(options), given))
    if compiler.startswith("sm_"):
        return result("CUBIN")
    lines = result("PTX").rstrip(b"\0").decode().split("\n")
    return "\n".join(f".version {PTX_VERSION}" if x.startswith(".version ") else x for x in lines).encode()


def _amd(compiler: str, text: str) -> bytes:
    compile_ir = amd.compiler(compiler)
    objects = []
    for name, module in split(text).items():
        try:
            objects.append(compile_ir(module))
        except Exception as e:
            raise UserError(f"kernel {name}: {e}") from e
    return amd.link(objects, Path.cwd())
