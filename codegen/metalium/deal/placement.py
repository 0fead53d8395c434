"""Where the arrays of a program lie in L1.

Input: a distributed program.
Output: the same with offsets and totals.

States lie one behind the other, vectors as they lie in DRAM.  Scratch arrays share memory by lifetime: from the first
step that writes one to the last that reads it.  That holds for the result of a `Gather` too, into which other cores
write: a gather begins with a meeting, behind which no core has a use for what its memory held before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..plan import TILE, Array, Program

ALIGNMENT = 64
"""Bytes: what DRAM reads want on Blackhole, and more than any other move does."""

TILE_ELEMENTS = TILE * TILE
ELEMENT_BYTES = 4


def bytes_of(array: Array) -> int:
    """L1 that an array takes on a core, rounded up to the alignment."""
    words = array.words if array.split is None else array.words // array.split.lead * array.split.each
    return -(-ELEMENT_BYTES * words // ALIGNMENT) * ALIGNMENT


def place(program: Program) -> Program:
    """The program with the offsets of its arrays and the bytes of its memories."""
    offsets, state, elements = dict[str, int](), 0, 0
    for name, array in program.arrays.items():
        if array.memory == "state":
            offsets[name] = state
            state += bytes_of(array)
    for name, first, count in (part for tensor in program.tensors.values() for part in tensor.parts):
        offsets[name] = first * ELEMENT_BYTES
        elements = max(elements, first + count)
    vectors = -(-elements // TILE_ELEMENTS) * TILE_ELEMENTS * ELEMENT_BYTES  # they are fetched by whole pages
    scratch = _by_lifetime(program, offsets)
    arrays = {name: replace(array, offset=offsets.get(name, 0)) for name, array in program.arrays.items()}
    return replace(program, arrays=arrays, scratch_bytes=scratch, state_bytes=state, vectors_bytes=vectors)


def lifetimes(program: Program) -> dict[str, tuple[int, int]]:
    """The first and last step of every scratch array."""
    found: dict[str, tuple[int, int]] = {}
    for number, step in enumerate(program.steps):
        for name in {*step.parts.reads, *step.parts.outs}:
            if program.arrays[name].memory == "scratch":
                first, _ = found.get(name, (number, number))
                found[name] = (first, number)
    return found


def _by_lifetime(program: Program, offsets: dict[str, int]) -> int:
    """Offsets of the scratch arrays, the large ones first, each as low as those of its lifetime let it."""
    life, end = lifetimes(program), 0
    size = {name: bytes_of(program.arrays[name]) for name in life}
    placed: list[str] = []
    for name in sorted(life, key=lambda n: (-size[n], life[n], n)):
        first, last = life[name]
        busy = sorted((offsets[p], offsets[p] + size[p]) for p in placed if life[p][0] <= last and first <= life[p][1])
        offsets[name] = _lowest(busy, size[name])
        placed.append(name)
        end = max(end, offsets[name] + size[name])
    return end


def _lowest(busy: Iterable[tuple[int, int]], size: int) -> int:
    """The lowest offset with so many bytes free."""
    low = 0
    for start, stop in busy:
        if start - low >= size:
            return low
        low = max(low, stop)
    return low
