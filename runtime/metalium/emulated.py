"""The few names of ttnn that `host.py` uses, over an emulated card.

    from cdrmix.runtime.metalium import emulated as ttnn

Spelled as in ttnn 0.81.1.  What is beyond it: `open_device` takes the board and the seed of the kernels' turns, and
every mistake of a kernel is an `EmulationError` that names core, kernel and line.
"""

from __future__ import annotations

import os
import types
from collections.abc import Sequence
from typing import Any

import numpy as np

from .emulation import descriptors
from .emulation.build import EmulationError
from .emulation.card import Card
from .emulation.descriptors import (
    CBDescriptor,
    CBFormatDescriptor,
    ComputeConfigDescriptor,
    CoreCoord,
    CoreRange,
    CoreRangeSet,
    DataType,
    KernelDescriptor,
    MathFidelity,
    ProgramDescriptor,
    ReaderConfigDescriptor,
    SemaphoreDescriptor,
    UnpackToDestMode,
    WriterConfigDescriptor,
)
from .emulation.tensors import (
    BufferType,
    Layout,
    MemoryConfig,
    Shape,
    ShardOrientation,
    ShardSpec,
    Tensor,
    TensorAccessorArgs,
    TensorMemoryLayout,
)

float32, bfloat16, uint32, int32 = DataType.FLOAT32, DataType.BFLOAT16, DataType.UINT32, DataType.INT32
ROW_MAJOR_LAYOUT, TILE_LAYOUT = Layout.ROW_MAJOR, Layout.TILE
DRAM_MEMORY_CONFIG = MemoryConfig(TensorMemoryLayout.INTERLEAVED, BufferType.DRAM)
L1_MEMORY_CONFIG = MemoryConfig(TensorMemoryLayout.INTERLEAVED, BufferType.L1)
_ttnn = types.SimpleNamespace(program_descriptor=descriptors)


SEED = "CDRMIX_EMULATION_SEED"
"""Names the environment's variable that says in which order the kernels take turns, a number."""


def open_device(*, device_id: int = 0, board: str = "n150", seed: int | None = None, run_length: int = 3) -> Card:
    """An emulated card; each call makes another one."""
    return Card(board, int(os.environ.get(SEED, 1)) if seed is None else seed, run_length)


def close_device(device: Card) -> None:
    """Give the card's memory back."""
    device.close()


def synchronize_device(device: Card) -> None:
    """Nothing: programs have ended when `generic_op` returns."""


def allocate_tensor_on_device(
    shape: Sequence[int],
    dtype: DataType,
    layout: Layout,
    device: Card,
    memory_config: MemoryConfig = DRAM_MEMORY_CONFIG,
) -> Tensor:
    """A tensor of zeros.  (The device's would hold anything.)"""
    return Tensor(np.zeros(tuple(shape), np.float32), dtype, device, layout, memory_config)


def copy_host_to_device_tensor(host: Tensor, device_tensor: Tensor) -> None:
    """Write over a tensor on the device."""
    device_tensor.copy_from(host)


def deallocate(tensor: Tensor, force: bool = True) -> None:
    """Give a tensor's memory back."""
    tensor.deallocate(force)


def generic_op(io_tensors: Sequence[Tensor], program: ProgramDescriptor) -> Any:
    """Run a program; the last tensor is its result."""
    card = next((tensor.device() for tensor in io_tensors if tensor.device() is not None), None)
    if len(io_tensors) < 2:
        raise EmulationError("generic_op takes at least two tensors, inputs before outputs")
    if card is None:
        raise EmulationError("generic_op without a tensor on a device")
    card.run(program)
    return io_tensors[-1]


__all__ = [
    "DRAM_MEMORY_CONFIG",
    "L1_MEMORY_CONFIG",
    "ROW_MAJOR_LAYOUT",
    "TILE_LAYOUT",
    "BufferType",
    "CBDescriptor",
    "CBFormatDescriptor",
    "Card",
    "ComputeConfigDescriptor",
    "CoreCoord",
    "CoreRange",
    "CoreRangeSet",
    "DataType",
    "EmulationError",
    "KernelDescriptor",
    "Layout",
    "MathFidelity",
    "MemoryConfig",
    "ProgramDescriptor",
    "ReaderConfigDescriptor",
    "SemaphoreDescriptor",
    "Shape",
    "ShardOrientation",
    "ShardSpec",
    "Tensor",
    "TensorAccessorArgs",
    "TensorMemoryLayout",
    "UnpackToDestMode",
    "WriterConfigDescriptor",
    "allocate_tensor_on_device",
    "bfloat16",
    "close_device",
    "copy_host_to_device_tensor",
    "deallocate",
    "float32",
    "generic_op",
    "int32",
    "open_device",
    "synchronize_device",
    "uint32",
]
