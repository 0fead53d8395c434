"""Every private name of tinygrad that the compiler uses, in one place.

Input: a Python function that builds tensors and realises them.  Output: the kernels tinygrad would have run, in order
(`Kernel`: source text, launch size, arguments as storages, counted bytes and operations), none of them run or compiled.

tinygrad's insides change from release to release, so the version is pinned and `used_names` describes all that is
used; a golden file of that text tells which of it moved.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from cdrmix.diagnose import UserError

VERSION = "0.14.0"

First = Literal["load", "store", "none"]


@dataclass(frozen=True, slots=True)
class Storage:
    """A stretch of a device buffer; `buffer` compares by identity."""

    buffer: Hashable
    offset: int
    nbytes: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Operand:
    """An argument of a kernel, the first access to it in the kernel's text, and the bytes it moves."""

    storage: Storage
    first: First
    read: int
    written: int


ITSELF = "@kernel@"
"""Stands for a kernel's own name in its source, so that equal kernels have equal texts."""


@dataclass(frozen=True, slots=True)
class Source:
    """A kernel before it has its final name: text, launch size, and what it moves, by its arguments."""

    name: str
    text: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    flops: int


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch as tinygrad lowered it."""

    source: Source
    operands: tuple[Operand, ...]


NEVER: tuple[First, int, int] = ("none", 0, 0)


class NotAKernel(Exception):
    """A step of the program that is no kernel, in words."""


class Race(NotAKernel):
    """A kernel that may read from a buffer what another of its threads has just written there."""


def check_version() -> None:
    """Refuse any tinygrad but the pinned one."""
    remedy = f"run pip install tinygrad=={VERSION}"
    try:
        found = version("tinygrad")
    except PackageNotFoundError:
        raise UserError("the cuda and rocm targets need tinygrad, which is not installed", remedy) from None
    if found != VERSION:
        raise UserError(f"the cuda and rocm targets need tinygrad {VERSION}, found {found}", remedy)


class Recorder:
    """Takes the place of a running TinyJit: what would be run is kept."""

    def __init__(self) -> None:
        self.linears: list[Any] = []

    def add_linear(self, linear: Any, var_vals: dict[str, int]) -> None:
        """Called by tinygrad with each schedule."""
        if var_vals:
            raise NotAKernel(f"symbolic sizes {sorted(var_vals)}")
        self.linears.append(linear)


@contextmanager
def recording() -> Iterator[Recorder]:
    """Within it `realize` schedules but runs nothing; the recorder holds the schedules in order."""
    from tinygrad.engine.realize import capturing

    if capturing:
        raise RuntimeError("a recording within a recording")
    recorder = Recorder()
    capturing.append(recorder)
    try:
        yield recorder
    finally:
        capturing.clear()


def stop_compiling() -> None:
    """Kernels become source text only: the default device's compiler passes it through."""
    from tinygrad.device import Compiler, Device

    render_without_llvm()
    Device[Device.DEFAULT].renderer.compiler = Compiler()


def render_without_llvm() -> None:
    """The renderer for AMD makes a compiler, which would load LLVM: it gets one that passes text through."""
    from tinygrad.device import Compiler
    from tinygrad.runtime.support import compiler_llvm

    compiler_llvm.AMDLLVMCompiler = lambda arch: Compiler()


def compile_for_cpu(compile_object: Callable[[str], bytes]) -> None:
    """tinygrad's CPU device compiles its C by this function, not by running clang; call it before using the device."""
    from tinygrad.runtime.support.compiler_cpu import ClangCompiler

    ClangCompiler.compile = lambda self, src: compile_object(src)


def amd_compiler(arch: str) -> Callable[[str], bytes]:
    """What turns the text of an LLVM module into an object for an AMD device, by the LLVM that LLVM_PATH names."""
    from tinygrad.runtime.support.compiler_llvm import AMDLLVMCompiler

    return AMDLLVMCompiler(arch).compile  # type: ignore[no-any-return]


def lower(recorder: Recorder) -> list[Kernel]:
    """The recorded schedules as kernels."""
    from tinygrad.engine.realize import compile_linear
    from tinygrad.uop.ops import Ops, UOp

    everything = UOp(Ops.LINEAR, src=tuple(call for linear in recorder.linears for call in linear.src))
    return [_kernel(call) for call in compile_linear(everything).src]


def _kernel(call: Any) -> Kernel:
    from tinygrad.uop.ops import Ops

    program = call.src[0]
    if program.op is Ops.COPY:
        raise NotAKernel(f"a copy of {call.src[1].nbytes()} bytes between devices: a constant made on the host?")
    if program.op is not Ops.PROGRAM:
        raise NotAKernel(f"a step of kind {program.op.name}")
    info = program.arg
    if info.vars:
        raise NotAKernel(f"a kernel with symbolic sizes {[v.expr for v in info.vars]}")
    sink, linear = program.src[:2]
    traffic = _traffic(linear.src)
    operands = []
    for slot in info.globals:
        storage = _resolve(call.src[1 + slot])
        if storage is None:
            raise NotAKernel(f"an argument of kind {call.src[1 + slot].op.name} that is no contiguous view")
        if _may_race(
            info.function_name, linear.src, [s for s in info.globals if call.src[1 + s] is call.src[1 + slot]]
        ):
            raise Race(
                f"kernel {info.function_name} reads other places of a buffer of {storage.nbytes} bytes it writes"
            )
        first, read, written = traffic.get(slot, NEVER)
        operands.append(Operand(storage, first, min(read, storage.nbytes), min(written, storage.nbytes)))
    text = next(s.arg for s in program.src if s.op is Ops.SOURCE)
    source = Source(
        info.function_name,
        re.sub(rf"\b{re.escape(info.function_name)}\b", ITSELF, text),
        _three(info.global_size),
        _three(info.local_size or (1, 1, 1)),
        tuple(o.read for o in operands),
        tuple(o.written for o in operands),
        int(sink.arg.estimates.ops) if sink.arg.estimates is not None else 0,
    )
    return Kernel(source, tuple(operands))


def _three(size: tuple[Any, ...]) -> tuple[int, int, int]:
    if not all(isinstance(n, int) for n in size):
        raise NotAKernel(f"a launch size that is not whole: {size}")
    x, y, z = (*size, 1, 1, 1)[:3]
    return x, y, z


def _traffic(uops: tuple[Any, ...]) -> dict[int, tuple[First, int, int]]:
    """Argument -> its first access, the bytes all loads of it move and the bytes all stores do, counted over loops.

    A load under a condition counts as if it always happened.
    """
    from tinygrad.dtype import dtypes
    from tinygrad.uop.ops import Ops

    found: dict[int, tuple[First, int, int]] = {}
    times, around = 1, []
    for u in uops:
        if u.op is Ops.RANGE:
            around.append(times)
            if u.dtype is not dtypes.void:
                times *= _highest(u.src[0])
        elif u.op is Ops.END:
            times = around.pop()
        elif u.op is Ops.SPECIAL:
            times *= _highest(u.src[0])
        elif u.op in (Ops.LOAD, Ops.STORE):
            if (slot := _parameter(u)) is None:
                continue
            moved = u.src[0].max_numel() * u.src[0].dtype.itemsize * times
            load = u.op is Ops.LOAD
            kind: First = "load" if load else "store"
            first, read, written = found.get(slot, (kind, 0, 0))
            found[slot] = (first, read + moved * load, written + moved * (not load))
    return found


GENERATED = re.compile(r"[rE](_\d+)*(n\d+)?")
"""Names of tinygrad's own kernels; whoever writes one by hand answers for the order of its accesses."""


def _may_race(name: str, uops: tuple[Any, ...], slots: Sequence[int]) -> bool:
    """Whether threads can see each other's stores to a buffer, given as the arguments that are that buffer.

    A place that is stored is stored by one thread.  So a kernel is safe when every place it loads is one it stores,
    by the same expression, in the same argument (arguments are promised not to overlap) and later.  tinygrad does not
    see to that: it turns `s.assign(s[:-1] shifted)` into a kernel in place.
    """
    from tinygrad.uop.ops import Ops

    loads: dict[Any, int] = {}
    stores: dict[Any, int] = {}
    for at, u in enumerate(uops):
        if u.op in (Ops.LOAD, Ops.STORE) and _parameter(u) in slots:
            if u.op is Ops.LOAD:
                loads[u.src[0]] = at
            else:
                stores.setdefault(u.src[0], at)
    if not loads or not stores or not (GENERATED.fullmatch(name) or len(slots) > 1):
        return False
    return any(place not in stores or stores[place] < at for place, at in loads.items())


def _parameter(access: Any) -> int | None:
    """The argument a load or store goes to, or None for memory of the kernel's own."""
    place = access
    while place.src and place.op.name != "PARAM":
        place = place.src[0]
    return place.arg.slot if place.op.name == "PARAM" else None


def _highest(bound: Any) -> int:
    """The trip count of a loop; of one that depends on other indices, its largest."""
    return int(bound.ssimplify()) if bound.vmin == bound.vmax else int(bound.vmax)


def _resolve(u: Any) -> Storage | None:
    if u.op.name == "BUFFER":
        return Storage(u, 0, u.max_numel() * u.dtype.itemsize, True)
    view = u.contiguous_view()
    if view is None or view[0].base.op.name != "BUFFER":
        return None
    base, offset = view[0].base, view[1] * view[0].dtype.itemsize
    nbytes = u.max_numel() * u.dtype.itemsize
    return Storage(base, offset, nbytes, offset == 0 and nbytes == base.max_numel() * base.dtype.itemsize)


VIEWS = frozenset({"RESHAPE", "PERMUTE", "EXPAND", "PAD", "SHRINK", "FLIP", "BITCAST", "DETACH", "AFTER"})


def stands_on(tensor: Any) -> Hashable | None:
    """The buffer a tensor only is a view of, written or still to be written; None when it is to be computed."""
    u = tensor.uop
    while u.op.name in VIEWS:
        u = u.src[0]
    return u if u.op.name == "BUFFER" else None  # type: ignore[no-any-return]


def storage(tensor: Any) -> Storage | None:
    """Where a realised tensor's elements lie, or None when they are no contiguous stretch."""
    return None if stands_on(tensor) is None or tensor.uop.base.op.name == "AFTER" else _resolve(tensor.uop)


def used_names() -> list[str]:
    """All that is used of tinygrad, one a line: the name, what it looks like, and the functions here that use it."""
    import tinygrad.schedule
    from tinygrad.device import Compiled, Compiler
    from tinygrad.engine.realize import capturing, compile_linear
    from tinygrad.renderer import Estimates, Renderer
    from tinygrad.renderer.cstyle import ClangRenderer
    from tinygrad.renderer.llvmir import AMDLLVMRenderer
    from tinygrad.runtime.support.compiler_cpu import ClangCompiler
    from tinygrad.runtime.support.compiler_llvm import AMDLLVMCompiler
    from tinygrad.uop.ops import KernelInfo, Ops, ParamArg, ProgramInfo, UOp

    def call(f: Callable[..., Any]) -> str:
        return str(inspect.signature(f))

    def members(owner: Any, *names: str) -> str:
        return " ".join(n if hasattr(owner, n) else f"{n}=GONE" for n in names)

    def records(owner: Any, *names: str) -> str:
        types = {f.name: f.type for f in fields(owner)}
        return ", ".join(f"{n}: {types.get(n, 'GONE')}" for n in names)

    def made_by(renderer: Any) -> str:
        found = re.search(r"from (\S+) import (\w+)\s+self\.compiler.* = \2\(", inspect.getsource(renderer.__init__))
        return f"{found[1]}.{found[2]}" if found else "GONE"

    hook = re.search(r"capturing\[0\]\.(\w+\(.*\))", inspect.getsource(tinygrad.schedule))
    info = records(ProgramInfo, "name", "global_size", "local_size", "vars", "globals")
    ops = ("LINEAR", "COPY", "PROGRAM", "SINK", "SOURCE", "BUFFER", "PARAM", "RANGE", "END", "SPECIAL", "LOAD", "STORE")
    uop = ("src", "op", "arg", "dtype", "base", "vmin", "vmax", "ssimplify", "max_numel", "nbytes", "contiguous_view")
    used = [
        ("engine.realize.capturing", type(capturing).__name__, "recording"),
        ("schedule: capturing[0]", hook[1] if hook else "GONE", "Recorder.add_linear"),
        ("engine.realize.compile_linear", call(compile_linear), "lower"),
        ("device.Compiler.compile", call(Compiler.compile), "stop_compiling"),
        ("device.Compiled", members(Compiled, "renderer"), "stop_compiling"),
        ("renderer.Renderer", members(Renderer, "compiler"), "stop_compiling"),
        ("runtime.support.compiler_llvm.AMDLLVMCompiler", call(AMDLLVMCompiler), "amd_compiler, render_without_llvm"),
        ("runtime.support.compiler_llvm.AMDLLVMCompiler.compile", call(AMDLLVMCompiler.compile), "amd_compiler"),
        ("renderer.llvmir.AMDLLVMRenderer: makes", made_by(AMDLLVMRenderer), "render_without_llvm"),
        ("renderer.cstyle.ClangRenderer: makes", made_by(ClangRenderer), "compile_for_cpu"),
        ("runtime.support.compiler_cpu.ClangCompiler.compile", call(ClangCompiler.compile), "compile_for_cpu"),
        ("uop.ops.ProgramInfo", info, "_kernel"),
        ("uop.ops.ProgramInfo", members(ProgramInfo, "function_name"), "_kernel"),
        ("uop.ops.KernelInfo", records(KernelInfo, "estimates"), "_kernel"),
        ("renderer.Estimates", records(Estimates, "ops"), "_kernel"),
        ("uop.ops.ParamArg", records(ParamArg, "slot"), "_parameter"),
        ("uop.ops.Ops", members(Ops, *ops), "lower, _kernel, _traffic, _may_race"),
        ("uop.ops.Ops", members(Ops, *sorted(VIEWS)), "stands_on"),
        ("uop.ops.UOp", members(UOp, *uop), "_kernel, _traffic, _resolve, stands_on, storage"),
        ("uop.ops.UOp.contiguous_view", call(UOp.contiguous_view), "_resolve"),
    ]
    return [f"{name}: {looks}    <- {by}" for name, looks, by in used]
