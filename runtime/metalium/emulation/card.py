"""The emulated card over ctypes: its memory and how it is given out, its cores, and programs running on them."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Sequence
from ctypes import POINTER, c_bool, c_char_p, c_int, c_uint8, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import build
from .build import COMPUTE, READER, WRITER, Build, EmulationError
from .descriptors import (
    ComputeConfigDescriptor,
    CoreCoord,
    KernelDescriptor,
    ProgramDescriptor,
    ReaderConfigDescriptor,
    SourceType,
    UnpackToDestMode,
)

CBS = 32
INVALID_FORMAT = 255


@dataclass(frozen=True, slots=True)
class Board:
    """What differs between boards.  L1 below `l1_base` is the firmware's; semaphores lie there."""

    arch: str
    width: int
    height: int
    banks: int
    dram_bytes: int
    l1_bytes: int
    l1_base: int
    dram_alignment: int
    noc_columns: tuple[int, ...]
    noc_first_row: int
    semaphores: int = 0x8000
    l1_alignment: int = 16
    dram_base: int = 1048640

    @property
    def cores(self) -> int:
        """How many cores programs can use."""
        return self.width * self.height


BOARDS = {
    "n150": Board("wormhole_b0", 8, 8, 12, 1 << 30, 1464 << 10, 103_712, 32, tuple(range(18, 26)), 18),
    "p150": Board("blackhole", 13, 10, 8, 4 << 30, 1536 << 10, 103_712, 64, (*range(1, 8), *range(10, 16)), 2),
}


@dataclass(slots=True)
class Buffer:
    """A piece of DRAM (in each bank) or of L1 (on each core)."""

    card: Card
    address: int
    size: int
    dram: bool
    there: bool = True

    def bytes(self, cores: Sequence[int]) -> list[np.ndarray]:
        """Its memory, bank after bank."""
        if not self.there:
            raise EmulationError("a tensor that was deallocated is used")
        library, handle = self.card.library, self.card.handle
        if self.dram:
            first = library.emulation_dram_bytes(handle, self.address)
            whole = np.ctypeslib.as_array(ctypes.cast(first, POINTER(c_uint8)), (self.card.board.banks, self.size))
            return list(whole)
        places = [library.emulation_l1_bytes(handle, n, self.address) for n in cores or range(self.card.board.cores)]
        return [np.ctypeslib.as_array(ctypes.cast(at, POINTER(c_uint8)), (self.size,)) for at in places]

    def free(self) -> None:
        """Give it back."""
        if self.there and self.card.handle:
            self.there = False
            self.card.freed(self)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.free()


@dataclass(slots=True)
class _Prepared:
    """A program whose kernels are loaded, ready to be started again and again."""

    cbs: list[tuple[int, ...]] = field(default_factory=list)
    semaphores: list[tuple[int, int, int]] = field(default_factory=list)
    kernels: list[tuple[Any, ...]] = field(default_factory=list)
    computes: list[tuple[int, bool, bool, int, bool]] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)


class Card:
    """A device as ttnn shows it.  `seed` orders the kernels' turns, a turn ends at one API call in 2**`run_length`."""

    def __init__(self, board: str = "n150", seed: int = 1, run_length: int = 3):
        self.board = BOARDS[board]
        self.seed, self.run_length = seed, run_length
        self.library = _library()
        b = self.board
        columns = (c_uint32 * b.width)(*b.noc_columns)
        self.handle: int | None = self.library.emulation_open(
            b.arch == "blackhole",
            b.width,
            b.height,
            b.banks,
            b.l1_bytes,
            b.semaphores,
            b.dram_alignment,
            columns,
            b.noc_first_row,
        )
        if not self.handle:
            raise EmulationError("no memory for an emulated card")
        self._dram: dict[int, int] = {}
        self._l1: dict[int, int] = {}
        self._prepared: dict[int, tuple[ProgramDescriptor, _Prepared]] = {}

    def close(self) -> None:
        """Give all memory back."""
        if self.handle:
            self.library.emulation_close(self.handle)
            self.handle = None

    # --- ttnn's names ----------------------------------------------------------------------------------------------
    def arch(self) -> str:
        """The architecture."""
        return self.board.arch

    def compute_with_storage_grid_size(self) -> CoreCoord:
        """The cores that programs can use."""
        return CoreCoord(self.board.width, self.board.height)

    def worker_core_from_logical_core(self, core: CoreCoord) -> CoreCoord:
        """A core's place on the NoC."""
        return self.on_noc(self.number(core))

    # --- cores -----------------------------------------------------------------------------------------------------
    def number(self, core: CoreCoord) -> int:
        """A logical core's number."""
        if not (0 <= core.x < self.board.width and 0 <= core.y < self.board.height):
            raise EmulationError(f"there is no core {core.x}-{core.y}")
        return core.y * self.board.width + core.x

    def on_noc(self, number: int) -> CoreCoord:
        """A core's place on the NoC."""
        y, x = divmod(number, self.board.width)
        return CoreCoord(self.board.noc_columns[x], self.board.noc_first_row + y)

    # --- memory ----------------------------------------------------------------------------------------------------
    def aligned(self, size: int, dram: bool) -> int:
        """The size rounded up to what pages begin at."""
        to = self.board.dram_alignment if dram else self.board.l1_alignment
        return -(-size // to) * to

    def allocate(self, size: int, dram: bool) -> Buffer:
        """DRAM from the bottom, L1 from the top, the first gap that is wide enough."""
        size = self.aligned(max(size, 1), dram)
        if dram:
            at = self.board.dram_base
            for address in sorted(self._dram):
                if address - at >= size:
                    break
                at = address + self._dram[address]
            if at + size > self.board.dram_bytes:
                raise EmulationError(f"DRAM is full: {size} bytes in each bank")
            self._dram[at] = size
            self.library.emulation_dram_add(self.handle, at, size)
        else:
            end = self.board.l1_bytes
            for address in sorted(self._l1, reverse=True):
                if end - (address + self._l1[address]) >= size:
                    break
                end = address
            at = end - size
            if at < self.board.l1_base:
                raise EmulationError(f"L1 is full: {size} bytes on each core")
            self._l1[at] = size
            self.library.emulation_l1_add(self.handle, at, size)
        return Buffer(self, at, size, dram)

    def freed(self, buffer: Buffer) -> None:
        """A buffer is given back."""
        if buffer.dram:
            del self._dram[buffer.address]
            self.library.emulation_dram_remove(self.handle, buffer.address)
        else:
            del self._l1[buffer.address]
            self.library.emulation_l1_remove(self.handle, buffer.address)

    # --- programs --------------------------------------------------------------------------------------------------
    def run(self, program: ProgramDescriptor) -> None:
        """Compile what is not compiled, start every kernel, and see them all end."""
        if not self.handle:
            raise EmulationError("the device is closed")
        known = self._prepared.get(id(program))
        if known is None or known[0] is not program:
            known = self._prepared[id(program)] = (program, self._prepare(program))
        ready = known[1]
        floor = min(self._l1, default=self.board.l1_bytes)
        for core, end in ready.ends.items():
            if end > floor:
                y, x = divmod(core, self.board.width)
                raise EmulationError(
                    f"L1 overflow on core ({x}, {y}): circular buffers end at {end:#x}, {end - floor} bytes past where "
                    f"tensors begin ({floor:#x})"
                )
        library, handle = self.library, self.handle
        library.emulation_program_begin(handle)
        for cb in ready.cbs:
            library.emulation_cb(handle, *cb)
        for semaphore in ready.semaphores:
            library.emulation_semaphore(handle, *semaphore)
        for compute in ready.computes:
            library.emulation_compute(handle, *compute)
        for kernel in ready.kernels:
            library.emulation_kernel(handle, *kernel)
        if library.emulation_run(handle, self.seed, (1 << self.run_length) - 1):
            raise EmulationError(build.with_lines(library.emulation_error(handle).decode()))

    def _prepare(self, program: ProgramDescriptor) -> _Prepared:
        ready = _Prepared()
        formats, pages = [INVALID_FORMAT] * CBS, [0] * CBS
        configs = [k.config for k in program.kernels if isinstance(k.config, ComputeConfigDescriptor)]
        modes = configs[0].unpack_to_dest_mode if configs else ()
        direct = [n < len(modes) and modes[n] is UnpackToDestMode.UnpackToDestFp32 for n in range(CBS)]
        for cb in program.cbs:
            cores = [self.number(core) for core in cb.core_ranges]
            at = max((ready.ends.get(core, self.aligned(self.board.l1_base, True)) for core in cores), default=0)
            for of in cb.format_descriptors:
                if cb.total_size % of.page_size or of.page_size % 16:
                    raise EmulationError(f"CB {of.buffer_index}: {cb.total_size} bytes in pages of {of.page_size}")
                formats[of.buffer_index], pages[of.buffer_index] = of.data_format.format, of.page_size
                shape = (of.page_size, cb.total_size // of.page_size, of.data_format.format, direct[of.buffer_index])
                alone = len(cb.format_descriptors) == 1
                ready.cbs += [(core, of.buffer_index, at, *shape, alone) for core in cores]
            for core in cores:
                ready.ends[core] = self.aligned(at + cb.total_size, True)  # CBs begin where DRAM reads may end
        for semaphore in program.semaphores:
            cores = [self.number(core) for core in semaphore.core_ranges]
            ready.semaphores += [(core, semaphore.id, semaphore.initial_value) for core in cores]
        wanted = [(kernel, self._build(kernel, tuple(formats), tuple(pages))) for kernel in program.kernels]
        objects = build.kernels(wants for _, wants in wanted)
        for kernel, wants in wanted:
            self._place(ready, kernel, wants, _entry(str(objects[wants])))
        return ready

    def _build(self, kernel: KernelDescriptor, formats: tuple[int, ...], pages: tuple[int, ...]) -> Build:
        config = kernel.config
        match config:
            case ComputeConfigDescriptor():
                role, fp32 = COMPUTE, config.fp32_dest_acc_en
            case ReaderConfigDescriptor():
                role, fp32 = READER, False
            case _:
                role, fp32 = WRITER, False
        return Build(
            source=kernel.kernel_source,
            inline=kernel.source_type is SourceType.SOURCE_CODE,
            role=role,
            arch=self.board.arch,
            compile_time_args=tuple(kernel.compile_time_args),
            defines=tuple((name, value) for name, value in kernel.defines),
            include_paths=tuple(os.fspath(path) for path in kernel.compiler_include_paths),
            formats=formats,
            page_bytes=pages,
            fp32_dest_acc_en=fp32,
        )

    def _place(self, ready: _Prepared, kernel: KernelDescriptor, of: Build, entry: int) -> None:
        """A kernel on each of its cores with its arguments."""
        given = {self.number(core): list(args) for core, args in kernel.runtime_args}
        common = (c_uint32 * len(kernel.common_runtime_args))(*kernel.common_runtime_args)
        name = of.name.encode()
        for core in kernel.core_ranges:
            number = self.number(core)
            if any(number == other[0] and of.role == other[1] for other in ready.kernels):
                raise EmulationError(f"core ({core.x}, {core.y}) has two kernels of one role: {of.name} is the second")
            args = [int(arg) & 0xFFFFFFFF for arg in given.get(number, [])]
            words = (c_uint32 * len(args))(*args)
            ready.kernels.append((number, of.role, entry, name, words, len(args), common, len(common)))
            if isinstance(kernel.config, ComputeConfigDescriptor):
                c = kernel.config
                ready.computes.append(
                    (number, c.fp32_dest_acc_en, c.dst_full_sync_en, c.math_fidelity.value, c.math_approx_mode)
                )


_LOADED: dict[str, Any] = {}


def _library() -> Any:
    """The machine; kernels find its functions when they are loaded after it."""
    if "machine" not in _LOADED:
        lib = ctypes.PyDLL(str(build.machine_library()), ctypes.RTLD_GLOBAL)
        words = POINTER(c_uint32)
        u, void = c_uint32, c_void_p
        for name, result, arguments in (
            ("open", void, [c_bool, u, u, u, u, u, u, words, u]),
            ("close", None, [void]),
            ("dram_add", None, [void, u, u]),
            ("dram_remove", None, [void, u]),
            ("dram_bytes", void, [void, u]),
            ("l1_add", None, [void, u, u]),
            ("l1_remove", None, [void, u]),
            ("l1_bytes", void, [void, u, u]),
            ("program_begin", None, [void]),
            ("cb", None, [void, u, u, u, u, u, u, c_bool, c_bool]),
            ("semaphore", None, [void, u, u, u]),
            ("compute", None, [void, u, c_bool, c_bool, c_int, c_bool]),
            ("kernel", None, [void, u, u, void, c_char_p, words, u, words, u]),
            ("run", c_int, [void, c_uint64, u]),
            ("error", c_char_p, [void]),
        ):
            function = getattr(lib, f"emulation_{name}")
            function.restype, function.argtypes = result, arguments
        _LOADED["machine"] = lib
    return _LOADED["machine"]


def _entry(path: str) -> int:
    """A kernel's entry, loaded."""
    if path not in _LOADED:
        _LOADED[path] = ctypes.PyDLL(path)
    address = ctypes.cast(_LOADED[path].emulated_kernel, c_void_p).value
    assert address is not None
    return address
