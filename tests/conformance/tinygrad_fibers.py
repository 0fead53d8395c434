"""The CUDA source of hand-written kernels, executed on a CPU: threads of a block as fibers, built by g++.

    with fibers(folder) as built: …    inside, kernels run so instead of on tinygrad's device

Input: kernels as `runtime.tinygrad` launches them.  Output: the same tensors; `built` is what was rendered.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cdrmix.codegen.tinygrad import toolchain
from cdrmix.runtime.tinygrad import chunk, experts, picks, products, scans
from tinygrad import Tensor
from tinygrad.codegen import to_program
from tinygrad.helpers import Target
from tinygrad.renderer.cstyle import CUDARenderer
from tinygrad.uop.ops import Ops

from tests.gpu.build import kernels

MODULES = (chunk, experts, picks, products, scans)


@dataclass(frozen=True, slots=True)
class Built:
    """A kernel's source, and how it is launched."""

    name: str
    source: str
    grid: tuple[int, ...]
    block: tuple[int, ...]


def renderer(arch: str = "sm_90") -> CUDARenderer:
    """The renderer of CUDA source, without a device."""
    found, headers = toolchain.nvrtc(), toolchain.cuda_headers()
    if found is None or headers is None:
        pytest.skip("CUDA source needs nvidia-cuda-nvrtc and nvidia-cuda-runtime")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVRTC_PATH", str(found))
        patch.setenv("CUDA_PATH", str(headers))
        return CUDARenderer(Target("NULL", "CUDA", arch))


def rendered(sink: Any, how: Any) -> Built:
    """A kernel as source."""
    program = to_program(sink, how)
    (source,) = (s.arg for s in program.src if s.op is Ops.SOURCE)
    return Built(program.arg.function_name, source, program.arg.global_size, program.arg.local_size)


@contextmanager
def fibers(folder: Path) -> Iterator[list[Built]]:
    """See the module."""
    how = renderer()
    built: list[Built] = []

    def launch(sink: Any, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
        kernel = rendered(sink, how)
        place = folder / f"{len(built)}"
        place.mkdir()
        library = ctypes.CDLL(str(kernels(kernel.source, place)))
        built.append(kernel)
        arrays = [np.ascontiguousarray(t.numpy()) for t in (*outputs, *inputs)]
        guarded = [_guarded(a) for a in arrays]
        values = (ctypes.c_void_p * len(arrays))(*(ctypes.addressof(_pointer(g)) for g in guarded))
        three = ctypes.c_uint * 3
        getattr(library, f"launch_{kernel.name}")(values, three(*kernel.grid), three(*kernel.block))
        for a, g in zip(arrays, guarded, strict=True):
            around = np.concatenate([g[:GUARD], g[GUARD + a.nbytes :]])
            assert (around == 171).all(), f"{kernel.name} wrote outside"
        results = []
        for t, a, g in zip(outputs, arrays, guarded, strict=False):
            made = Tensor(g[GUARD : GUARD + a.nbytes].view(a.dtype).reshape(a.shape).copy())
            results.append(t.assign(made).realize())
        return results

    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            patch.setattr(module, "launch", launch)
            patch.setattr(module, "has_blocks", lambda device: True)
        yield built


GUARD = 256
_POINTERS: list[ctypes.c_void_p] = []


def _guarded(a: np.ndarray) -> np.ndarray:
    """The bytes of an array between others that must stay as they are."""
    room = np.full(a.nbytes + 2 * GUARD + 64, 171, np.uint8)
    room = room[-room.ctypes.data % 64 :][: a.nbytes + 2 * GUARD]
    room[GUARD : GUARD + a.nbytes] = a.reshape(-1).view(np.uint8)
    return room


def _pointer(g: np.ndarray) -> ctypes.c_void_p:
    """An argument: where the array's bytes lie."""
    _POINTERS.append(ctypes.c_void_p(g.ctypes.data + GUARD))
    return _POINTERS[-1]
