"""The devices that programs are planned for: their cores, their memories and the rates that the budget counts with.

Figures are of the worker cores that a program may use, at the rates Tenstorrent publishes; what was taken from where
is said at each line.  The budget prints them, so that nobody mistakes a roofline for a measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KIB = 1024

BUFFERS_BYTES = 256 * KIB
"""L1 that all circular buffers of a program have together; the emitter sizes its buffers within it."""


TILE_BYTES: Mapping[str, int] = {"f32": 4096, "bf16": 2048}
"""A tile of 32x32 elements, by what it holds."""


TILE_CYCLES = 64
"""Cycles of the matrix unit for a bf16 tile times a tile in four passes of 16 (HiFi4)."""


@dataclass(frozen=True, slots=True)
class Device:
    """A card.  Bandwidths are in bytes a second; `link_bytes` is what a core's NoC port moves in a cycle."""

    name: str
    title: str
    grid: tuple[int, int]
    l1_bytes: int
    reserved_bytes: int
    dram_bytes: int
    dram_bandwidth: float
    clock: float
    link_bytes: int

    @property
    def cores(self) -> int:
        """How many worker cores a program may use."""
        return self.grid[0] * self.grid[1]

    @property
    def array_bytes(self) -> int:
        """L1 of one core that the arrays of a program may fill."""
        return self.l1_bytes - self.reserved_bytes - BUFFERS_BYTES


DEVICES: Mapping[str, Device] = {
    d.name: d
    for d in (
        Device(
            "n150",
            "Wormhole n150",
            grid=(8, 8),  # of 8x9 with a row harvested; fast dispatch has a column of its own
            l1_bytes=1464 * KIB,  # MEM_L1_SIZE of dev_mem_map.h
            reserved_bytes=168 * KIB,  # firmware and mailboxes end at 32 KiB; kernels and their arguments, 136 KiB
            dram_bytes=12 * 10**9,
            dram_bandwidth=288e9,  # GDDR6, data sheet
            clock=1.0e9,
            link_bytes=32,
        ),
        Device(
            "p150",
            "Blackhole p150",
            grid=(13, 10),  # of 14x10; fast dispatch has a column of its own
            l1_bytes=1536 * KIB,  # MEM_L1_SIZE of dev_mem_map.h
            reserved_bytes=176 * KIB,  # firmware and mailboxes end at 39 KiB; kernels and their arguments, 137 KiB
            dram_bytes=32 * 10**9,
            dram_bandwidth=512e9,  # GDDR6, data sheet
            clock=1.35e9,
            link_bytes=64,
        ),
    )
}
