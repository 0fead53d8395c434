"""ttnn's tensors: numpy arrays on the host, pages in the emulated card's DRAM or shards in its L1."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import numpy as np

from .build import EmulationError
from .card import Buffer, Card
from .descriptors import CoreRangeSet, DataType

TILE = 32
UNSET_MASK, UNSET = 0xFFAFFFEF, 0xFFA5FFA5


class Layout(enum.Enum):
    """The order of a tensor's elements."""

    ROW_MAJOR = 0
    TILE = 1


class BufferType(enum.Enum):
    """Which memory."""

    DRAM = 0
    L1 = 1


class TensorMemoryLayout(enum.Enum):
    """How a tensor is dealt out."""

    INTERLEAVED = 0
    HEIGHT_SHARDED = 2


class ShardOrientation(enum.Enum):
    """In which order shards go to cores."""

    ROW_MAJOR = 0


class Shape(tuple[int, ...]):
    """A tensor's axes."""


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """A shard's cores and shape."""

    grid: CoreRangeSet
    shape: tuple[int, ...] | list[int]
    orientation: ShardOrientation


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """Where a tensor lies and how."""

    memory_layout: TensorMemoryLayout = TensorMemoryLayout.INTERLEAVED
    buffer_type: BufferType = BufferType.DRAM
    shard_spec: ShardSpec | None = None


class Tensor:
    """An array on the host (no device), or on the card."""

    def __init__(
        self,
        tensor: Any,
        data_type: DataType | None = None,
        device: Card | None = None,
        layout: Layout | None = None,
        mem_config: MemoryConfig | None = None,
    ):
        array = np.asarray(tensor)
        self.dtype = data_type or {"i": DataType.INT32, "u": DataType.UINT32}.get(array.dtype.kind, DataType.FLOAT32)
        self.layout = layout or Layout.ROW_MAJOR
        self.shape = Shape(array.shape)
        self._values = _as(array, self.dtype)
        self._place: _Place | None = None
        if device is not None:
            self._place = _Place(device, self.shape, self.dtype, self.layout, mem_config or MemoryConfig())
            self._place.write(self._values)

    # --- where it is -----------------------------------------------------------------------------------------------
    def _placed(self) -> _Place:
        if self._place is None:
            raise EmulationError("the tensor is not on a device")
        return self._place

    def buffer_address(self) -> int:
        """Its address, in each bank or on each core."""
        return self._placed().buffer.address

    def buffer_aligned_page_size(self) -> int:
        """Bytes from a page to the next in a bank."""
        return self._placed().aligned

    def memory_config(self) -> MemoryConfig:
        """Where it lies."""
        return self._placed().memory

    def device(self) -> Card | None:
        """The card it is on."""
        return self._place.card if self._place else None

    def deallocate(self, force: bool = True) -> None:
        """Give its memory back."""
        if self._place is not None:
            self._place.buffer.free()

    # --- its values ------------------------------------------------------------------------------------------------
    def cpu(self) -> Tensor:
        """A copy on the host."""
        if self._place is None:
            return self
        words = self._place.read()
        if self.dtype is not DataType.BFLOAT16 and np.any((words.view(np.uint32) & UNSET_MASK) == UNSET):
            raise EmulationError(f"a tensor {tuple(self.shape)} is read back, parts of which no kernel has written")
        return Tensor(words, self.dtype, None, self.layout)

    def to(self, how: Any = None, *_: Any) -> Tensor:
        """The same in another order: on the host there is one."""
        if isinstance(how, Layout):
            return Tensor(self.cpu()._values, self.dtype, None, how)
        return Tensor(self.cpu()._values, self.dtype, how, self.layout)

    def to_numpy(self) -> np.ndarray:
        """The values; bf16 as float32."""
        values: np.ndarray = self.cpu()._values
        return values

    def to_list(self) -> Any:
        """The values in lists."""
        return self.cpu()._values.tolist()

    def copy_from(self, host: Tensor) -> None:
        """Take a host tensor's values."""
        if tuple(host.shape) != tuple(self.shape) or host.dtype is not self.dtype:
            raise EmulationError(f"a tensor {tuple(host.shape)} copied to one of {tuple(self.shape)}")
        self._placed().write(host._values)


class _Place:
    """A tensor's room on a card: pages, and their way there and back."""

    def __init__(self, card: Card, shape: Shape, dtype: DataType, layout: Layout, memory: MemoryConfig):
        self.card, self.shape, self.dtype, self.layout, self.memory = card, shape, dtype, layout, memory
        rows, width = int(np.prod(shape[:-1], dtype=np.int64)), shape[-1]
        if layout is Layout.TILE:
            height = shape[-2] if len(shape) > 1 else 1
            self.grid = (rows // height, -(-height // TILE), -(-width // TILE))
            pages, page_bytes = int(np.prod(self.grid)), TILE * TILE * dtype.bytes
        else:
            pages, page_bytes = rows, width * dtype.bytes
        spec = memory.shard_spec
        dram = memory.buffer_type is BufferType.DRAM
        if (spec is None) != (memory.memory_layout is TensorMemoryLayout.INTERLEAVED) or (spec and dram):
            raise EmulationError(f"this kind of memory is not emulated: {memory}")
        self.pages, self.page_bytes = pages, page_bytes
        self.aligned = card.aligned(page_bytes, dram)
        if spec is None:
            self.cores: list[int] = []
            self.banks = card.board.banks if dram else card.board.cores
            self.shard_pages = -(-pages // self.banks)
        else:
            self.cores = [card.number(core) for core in spec.grid]
            self.banks = len(self.cores)
            unit = TILE if layout is Layout.TILE else 1
            if spec.shape[1] != width or spec.shape[0] * self.banks < rows:
                raise EmulationError(f"shards {tuple(spec.shape)} on {self.banks} cores for {tuple(shape)}")
            self.shard_pages = spec.shape[0] // unit * (-(-width // TILE) if layout is Layout.TILE else 1)
        self.buffer: Buffer = card.allocate(self.shard_pages * self.aligned, dram)

    def accessor_args(self) -> list[int]:
        """What kernels are told at compile time: see api/tensor/tensor_accessor_args.h."""
        dram = self.memory.buffer_type is BufferType.DRAM
        config = [int(not self.interleaved) | int(dram) << 1, self.aligned]
        if self.interleaved:
            return config
        xy = [(at.x << 8) | at.y for at in map(self.card.on_noc, self.cores)]
        pairs = [a | b << 16 for a, b in zip(xy[::2], [*xy[1::2], *[0] * (len(xy) % 2)], strict=True)]
        return [*config, 1, self.banks, self.pages, self.shard_pages, *pairs]

    @property
    def interleaved(self) -> bool:
        """Whether pages go round the banks."""
        return not self.cores

    def _banks(self) -> list[np.ndarray]:
        """Each bank's room, [pages of it, bytes of a page]."""
        banks = self.buffer.bytes(self.cores)
        return [bank.reshape(self.shard_pages, self.aligned)[:, : self.page_bytes] for bank in banks]

    def _of_bank(self, n: int) -> slice:
        """Which pages lie in a bank."""
        return (
            slice(n, None, self.banks) if self.interleaved else slice(n * self.shard_pages, (n + 1) * self.shard_pages)
        )

    def write(self, values: np.ndarray) -> None:
        """The values into their pages."""
        pages = self._to_pages(values)
        for n, bank in enumerate(self._banks()):
            mine = pages[self._of_bank(n)]
            bank[: len(mine)] = mine

    def read(self) -> np.ndarray:
        """The values of all pages."""
        pages = np.empty((self.pages, self.page_bytes), np.uint8)
        for n, bank in enumerate(self._banks()):
            pages[self._of_bank(n)] = bank[: len(pages[self._of_bank(n)])]
        return self._from_pages(pages)

    def _to_pages(self, values: np.ndarray) -> np.ndarray:
        words = _bf16(values) if self.dtype is DataType.BFLOAT16 else values
        if self.layout is Layout.TILE:
            matrices, down, across = self.grid
            padded = np.zeros((matrices, down * TILE, across * TILE), words.dtype)
            matrix = words.reshape(matrices, -1, self.shape[-1])
            padded[:, : matrix.shape[1], : matrix.shape[2]] = matrix
            faces = padded.reshape(matrices, down, 2, 16, across, 2, 16)
            words = np.ascontiguousarray(faces.transpose(0, 1, 4, 2, 5, 3, 6))
        return np.ascontiguousarray(words).reshape(self.pages, -1).view(np.uint8)

    def _from_pages(self, pages: np.ndarray) -> np.ndarray:
        words: np.ndarray = pages.view(np.uint16 if self.dtype is DataType.BFLOAT16 else _numpy(self.dtype))
        if self.layout is Layout.TILE:
            matrices, down, across = self.grid
            faces = words.reshape(matrices, down, across, 2, 2, 16, 16).transpose(0, 1, 3, 5, 2, 4, 6)
            whole = faces.reshape(matrices, down * TILE, across * TILE)
            words = whole[:, : self.shape[-2] if len(self.shape) > 1 else 1, : self.shape[-1]]
        if self.dtype is DataType.BFLOAT16:
            words = (words.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return np.ascontiguousarray(words).reshape(self.shape)


def _numpy(dtype: DataType) -> type:
    return {DataType.UINT32: np.uint32, DataType.INT32: np.int32}.get(dtype, np.float32)


def _as(array: np.ndarray, dtype: DataType) -> np.ndarray:
    values: np.ndarray = np.ascontiguousarray(array, _numpy(dtype)).reshape(array.shape)
    if dtype is DataType.BFLOAT16:
        return (_bf16(values).astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(array.shape)
    return values.copy() if values is array else values


def _bf16(values: np.ndarray) -> np.ndarray:
    """To the nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


class TensorAccessorArgs:
    """A tensor's description for a kernel."""

    def __init__(self, tensor: Tensor):
        self._args = tensor._placed().accessor_args()

    def get_compile_time_args(self) -> list[int]:
        """The words."""
        return list(self._args)

    def get_common_runtime_args(self) -> list[int]:
        """None: all is known at compile time."""
        return []
