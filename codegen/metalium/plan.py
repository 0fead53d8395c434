"""The plan of a program: which core holds what, and what every core does, in order.

A *program* serves one line of the stack.  All its cores run the same steps, each on its own share (SPMD).  Between
the steps, values are `Array`s in L1: flat ones dense and row-major, whatever axes they are seen under, so that a
split or a merge of axes moves nothing; a matrix state in 32x32 tiles.  Three kernels carry the steps out:

    DRAM --reader--> cb_weights --.
                                  compute --> cb_out --writer--> arrays in L1 --> other cores, DRAM
    arrays in L1 --writer--> cb_in, cb_rows, ... --'

The reader streams weights in the order in which they lie in DRAM, as far ahead as its buffer allows; the writer runs
the steps one after the other, so that no step sees a half-written array.

The steps are those of `ir.steps` and what only this machine does.  Whole numbers are read from `i32` arrays, the token
and `pos` from one of them, `inputs`.  A split array is read within the reader's own units only; its first index still
counts from the whole's front.  Where a split state is written at a place whose first number has no index (a ring's row
of this token), the core that holds the row does all of it.  The planes of a streamed product's left factor, which TF32
holds exactly, lie in rows of one tile; `transposed` products have a right factor in tiles that the FPU turns round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal

from cdrmix.ir.nodes import Node, Stored
from cdrmix.ir.steps import Copy, Map, Parts, Step

TILE = 32
"""Rows and columns of a tile."""

Memory = Literal["scratch", "state", "vectors"]
"""Where an array lies: the program's scratch memory, the line's resident state, or the vectors and constants that are
fetched from DRAM when the program begins.  All three are L1, at one address on every core."""


@dataclass(frozen=True, slots=True)
class Split:
    """An array dealt out to the cores along its front: `lead` units, `each` of them a core, the last cores fewer.

    Core c holds the units from c * each to min(lead, (c + 1) * each).  Arrays of the same `lead` and `each` are
    aligned; the two have no common factor, so that what is dealt out alike has one name.
    """

    lead: int
    each: int


@dataclass(frozen=True, slots=True)
class Array:
    """A value in L1.  `shape` is the whole one; with a `split`, a core holds its units only, from its own offset 0.

    `flat`: dense, row-major.  `tiles`: the last two axes in 32x32 tiles of four 16x16 faces, tiles row-major, padded
    with zeros; the axes before them in front.  `offset` is in bytes from the front of its memory, 64-byte aligned.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["f32", "i32"] = "f32"
    layout: Literal["flat", "tiles"] = "flat"
    split: Split | None = None
    memory: Memory = "scratch"
    offset: int = -1

    @property
    def words(self) -> int:
        """32-bit words of the whole array."""
        if self.layout == "flat":
            return prod(self.shape)
        rows, columns = self.shape[-2:]
        return prod(self.shape[:-2]) * -(-rows // TILE) * -(-columns // TILE) * TILE * TILE


# --- the machine's own steps ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Gather(Step):
    """Every core's units of `source` (split, flat) into `out`, which every core holds whole."""

    out: str
    source: str

    @property
    def parts(self) -> Parts:
        return Parts((self.out,), source=self.source)


@dataclass(frozen=True, slots=True)
class Fetch(Step):
    """Elements first … of a DRAM tensor into an array: all of it, or, where the array is split, the core's own units.

    `row` is a whole number: which row (page) of the tensor the array begins at; bf16 becomes f32 on the way.
    """

    out: str
    tensor: str
    row: Node | None = None

    @property
    def parts(self) -> Parts:
        return Parts((self.out,), wholes=(self.row,) if self.row else ())


@dataclass(frozen=True, slots=True)
class Write(Step):
    """An array into a DRAM tensor, row-major: each core its own units; core 0 one that every core holds."""

    tensor: str
    source: str

    @property
    def parts(self) -> Parts:
        return Parts(source=self.source)

    def reading(self, by: Mapping[str, str]) -> Write:
        return replace(self, source=by.get(self.source, self.source))


def is_entry(step: Step, out: Array) -> bool:
    """Whether a step writes one row of a state that lies flat, as that of a ring's entry is."""
    return isinstance(step, Copy | Map) and step.place is not None and out.memory == "state"


def by_owner(step: Step, out: Array) -> bool:
    """Whether a step, its result split, is done by the one core that has the place."""
    return isinstance(step, Copy) and is_entry(step, out)


# --- what lies in DRAM ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Tiled:
    """A parameter in the order in which the cores stream it.

    Its axes are, by position in the parameter's shape (bank axes first): `bank`, `lead`, `columns` and `k`, each group
    flattened row-major.  Pages are tiles [k 32, columns 32], zero-padded, in this order: bank instance, core, the
    core's lead unit, blocks of at most `block` column tiles, k tiles, the column tiles of the block.  `split` deals out
    the lead axes if there are any, else the columns (units of several columns); each core has equally many pages.

    `planes` is 2 for a parameter stored as f32: each tile is then two pages, the weights rounded to bf16 and what that
    left over rounded to bf16, the same bytes and 16 bits of mantissa, for the FPU multiplies no wider number exactly (9
    bits of SrcA).  The pages of a tile follow one another; their products are added up in the destination registers.
    """

    bank: tuple[int, ...]
    lead: tuple[int, ...]
    columns: tuple[int, ...]
    k: tuple[int, ...]
    split: Split
    cores: int
    block: int = 4
    planes: int = 1

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Tiled:
        """From a launch description."""
        bank, lead, columns, k = (tuple(map(int, found[name])) for name in ("bank", "lead", "columns", "k"))
        split = Split(int(found["split"]["lead"]), int(found["split"]["each"]))
        return cls(bank, lead, columns, k, split, *(int(found[name]) for name in ("cores", "block", "planes")))

    def sizes(self, shape: Sequence[int]) -> Sizes:
        """The extents of a parameter of this shape, and of its tiles on one core."""
        groups = (self.bank, self.lead, self.columns, self.k)
        bank, lead, columns, k = (prod(shape[axis] for axis in axes) for axes in groups)
        dealt = lead if self.lead else columns
        if dealt % self.split.lead:
            raise ValueError(f"{dealt} does not divide into {self.split.lead} units")
        share = dealt // self.split.lead * self.split.each
        own = (share, columns) if self.lead else (1, share)
        return Sizes(bank, lead, columns, k, self.cores, *own, -(-own[1] // TILE), -(-k // TILE))


@dataclass(frozen=True, slots=True)
class Sizes:
    """A parameter's four extents, and what a core has of them: `own_lead` units of `own_columns`, tiles of both."""

    bank: int
    lead: int
    columns: int
    k: int
    cores: int
    own_lead: int
    own_columns: int
    column_tiles: int
    k_tiles: int

    @property
    def own_pages(self) -> int:
        """Tiles of one matrix of the bank that a core streams, whether or not it has columns for all of them."""
        return self.own_lead * self.column_tiles * self.k_tiles

    @property
    def pages(self) -> int:
        """How many tiles there are, on all cores."""
        return self.bank * self.cores * self.own_pages


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in DRAM, by its name in the program; `shape` is the parameter's, or a row-major split or merge of it.

    `rows`: `shape[0]` pages of `shape[1]` elements (page padded to 64 bytes).  `tiles`: pages are tiles.
    `vectors`: one flat run of f32 (or i32) elements in pages of 1024, in which each entry of `parts`
    (name in the program, first element, count) lies.
    """

    name: str
    kind: Literal["rows", "tiles", "vectors"]
    dtype: Literal["f32", "bf16", "i32"]
    shape: tuple[int, ...]
    tiled: Tiled | None = None
    parts: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """One line's program, shared by all lines of its structure: its names are local (`att_Wr`, not a layer's path)."""

    name: str
    title: str
    cores: int
    arrays: Mapping[str, Array]
    tensors: Mapping[str, Tensor]
    steps: tuple[Step, ...]
    constants: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    stored: Stored = "f32"
    scratch_bytes: int = 0
    state_bytes: int = 0
    vectors_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Resident:
    """An array of a call's state and the slot of the model's state it is: `ring` where it is a history.

    A ring has `window` places, token n's entry at n % window.
    """

    array: str
    slot: str
    ring: bool = False


@dataclass(frozen=True, slots=True)
class CallOf:
    """A line of the stack: the program, its tensors' global names by local name, and what its state is.

    Global names: a parameter's owner path (with `.rows` behind it where it is kept row by row besides its tiles), or
    `<line path>.vectors`, `x.0`, `x.1`, `carry.<name>`, `inputs` (i32: token, pos) and `logits`.
    """

    path: str
    program: str
    tensors: Mapping[str, str]
    weights: Mapping[str, str]
    """Owner path of each tensor that holds a parameter, by its local name."""
    vectors: Mapping[str, str]
    """Owner path of each part of the program's `vectors` by its local name; constants are not among them."""
    state: tuple[Resident, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """The whole model: programs by name and the calls of one token, in order."""

    device: str
    programs: Mapping[str, Program]
    calls: tuple[CallOf, ...]
