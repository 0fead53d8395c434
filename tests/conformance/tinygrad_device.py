"""Which tinygrad device the tests run on.  Import this before tinygrad: the device is chosen when it is imported.

CPU through clang where there is one, else through Debian's libllvm19, else the tests that import this are skipped.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from cdrmix.codegen.tinygrad import toolchain

PLACES = ("/usr/lib/*/libLLVM-19.so*", "/usr/lib/llvm-19/lib/libLLVM*.so*", "/usr/lib64/libLLVM*19*.so*")
LLVM = next((str(p) for where in PLACES for p in sorted(Path("/").glob(where[1:]))), None)
if shutil.which("clang"):
    os.environ["DEV"] = "CPU"
elif LLVM is not None:
    os.environ["DEV"], os.environ["LLVM_PATH"] = "CPU:LLVM", LLVM
else:
    pytest.skip("tinygrad's CPU device needs clang or libllvm19", allow_module_level=True)
pytest.importorskip("tinygrad")

for name, path in (("NVRTC_PATH", toolchain.nvrtc()), ("CUDA_PATH", toolchain.cuda_headers())):
    if path is not None:  # tinygrad looks for its libraries once, when a test first needs any device's renderer
        os.environ.setdefault(name, str(path))
