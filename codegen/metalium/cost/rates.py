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
from math import prod

from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.ops import OPS
from cdrmix.ir.steps import Copy, Extreme, Load, Map, Product, Step, TopK, Whole
from cdrmix.ir.walk import size

from ..deal.locality import own
from ..deal.streams import tile_bytes
from ..plan import TILE, Array, Fetch, Gather, Program, Tensor, Write
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


def of_step(step: Step, program: Program, device: Device) -> Cost:
    """What one step costs."""
    arrays = program.arrays
    match step:
        case Product() if step.streamed:
            return _streamed(step, program.tensors[step.streamed], device)
        case Product():
            return _product(step, program, device)
        case Map():
            return _map(step, arrays[step.out], device)
        case Copy() | Whole() | Extreme() | TopK():
            elements = _own_elements(arrays[step.parts.outs[0]], size(step.parts.space))
            moves: float = elements * RATES.scattered * size(step.parts.inner)
            if isinstance(step, Copy):
                moves = moving(step.load, step.indices, elements, device)
            return Cost(writer=(RATES.step + moves) / device.clock)
        case Gather():
            moved = prod(arrays[step.source].shape) * ELEMENT_BYTES["f32"]
            seconds = 2 * RATES.meeting_seconds + moved / (device.link_bytes * device.clock)
            return Cost(noc_bytes=moved * (program.cores - 1), gathers=seconds)
        case Fetch():
            array = arrays[step.out]
            times = 1 if array.split else program.cores
            return _moved(prod(array.shape) * ELEMENT_BYTES[array.dtype] * times, device)
        case Write():
            return _moved(prod(arrays[step.source].shape) * ELEMENT_BYTES["f32"], device)
    raise TypeError(type(step).__name__)


def _streamed(step: Product, tensor: Tensor, device: Device) -> Cost:
    assert tensor.tiled is not None, tensor.name
    k = size(step.k)
    ks = -(-k // TILE)
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


def _product(step: Product, program: Program, device: Device) -> Cost:
    # of lead, rows and columns the first that is not one is dealt out
    sizes = [size(step.lead), size(step.rows), size(step.columns)]
    dealt = next((place for place, count in enumerate(sizes) if count > 1), 0)
    sizes[dealt] = _own_elements(program.arrays[step.outs[0]], sizes[dealt])
    (lead, rows, columns), k = sizes, size(step.k)
    ks = -(-k // TILE)
    high, wide, deep = min(rows, TILE), min(columns, TILE), min(k, TILE)
    products = lead * -(-rows // TILE) * -(-columns // TILE) * ks
    factors = [*((load, high * deep) for load in step.left), *((load, wide * deep) for load in step.factors)]
    each: float = 2 * RATES.push
    for load, elements in factors:
        in_tiles = program.arrays[load.array].layout == "tiles"
        each += _copy(TILE_ELEMENTS, device) if in_tiles else elements * RATES.row
    results = products // ks * RATES.result + lead * rows * columns * RATES.element
    return Cost(
        compute=products * len(step.left) * len(step.factors) * RATES.product / device.clock,
        writer=(RATES.step + products * each + results) / device.clock,
    )


def _map(step: Map, out: Array, device: Device) -> Cost:
    elements = _own_elements(out, size(step.indices))
    if out.layout == "tiles":
        rows, columns = out.shape[-2:]
        tiles = elements // (rows * columns) * -(-rows // TILE) * -(-columns // TILE)
        whole = _copy(TILE_ELEMENTS, device)
        moves = tiles * whole
        for load in step.loads:  # all of a tile, or a row or a column of it
            moves += tiles * (whole if {*step.indices[-2:]} <= load.free else TILE * RATES.row)
    else:
        tiles = -(-elements // TILE_ELEMENTS)
        moves = sum(moving(load, step.indices, elements, device) for load in step.loads)
        moves += elements * RATES.scattered if step.place else tiles * _copy(min(elements, TILE_ELEMENTS), device)
    work = tiles * (len(step.loads) * RATES.unpack + calls(step.value))
    return Cost(compute=work / device.clock, writer=(RATES.step + tiles * RATES.result + moves) / device.clock)


def calls(value: Node) -> int:
    """Cycles of the vector unit for the operations of an expression."""
    if not value.args:
        return 0
    return (RATES.function if value.op in FUNCTIONS else RATES.simple) + sum(calls(a) for a in value.args)


def _moved(count: int, device: Device) -> Cost:
    """Bytes between DRAM and arrays: a latency of the NoC and the bandwidth."""
    return Cost(dram_bytes=count, writer=RATES.meeting_seconds + count / device.dram_bandwidth)


def _own_elements(array: Array, total: int) -> int:
    """How many of so many elements the first core has, which has most."""
    return total if array.split is None else total // array.split.lead * len(own(array.split, 0))


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
