"""What the three kernels of a program must agree on.

Input: a `plan.Program`.
Output: a `Setting`: C++ names of arrays and tensors, the circular buffers, which tensors each kernel takes, and when
the writer tells the reader about picks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from cdrmix.ir import walk
from cdrmix.ir.nodes import Node
from cdrmix.ir.steps import Map, Product, Step

from ..cost.devices import TILE_BYTES
from ..plan import TILE, Fetch, Gather, Program, Tensor, Write
from .names import identifier, index_name, plain

FLAT_PAGE = 4096
"""Bytes of a page of vectors, of scratch memory and of the bounce page."""
PICK_BYTES = 64
LANES = 8
"""Products that the FPU adds up at once; a left factor is spread over as many rows."""
FEW_ROWS = 4
"""So many rows of a product of arrays are taken one by one rather than together with fewer digits."""
WEIGHT_PAGES, WEIGHT_BATCH = 32, 16
"""How far the reader runs ahead, and how many pages it has on their way at a time."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A circular buffer.  Those with `unpack_to_dest` are unpacked into DST as they are, all 32 bits."""

    name: str
    index: int
    format: str
    page_bytes: int
    pages: int
    unpack_to_dest: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """See the module.  `picks` are, by the step before which they are sent, the instances that the reader waits for."""

    program: Program
    slots: int
    buffers: tuple[Buffer, ...]
    reader: tuple[Tensor, ...]
    writer: tuple[Tensor, ...]
    picks: dict[int, tuple[Node, ...]]
    names: dict[str, str]
    semaphores: int

    def has(self, buffer: str) -> bool:
        """Whether the program uses a circular buffer."""
        return any(b.name == buffer for b in self.buffers)


def setting_of(program: Program) -> Setting:
    """The setting of a program."""
    slots = max((_operands(program, s) for s in program.steps), default=0)
    picks = picks_of(program.steps)
    found = (i for s in program.steps for i in (*s.parts.space, *s.parts.inner))
    taken = {name for i in found for name in (plain(i.name), index_name(i))}
    names: dict[str, str] = {}
    for name in program.arrays:
        names[name] = identifier(name, {*taken, *names.values()})
    reader = dict.fromkeys(s.streamed for s in products(program) if s.streamed)
    moved = dict.fromkeys(s.tensor for s in program.steps if isinstance(s, Fetch | Write))
    vectors = [t.name for t in program.tensors.values() if t.kind == "vectors"]
    return Setting(
        program,
        slots,
        tuple(_buffers(program, slots, sum(map(len, picks.values())))),
        tuple(program.tensors[name] for name in reader),
        tuple(program.tensors[name] for name in (*vectors, *moved)),
        picks,
        names,
        2 if any(isinstance(s, Gather) for s in program.steps) and program.cores > 1 else 0,
    )


def _operands(program: Program, step: Step) -> int:
    """Pages of cb_in that a step fills at a time."""
    match step:
        case Map():
            return len(step.loads)
        case Product() if is_spread(program, step):
            return LANES + (step.streamed is None)
        case _:
            return 0


def is_spread(program: Program, step: Product) -> bool:
    """Whether a product's left factor is spread over rows (runtime `rows.h` says why): it has two planes, few rows or
    only one column, and a result that lies flat."""
    if len(step.left) != 2:
        return False
    if step.streamed:
        return True
    rows, columns = walk.size(step.rows), walk.size(step.columns)
    few = columns == 1 or (rows <= FEW_ROWS and columns <= TILE * TILE)
    return program.arrays[step.outs[0]].layout == "flat" and few


def by_rows(step: Product) -> Product:
    """The product with each row by itself."""
    return replace(step, lead=(*step.lead, *step.rows), rows=())


def _buffers(program: Program, slots: int, picks: int) -> Iterator[Buffer]:
    """The circular buffers that the program needs; the last three are plain memory."""
    arrays, streamed = [s for s in products(program) if not s.streamed], any(s.streamed for s in products(program))
    if streamed:
        yield Buffer("cb_weights", 0, "bf16", TILE_BYTES["bf16"], WEIGHT_PAGES)
    if streamed or any(is_spread(program, s) for s in arrays):
        yield Buffer("cb_rows", 1, "f32", TILE_BYTES["f32"], 2)
    if slots:
        yield Buffer("cb_in", 2, "f32", TILE_BYTES["f32"], slots, unpack_to_dest=True)
    if arrays:
        pages = 2 * plane_slots(program)
        if not all(is_spread(program, s) for s in arrays):
            yield Buffer("cb_left", 3, "f32", TILE_BYTES["f32"], pages)
        yield Buffer("cb_right", 4, "f32", TILE_BYTES["f32"], pages)
    if picks:
        yield Buffer("cb_picks", 5, "f32", PICK_BYTES, picks)
    if any(isinstance(s, Map | Product) for s in program.steps):
        yield Buffer("cb_out", 16, "f32", TILE_BYTES["f32"], 2)
    if any(isinstance(s, Fetch | Write | Gather) for s in program.steps):
        yield Buffer("cb_bounce", 24, "f32", FLAT_PAGE, 1)
    for name, index, size in (("scratch", 25, program.scratch_bytes), ("vectors", 26, program.vectors_bytes)):
        if size:
            yield Buffer(f"cb_{name}", index, "f32", FLAT_PAGE, -(-size // FLAT_PAGE))


def plane_slots(program: Program) -> int:
    """Pages that a push to cb_left or cb_right has: the most planes that any product has."""
    return max(max(len(s.left), len(s.factors)) for s in products(program) if not s.streamed)


def products(program: Program) -> list[Product]:
    """The products of a program."""
    return [s for s in program.steps if isinstance(s, Product)]


def picks_of(steps: Iterable[Step]) -> dict[int, tuple[Node, ...]]:
    """Instances in the order of their products, each sent as early as the arrays that it reads are final."""
    written: dict[str, int] = {}
    found: dict[int, tuple[Node, ...]] = {}
    earliest = 0
    for number, step in enumerate(steps):
        if isinstance(step, Product) and step.instance is not None:
            known = [written.get(m.arg.ref.name, -1) + 1 for m in walk.reads(step.instance)]
            earliest = max([earliest, *known])
            found[earliest] = (*found.get(earliest, ()), step.instance)
        written |= dict.fromkeys(step.parts.outs, number)
    return found
