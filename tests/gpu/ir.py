"""Kernels for AMD on a CPU: their LLVM IR, with the words of a GPU replaced, compiled by LLVM for this machine.

Input: the text of `kernels.ll`.  Output: a module of the mock driver.  It says nothing of AMD's machine code, only of
the source that it is made of.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cdrmix.codegen.tinygrad import machine

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
    """IR to an object file for this machine."""
    binding = pytest.importorskip("llvmlite.binding", reason="llvmlite is not installed")
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(opt=1, reloc="pic", codemodel="default")

    def compile_ir(text: str, out: Path) -> None:
        out.write_bytes(machine.emit_object(binding.parse_assembly(text)))

    return compile_ir
