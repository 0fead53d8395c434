"""What a program costs a token: bytes and cycles of its busiest core, by kind of work.

Input: a distributed program and its device.
Output: a `Cost`.

A roofline, not a measurement.  Counted is what the plan says: tiles streamed, multiplied and worked on, elements that
the writer moves, meetings of the cores.  How long each takes is in `RATES`, in words besides.  The reader's stream and
the matrix unit's work on it overlap; everything else is the writer's thread, which waits for each result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import singledispatch
from math import prod

from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.ops import OPS
from cdrmix.ir.steps import Copy, Extreme, Load, Map, Product, Step, TopK, Whole
from cdrmix.ir.walk import size

from ..deal.locality import own
from ..deal.streams import tile_bytes
from ..plan import TILE, Array, Fetch, Gather, Program, Write
from .devices import Device
from .memory import ELEMENT_BYTES

TILE_ELEMENTS = TILE * TILE


@dataclass(frozen=True, slots=True)
class Rates:
    """Cycles, unless said otherwise; `WORDS` says them for people."""

    product: int = 64
    unpack: int = 64
    simple: int = 100
    function: int = 500
    step: int = 200
    push: int = 60
    result: int = 300
    noc_copy: int = 150
    element: int = 8
    row: int = 3
    scattered: int = 16
    fill: int = 2
    meeting_seconds: float = 1e-6
    launch_seconds: float = 5e-6


RATES = Rates()

LONG_RUN = 64
"""Elements from which on the writer has the NoC copy a run (`NOC_COPY_WORDS` of `l1_memory.h`)."""

WORDS = (
    f"the matrix unit takes {RATES.product} cycles for a bf16 tile times a tile (four passes), twice that for f32;",
    f"the vector unit {RATES.unpack} to load a tile, {RATES.simple} for arithmetic, {RATES.function} for a function;",
    f"the writer {RATES.step} for a step, {RATES.push} to pass a tile on, {RATES.result} to wait for a result,",
    f"  {RATES.noc_copy} and the port's time to copy a run of {LONG_RUN} elements or more, "
    f"{RATES.element} for an element of a shorter run, {RATES.row} in a row of a tile, whose loads overlap,",
    f"  {RATES.fill} for one that is the same as the last, {RATES.scattered} for one that lies by itself;",
    f"a gather is two meetings of {RATES.meeting_seconds * 1e6:g} us and its bytes over one port;",
    f"a launch takes {RATES.launch_seconds * 1e6:g} us, as in a recorded trace.",
)
"""The rates in words, for the head of a budget."""

FUNCTIONS = frozenset(row.name for row in OPS.values() if row.effort == "function")
"""Calls that take the vector unit more than an instruction or two."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one call of a program.  Bytes are all cores' together, seconds those of the busiest core."""

    dram_bytes: int = 0
    noc_bytes: int = 0
    stream: float = 0.0
    matrix: float = 0.0
    compute: float = 0.0
    writer: float = 0.0
    gathers: float = 0.0
    launch: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: int) -> Cost:
        return Cost(*(a * times for a in astuple(self)))

    @property
    def seconds(self) -> float:
        """The larger of what overlaps, and what does not."""
        return max(self.stream, self.matrix) + self.compute + self.writer + self.gathers + self.launch


def cost(program: Program, device: Device) -> Cost:
    """A program's cost of one token."""
    total = Cost(launch=RATES.launch_seconds)
    for step in program.steps:
        total += of_step(step, program, device)
    vectors = sum(-(-tensor.shape[0] // TILE_ELEMENTS) for tensor in program.tensors.values() if tensor.parts)
    return total + _moved(vectors * TILE_ELEMENTS * ELEMENT_BYTES["f32"] * program.cores, device)


@singledispatch
def of_step(step: Step, program: Program, device: Device) -> Cost:
    """What one step costs."""
    raise TypeError(type(step).__name__)


@of_step.register
def _(step: Product, program: Program, device: Device) -> Cost:
    array = program.arrays[step.outs[0]]
    k = size(step.k)
    ks = -(-k // TILE)
    if step.streamed:
        tensor = program.tensors[step.streamed]
        assert tensor.tiled is not None, tensor.name
        mine = tensor.tiled.sizes(tensor.shape).own_pages
        streamed = mine * tensor.tiled.cores * tile_bytes(tensor)
        port = mine * tile_bytes(tensor) / (device.link_bytes * device.clock)
        across = max(1, mine // ks)
        blocks = -(-across // tensor.tiled.block)
        moved = RATES.row * (blocks * k * len(step.left) + across * TILE * len(step.outs))
        return Cost(
            dram_bytes=streamed,
            stream=max(streamed / device.dram_bandwidth, port),
            matrix=mine * tensor.tiled.planes * RATES.product / device.clock,
            writer=(RATES.step + RATES.push * (blocks * ks + across) + RATES.result * blocks + moved) / device.clock,
        )
    lead, rows, columns = _parts(step, array)
    high, wide, deep = min(rows, TILE), min(columns, TILE), min(k, TILE)
    products = lead * -(-rows // TILE) * -(-columns // TILE) * ks
    tiles = [_tile(program, load, high * deep, device) for load in step.left]
    tiles += [_tile(program, load, wide * deep, device) for load in step.factors]
    each = 2 * RATES.push + sum(tiles)
    results = products // ks * RATES.result + lead * rows * columns * RATES.element
    return Cost(
        compute=products * len(step.left) * len(step.factors) * RATES.product / device.clock,
        writer=(RATES.step + products * each + results) / device.clock,
    )


@of_step.register
def _(step: Map, program: Program, device: Device) -> Cost:
    out = program.arrays[step.out]
    elements = _own_elements(out, size(step.indices))
    if out.layout == "tiles":
        rows, columns = out.shape[-2:]
        tiles = elements // (rows * columns) * -(-rows // TILE) * -(-columns // TILE)
        moves = tiles * sum(_filling(load, step.indices, device) for load in step.loads)
        moves += tiles * _copy(TILE_ELEMENTS, device)
    else:
        tiles = -(-elements // TILE_ELEMENTS)
        moves = sum(moving(load, step.indices, elements, device) for load in step.loads)
        moves += elements * RATES.scattered if step.place else tiles * _copy(min(elements, TILE_ELEMENTS), device)
    work = tiles * (len(step.loads) * RATES.unpack + calls(step.value))
    return Cost(compute=work / device.clock, writer=(RATES.step + tiles * RATES.result + moves) / device.clock)


@of_step.register(Copy)
@of_step.register(Whole)
@of_step.register(Extreme)
@of_step.register(TopK)
def _(step: Copy | Whole | Extreme | TopK, program: Program, device: Device) -> Cost:
    out = program.arrays[step.parts.outs[0]]
    elements = _own_elements(out, size(step.parts.space))
    match step:
        case Copy():
            moves = moving(step.load, step.indices, elements, device)
            return Cost(writer=(RATES.step + moves) / device.clock)
        case Extreme():
            each = RATES.scattered * size(step.bound)
        case TopK():
            each = RATES.scattered * step.over.axis.size
        case _:
            each = RATES.scattered
    return Cost(writer=(RATES.step + elements * each) / device.clock)


@of_step.register
def _(step: Gather, program: Program, device: Device) -> Cost:
    moved = prod(program.arrays[step.source].shape) * ELEMENT_BYTES["f32"]
    seconds = 2 * RATES.meeting_seconds + moved / (device.link_bytes * device.clock)
    return Cost(noc_bytes=moved * (program.cores - 1), gathers=seconds)


@of_step.register
def _(step: Fetch, program: Program, device: Device) -> Cost:
    array = program.arrays[step.out]
    return _moved(_everywhere(array, program.cores), device)


@of_step.register
def _(step: Write, program: Program, device: Device) -> Cost:
    return _moved(prod(program.arrays[step.source].shape) * ELEMENT_BYTES["f32"], device)


def calls(value: Node) -> int:
    """Cycles of the vector unit for the operations of an expression."""
    if not value.args:
        return 0
    return (RATES.function if value.op in FUNCTIONS else RATES.simple) + sum(calls(a) for a in value.args)


def _moved(count: int, device: Device) -> Cost:
    """Bytes between DRAM and arrays: a latency of the NoC and the bandwidth."""
    return Cost(dram_bytes=count, writer=RATES.meeting_seconds + count / device.dram_bandwidth)


def _everywhere(array: Array, cores: int) -> int:
    """Bytes that all cores together fetch of an array."""
    return prod(array.shape) * ELEMENT_BYTES[array.dtype] * (1 if array.split else cores)


def _own_elements(array: Array, total: int) -> int:
    """How many of so many elements the first core has, which has most."""
    return total if array.split is None else total // array.split.lead * len(own(array.split, 0))


def _parts(step: Product, array: Array) -> tuple[int, int, int]:
    """Lead, rows and columns of a product that the first core has: the first of them that is not one is dealt out."""
    sizes = [size(step.lead), size(step.rows), size(step.columns)]
    for place, count in enumerate(sizes):
        if count > 1:
            sizes[place] = _own_elements(array, count)
            break
    return sizes[0], sizes[1], sizes[2]


def moving(load: Load, space: Sequence[Index], elements: int, device: Device) -> float:
    """Cycles to bring so many elements of a flat operand together: by runs where it lies like the step's indices."""
    free = load.free
    repeated = 1
    for i in reversed(space):
        if i in free or repeated * i.axis.size > elements:
            break
        repeated *= i.axis.size
    run = 1
    for i, n, extent in zip(reversed(space), reversed(load.at), reversed(load.view), strict=False):
        if n.op != "index" or n.arg != i or i.axis.size != extent or load.when is not None:
            break
        run *= extent
    run = min(run, elements, TILE_ELEMENTS)
    if repeated > 1:
        return elements * RATES.fill + elements / repeated * RATES.scattered
    return elements / run * _copy(run, device) if run > 1 else elements * RATES.scattered


def _copy(run: int, device: Device) -> float:
    """Cycles to copy a run of elements."""
    if run >= LONG_RUN:
        return RATES.noc_copy + run * ELEMENT_BYTES["f32"] / device.link_bytes
    return run * RATES.element


def _filling(load: Load, space: Sequence[Index], device: Device) -> float:
    """Cycles to fill an operand's tile of a matrix: all of it, or a row or column of it."""
    free = {i for n in load.at for i in n.free}
    if set(space[-2:]) <= free:
        return _copy(TILE_ELEMENTS, device)
    return TILE * RATES.row


def _tile(program: Program, load: Load, elements: int, device: Device) -> float:
    """Cycles to form a factor's tile: as it lies where the array is in tiles, else element by element."""
    if program.arrays[load.array].layout == "tiles":
        return _copy(TILE_ELEMENTS, device)
    return elements * RATES.row
