"""The tinygrad device the tests run on: this CPU, its kernels made by the machine's C compiler.

Import it in place of tinygrad's own set-up; tests/conftest.py has chosen the device.
"""

from __future__ import annotations

import os

import pytest
from cdrmix.codegen.tinygrad import host, internals, toolchain

pytest.importorskip("tinygrad")
if needs := host.missing():
    pytest.skip(f"tinygrad's CPU device needs {needs[0].what}", allow_module_level=True)
internals.compile_for_cpu(host.compile_object)

for name, path in (("NVRTC_PATH", toolchain.nvrtc()), ("CUDA_PATH", toolchain.cuda_headers())):
    if path is not None:  # tinygrad looks for its libraries once, when a test first needs any device's renderer
        os.environ.setdefault(name, str(path))

if toolchain.nvrtc() is not None:
    toolchain.load_nvrtc()  # the wheel's nvrtc finds its builtins only where they are loaded already
