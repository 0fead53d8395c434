"""The launches of one unit, with every argument's place: in a buffer the runner has, or in scratch.

Input: kernels in order (`internals.Kernel`) and the buffers the runner provides (`known`).
Output: a `Plan`: the launches that matter, arguments as (kind, index, byte offset), and the bytes of scratch.

Scratch is planned by lifetime: two buffers share bytes only when no launch uses both, nor runs between.  What would
need memory filled before the first launch (a constant made on the host, a buffer read before it is written) is refused.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from cdrmix.codegen.tinygrad.internals import Kernel, Storage

ALIGNMENT = 256
READ_ONLY = frozenset({"x", "w", "r"})
WRITTEN = frozenset({"out", "c"})


class Unplannable(Exception):
    """Launches that cannot be run from the buffers the runner has, in words."""


@dataclass(frozen=True, slots=True)
class Known:
    """A buffer the runner provides.  `kind`: x, out, w (weight), s (state), r (carry read), c (carry written)."""

    kind: str
    index: int
    nbytes: int
    name: str


@dataclass(frozen=True, slots=True)
class Arg:
    """A kernel argument: `offset` bytes into buffer `index` of its kind, or into the scratch (`tmp`)."""

    kind: str
    index: int
    offset: int


@dataclass(frozen=True, slots=True)
class Launch:
    """`kernel` is the place in the list of kernels that was planned."""

    kernel: int
    args: tuple[Arg, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the runner does for one unit."""

    scratch: int
    launches: tuple[Launch, ...]


def plan(kernels: Sequence[Kernel], known: Mapping[Hashable, Known]) -> Plan:
    """Plan the launches, or raise `Unplannable`."""
    needed = _needed(kernels, known)
    _check(kernels, needed, known)
    spans: dict[Hashable, tuple[int, int, int]] = {}  # buffer -> first and last launch, bytes
    for at in needed:
        for operand in kernels[at].operands:
            buffer, end = operand.storage.buffer, operand.storage.offset + operand.storage.nbytes
            if buffer not in known:
                first, _, size = spans.get(buffer, (at, at, 0))
                spans[buffer] = (first, at, max(size, end))
    offsets, scratch = _place(spans)
    launches = [Launch(at, tuple(_arg(o.storage, known, offsets) for o in kernels[at].operands)) for at in needed]
    return Plan(scratch, tuple(launches))


def _arg(storage: Storage, known: Mapping[Hashable, Known], offsets: Mapping[Hashable, int]) -> Arg:
    if (found := known.get(storage.buffer)) is not None:
        return Arg(found.kind, found.index, storage.offset)
    return Arg("tmp", 0, offsets[storage.buffer] + storage.offset)


def _needed(kernels: Sequence[Kernel], known: Mapping[Hashable, Known]) -> list[int]:
    """The launches whose results reach the runner's buffers, in order."""
    live = {buffer for buffer, k in known.items() if k.kind not in READ_ONLY}
    found = []
    for at in reversed(range(len(kernels))):
        operands = kernels[at].operands
        if any(o.written and o.storage.buffer in live for o in operands):
            found.append(at)
            live |= {o.storage.buffer for o in operands}
    return found[::-1]


def _check(kernels: Sequence[Kernel], needed: Sequence[int], known: Mapping[Hashable, Known]) -> None:
    written: set[Hashable] = set()
    for at in needed:
        kernel = kernels[at]
        for o in kernel.operands:
            buffer = o.storage.buffer
            place = known.get(buffer)
            if place is not None and place.kind in READ_ONLY and o.written:
                raise Unplannable(f"kernel {kernel.source.name} writes the input `{place.name}`")
            given = place is not None and place.kind not in WRITTEN
            if not given and buffer not in written and o.first == "load":
                what = f"`{place.name}`" if place is not None else f"a buffer of {o.storage.nbytes} bytes"
                raise Unplannable(f"kernel {kernel.source.name} reads {what} before anything has written it")
            if place is not None and o.storage.offset + o.storage.nbytes > place.nbytes:
                raise Unplannable(f"kernel {kernel.source.name} goes past the end of `{place.name}`")
        written |= {o.storage.buffer for o in kernel.operands if o.written}
    for buffer, place in known.items():
        if place.kind in WRITTEN and buffer not in written:
            raise Unplannable(f"nothing writes `{place.name}`")


def _place(spans: Mapping[Hashable, tuple[int, int, int]]) -> tuple[dict[Hashable, int], int]:
    """An offset for each buffer, largest first at the lowest free place, and the bytes needed in all."""
    order = sorted(enumerate(spans.items()), key=lambda item: (-item[1][1][2], item[1][1][0], item[0]))
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    offsets: dict[Hashable, int] = {}
    for _, (buffer, (first, last, size)) in order:
        room = -(-size // ALIGNMENT) * ALIGNMENT
        offset = 0
        for start, end, since, until in sorted(placed):
            if since <= last and first <= until and start < offset + room and offset < end:
                offset = end
        placed.append((offset, offset + room, first, last))
        offsets[buffer] = offset
    return offsets, max((end for _, end, _, _ in placed), default=0)
