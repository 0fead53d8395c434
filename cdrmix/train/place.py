"""The second stage of training: a module is placed where it computes.

Input: a built module and a `Placement`.
Output: the same module on its device, its graph compiled where that is asked for.  Sizes that this machine cannot hold
are refused before anything is allocated.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cdrmix.diagnose import UserError
from cdrmix.ir.nodes import DType
from cdrmix.runtime.torch.module import Streaming
from cdrmix.runtime.torch.stream import State, Stream
from cdrmix.runtime.torch.sums import Sums
from cdrmix.train.shard import Mesh, shard

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MOST = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Placement:
    """A device, the type of activations, and the mesh of processes over which parameters and the optimiser's state lie.

    Parameters are f32 whatever `work` is: the module rounds them where it uses them narrower.  `compiled`: all but the
    logits goes through `torch.compile`; of several processes, each layer by itself.  `recomputed`: of a layer nothing
    but what it is given is kept for the backward pass.  `threads` None: as many as torch takes, or this process's share
    where there are `local` ones on this machine.
    """

    device: str = "cpu"
    work: DType = "f32"
    compiled: bool = False
    recomputed: bool = False
    mesh: Mesh = Mesh()
    threads: int | None = None
    local: int = 1

    def __post_init__(self) -> None:
        for name, known in (("device", ["cpu", "cuda"]), ("work", ["f32", "bf16"])):
            if (asked := getattr(self, name)) not in known:
                only = " or ".join(map(str, known))
                raise UserError(f"a module cannot be placed with `{name}` {asked}", f"`{name}` is {only}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("torch finds no GPU here", "set `device: cpu`, or install a torch for this machine's GPU")
        if self.device == "cuda" and self.local > torch.cuda.device_count():
            raise UserError(
                f"{self.local} processes are on a machine of {torch.cuda.device_count()} GPUs", "start one a GPU"
            )

    def prepare(self) -> None:
        """Set this process up, before anything large is allocated."""
        if self.threads:
            torch.set_num_threads(self.threads)
        elif self.local > 1 and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // self.local))
        keep_freed_memory()


def place(module: Streaming, placement: Placement) -> Streaming:
    """The module where the placement has it; an optimiser is made of its parameters there."""
    many = placement.mesh != Mesh()
    if not many:  # else no rank need hold all of it: a layer at a time is taken there as it is sharded
        module = module.to(placement.device)
    if placement.recomputed:
        recompute_layers(module)
    if placement.compiled:
        require_compiler(placement.device)
        if not many:
            module.hidden = torch.compile(module.hidden)  # type: ignore[method-assign]
        for block in module.layers() if many else ():  # what gathers their parameters stays outside
            block.forward = torch.compile(block.forward)  # type: ignore[method-assign]
    if many:
        shard(module, placement.mesh, placement.device)
    return module


def recompute_layers(module: Streaming) -> None:
    """Let the backward pass compute each layer again."""
    if not next(module.layers(), None):
        raise UserError("`recompute: layers`: the spec repeats no layers", "leave it out")
    for block in module.layers():
        block.forward = partial(_recomputed, block.forward)  # type: ignore[method-assign]


def _recomputed(block: Callable[..., Any], x: Tensor, stream: Stream, *carries: Tensor | None) -> Any:
    """A block's forward that keeps what it is given alone.

    What it leaves in the stream is of the first run: the second one's would keep all that run computed until the whole
    backward pass is over.
    """

    def run(x: Tensor, *carries: Tensor | None) -> tuple[Any, State, Sums | None]:
        inside = Stream(stream.old, {}, stream.pos, stream.reset, None if stream.sums is None else Sums())
        return block(x, inside, *carries), inside.new, inside.sums

    found, new, sums = checkpoint(run, x, *carries, use_reentrant=False)
    stream.new.update(new)
    if stream.sums is not None:
        stream.sums.update(sums)
    return found


def require_compiler(device: str) -> None:
    """Refuse to compile a graph where what torch needs for one on a CPU is not here."""
    if device != "cpu":
        return
    from torch._inductor import config
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as e:
        raise UserError("`compile`: torch finds no C++ compiler", "install g++, or set `compile: false`") from e
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise UserError("`compile`: Python's headers are not here", "install python3-dev, or set `compile: false`")
    if not shutil.which("openssl"):
        config.cpp_cache_precompile_headers = False  # it names them by their hash, which that program makes


def keep_freed_memory() -> None:
    """Let the next step use what this one freed, where the C library lets that be asked for (glibc does).

    By default malloc hands large tensors back to the system when they are freed, and the system clears and maps them
    again for the next ones, several times a step: a tenth and more of the time of training a small model on one core.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MOST)
        mallopt(_TRIM_THRESHOLD, _MOST)


def require_memory(tokens: int, size: int, what: str, remedy: str) -> None:
    """Refuse to run `tokens` tokens at once where `size` numbers of each, `what` they are, are more than the memory."""
    needs, has = 4 * tokens * size, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needs > has:
        raise UserError(
            f"{tokens:,} tokens at once: their {what} take {needs / 1e9:,.0f} GB, this machine has {has / 1e9:,.0f}",
            remedy,
        )
