"""ttnn's descriptions of a program: cores, circular buffers, semaphores, kernels and how to compile them."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


class DataType(enum.Enum):
    """Elements of a tensor; the numbers are ttnn's."""

    BFLOAT16 = 0
    FLOAT32 = 1
    UINT32 = 2
    INT32 = 7

    @property
    def bytes(self) -> int:
        """Bytes of an element."""
        return 2 if self is DataType.BFLOAT16 else 4

    @property
    def format(self) -> int:
        """The device's number of the format, `DataFormat` in the kernels' headers."""
        return {"FLOAT32": 0, "BFLOAT16": 5, "INT32": 8, "UINT32": 24}[self.name]


class MathFidelity(enum.Enum):
    """How many passes a product takes."""

    LoFi = 0
    HiFi2 = 2
    HiFi3 = 3
    HiFi4 = 4


class UnpackToDestMode(enum.Enum):
    """Whether tiles of a circular buffer go to the destination registers with all bits."""

    UnpackToDestFp32 = 0
    Default = 1


class VectorUnpackToDestMode(list[UnpackToDestMode]):
    """By circular buffer."""


class VectorUInt32(list[int]):
    """Arguments."""


@dataclass(frozen=True, slots=True, init=False)
class CoreCoord:
    """A core's place, logical or on the NoC."""

    x: int
    y: int

    def __init__(self, x: int | tuple[int, int], y: int | None = None):
        a, b = x if isinstance(x, tuple) else (x, y)
        object.__setattr__(self, "x", a)
        object.__setattr__(self, "y", b)


@dataclass(frozen=True, slots=True)
class CoreRange:
    """A rectangle of cores, both corners included."""

    start: CoreCoord
    end: CoreCoord

    def __iter__(self) -> Iterator[CoreCoord]:
        for y in range(self.start.y, self.end.y + 1):
            for x in range(self.start.x, self.end.x + 1):
                yield CoreCoord(x, y)


class CoreRangeSet:
    """Rectangles of cores that do not overlap."""

    def __init__(self, core_ranges: Iterable[CoreRange]):
        self._ranges = list(core_ranges)
        cores = list(self)
        if len(set(cores)) != len(cores):
            raise ValueError("core ranges overlap")

    def __iter__(self) -> Iterator[CoreCoord]:
        for each in self._ranges:
            yield from each

    def ranges(self) -> list[CoreRange]:
        """The rectangles."""
        return list(self._ranges)

    def num_cores(self) -> int:
        """How many cores there are."""
        return len(list(self))


@dataclass(slots=True)
class CBFormatDescriptor:
    """A circular buffer's number, format and page."""

    buffer_index: int
    data_format: DataType
    page_size: int
    tile: Any = None


@dataclass(slots=True)
class CBDescriptor:
    """Room in L1 for a circular buffer, or for several that share it."""

    total_size: int
    core_ranges: CoreRangeSet
    format_descriptors: Sequence[CBFormatDescriptor]


class CoreType(enum.Enum):
    """What kind of core."""

    WORKER = 0


@dataclass(slots=True)
class SemaphoreDescriptor:
    """A word in L1 that cores wait on."""

    id: int
    core_type: CoreType = CoreType.WORKER
    core_ranges: CoreRangeSet = field(default_factory=lambda: CoreRangeSet([]))
    initial_value: int = 0


@dataclass(slots=True)
class ReaderConfigDescriptor:
    """The kernel of NCRISC, on NoC 0."""


@dataclass(slots=True)
class WriterConfigDescriptor:
    """The kernel of BRISC, on NoC 1."""


@dataclass(slots=True)
class ComputeConfigDescriptor:
    """The kernel of the three TRISCs."""

    math_fidelity: MathFidelity = MathFidelity.HiFi4
    math_approx_mode: bool = False
    fp32_dest_acc_en: bool = False
    dst_full_sync_en: bool = False
    bfp8_pack_precise: bool = False
    unpack_to_dest_mode: Sequence[UnpackToDestMode] = ()


class SourceType(enum.Enum):
    """Whether a kernel's source is a path or the text."""

    FILE_PATH = 0
    SOURCE_CODE = 1


@dataclass(slots=True)
class KernelDescriptor:
    """A kernel, where it runs and with what."""

    kernel_source: str
    source_type: SourceType = SourceType.FILE_PATH
    core_ranges: CoreRangeSet = field(default_factory=lambda: CoreRangeSet([]))
    compile_time_args: Sequence[int] = ()
    named_compile_time_args: Sequence[tuple[str, int]] = ()
    defines: Sequence[tuple[str, str]] = ()
    runtime_args: Sequence[tuple[CoreCoord, Sequence[int]]] = ()
    common_runtime_args: Sequence[int] = ()
    opt_level: Any = None
    config: ReaderConfigDescriptor | WriterConfigDescriptor | ComputeConfigDescriptor = field(
        default_factory=ComputeConfigDescriptor
    )
    compiler_include_paths: Sequence[str] = ()

    SourceType = SourceType


@dataclass(eq=False)
class ProgramDescriptor:
    """Kernels that run together, their circular buffers and semaphores."""

    kernels: Sequence[KernelDescriptor] = ()
    semaphores: Sequence[SemaphoreDescriptor] = ()
    cbs: Sequence[CBDescriptor] = ()
