"""Kernels for AMD on a CPU: their LLVM IR, with the words of a GPU replaced, compiled by LLVM for this machine.

Input: the text of `kernels.ll`.  Output: a module of the mock driver.  It says nothing of AMD's machine code, only of
the source that it is made of.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path

from cdrmix.codegen.tinygrad import machine, toolchain

from . import build

WORDS = (
    (r"\bamdgpu_kernel ", ""),
    (r" unnamed_addr addrspace\(3\) global (\[[^]]*\]) undef", r" global \1 zeroinitializer"),
    (r"addrspacecast (\[[^]]*\]) addrspace\(3\)\*", r"bitcast \1*"),
    (r'^fence syncscope\("workgroup"\).*$', ""),
    (r"@llvm\.amdgcn\.s\.barrier\(\)", "@mock_barrier()"),
    (r"@llvm\.amdgcn\.work(item|group)\.id\.([xyz])\(\)", r"@mock_\1_\2()"),
    (r'"amdgpu-[^"]*"="[^"]*"', ""),
)
"""What stands for what on a CPU."""

OUTSIDE = "declare void @mock_barrier()\n" + "".join(
    f"declare i32 @mock_{of}_{axis}()\n" for of in ("item", "group") for axis in "xyz"
)

INSIDE = 'extern "C" void mock_barrier() { __syncthreads(); }\n' + "".join(
    f'extern "C" int mock_{of}_{axis}() {{ return (int){word}.{axis}; }}\n'
    for of, word in (("item", "threadIdx"), ("group", "blockIdx"))
    for axis in "xyz"
)


def kernels(text: str, folder: Path) -> Path:
    """The module."""
    compile_ir = compiler()
    objects, lines = [], ['#include "fibers.h"', INSIDE]
    for name, module in machine.split(text).items():
        arguments = re.search(rf"@{re.escape(name)}\((.*)\)", module)
        assert arguments is not None
        count = arguments[1].count("%")
        for pattern, word in WORDS:
            module = re.sub(pattern, word, module, flags=re.MULTILINE)
        assert "amdgcn" not in module and "addrspace" not in module, name
        objects.append(folder / f"{len(objects)}.o")
        compile_ir(OUTSIDE + module, objects[-1])
        lines.append(f'extern "C" void {name}({", ".join(["void *"] * count)});')
        lines.append(f"MOCK_KERNEL({name}, {int('@mock_barrier()' in module)})")
    path, out = folder / "entries.cpp", folder / "kernels.so"
    path.write_text("\n".join(lines) + "\n")
    (folder / "objects").write_text("\n".join(map(str, objects)))
    options = ["-std=c++17", "-w", "-O1", "-fPIC", "-shared", f"-I{build.HERE}"]
    build.run([str(build.CXX), *options, "-o", out, path, f"@{folder / 'objects'}", "-lm"])
    return out


def compiler() -> Callable[[str, Path], None]:
    """LLVM's C interface: IR to an object file for this machine."""
    lib = ctypes.CDLL(str(toolchain.llvm()))
    lib.LLVMGetHostCPUName.restype = lib.LLVMGetDefaultTargetTriple.restype = c_char_p
    for name in ("LLVMCreateMemoryBufferWithMemoryRangeCopy", "LLVMContextCreate", "LLVMCreateTargetMachine"):
        getattr(lib, name).restype = c_void_p
    lib.LLVMCreateMemoryBufferWithMemoryRangeCopy.argtypes = [c_char_p, c_size_t, c_char_p]
    lib.LLVMParseIRInContext.argtypes = [c_void_p, c_void_p, POINTER(c_void_p), POINTER(c_char_p)]
    lib.LLVMCreateTargetMachine.argtypes = [c_void_p, c_char_p, c_char_p, c_char_p, c_int, c_int, c_int]
    lib.LLVMTargetMachineEmitToFile.argtypes = [c_void_p, c_void_p, c_char_p, c_int, POINTER(c_char_p)]
    lib.LLVMDisposeModule.argtypes = lib.LLVMContextDispose.argtypes = [c_void_p]
    host = {"x86_64": "X86", "aarch64": "AArch64"}[lib.LLVMGetDefaultTargetTriple().decode().split("-")[0]]
    for part in ("TargetInfo", "Target", "TargetMC", "AsmPrinter"):
        getattr(lib, f"LLVMInitialize{host}{part}")()
    target, said, triple = c_void_p(), c_char_p(), lib.LLVMGetDefaultTargetTriple()
    assert lib.LLVMGetTargetFromTriple(triple, byref(target), byref(said)) == 0, said.value
    generic, optimised, position_independent = b"", 1, 2
    made = lib.LLVMCreateTargetMachine(target, triple, generic, b"", optimised, position_independent, 0)

    def compile_ir(text: str, out: Path) -> None:
        context, module = lib.LLVMContextCreate(), c_void_p()
        buffer = lib.LLVMCreateMemoryBufferWithMemoryRangeCopy(text.encode(), len(text.encode()), b"kernel")
        failed = lib.LLVMParseIRInContext(context, buffer, byref(module), byref(said))
        assert not failed, f"{(said.value or b'').decode()}\n{text}"
        failed = lib.LLVMTargetMachineEmitToFile(made, module, str(out).encode(), 1, byref(said))
        assert not failed, (said.value or b"").decode()
        lib.LLVMDisposeModule(module)
        lib.LLVMContextDispose(context)

    return compile_ir
