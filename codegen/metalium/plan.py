"""The plan of a program: which core holds what, and what every core does, in order.

A *program* serves one line of the stack.  All its cores run the same steps, each on its own share (SPMD).  Between
the steps, values are `Array`s in L1: flat ones dense and row-major, whatever axes they are seen under, so that a
split or a merge of axes moves nothing; a matrix state in 32x32 tiles.  Three kernels carry the steps out:

    DRAM --reader--> cb_weights --.
                                  compute --> cb_out --writer--> arrays in L1 --> other cores, DRAM
    arrays in L1 --writer--> cb_in, cb_rows, ... --'

The reader streams weights in the order in which they lie in DRAM, as far ahead as its buffer allows; the writer runs
the steps one after the other, so that no step sees a half-written array.

Expressions over whole numbers (addresses, ages, places) are IR nodes: const, index, context `pos`, integer
arithmetic, comparisons, `select`, and reads of `i32` arrays; `schedule` reads the token and `pos` from one, `inputs`.
Bytes and tiles are counted here, cycles in `budget.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cdrmix.diagnose import NOWHERE, Span
from cdrmix.ir.nodes import Index, Node, Stored

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


@dataclass(frozen=True, slots=True)
class Load:
    """An element of an array: `at` is one whole number an axis of `view`, over the indices of the step.

    `view` has as many elements as the array, row-major.  Where `when` is there and false, the element is `fill`.
    A split array is read within the reader's own units only; its first index still counts from the whole's front.
    """

    array: str
    view: tuple[int, ...]
    at: tuple[Node, ...]
    when: Node | None = None
    fill: float = 0.0


# --- expressions of floats -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Operand:
    """The step's load of that number."""

    number: int


@dataclass(frozen=True, slots=True)
class Call:
    """An elementwise row of `ir.ops`, `const` (then `value`), or `tf32`: its argument with the nine highest bits of its
    mantissa, the rest cut off.  Comparisons give 0 or 1; `pow` is not among them.
    """

    op: str
    args: tuple[Expression, ...] = ()
    value: float = 0.0


Expression = Operand | Call


# --- steps ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Map:
    """out[indices] = value, elementwise, in f32.  `indices` span `out`; a split one runs over the core's units.

    `place` is where in `out` (None: at the indices), one whole number an axis of its shape; it may depend on `pos` and
    picks, never on data.
    """

    out: str
    indices: tuple[Index, ...]
    value: Expression
    loads: tuple[Load, ...]
    place: tuple[Node, ...] | None = None
    span: Span = field(default=NOWHERE, compare=False)
    text: str = ""


@dataclass(frozen=True, slots=True)
class Copy:
    """out[place] = load, for either dtype: nothing is computed.

    Where a split state is written at a place whose first number has no index (a ring's row of this token), the core
    that holds the row does all of it.
    """

    out: str
    indices: tuple[Index, ...]
    load: Load
    place: tuple[Node, ...] | None = None
    span: Span = field(default=NOWHERE, compare=False)
    text: str = ""


@dataclass(frozen=True, slots=True)
class Whole:
    """out[indices] = a whole number; stored as a float where `out` is f32."""

    out: str
    indices: tuple[Index, ...]
    value: Node
    span: Span = field(default=NOWHERE, compare=False)
    text: str = ""


@dataclass(frozen=True, slots=True)
class Streamed:
    """A parameter as a matrix that the reader streams: see `Tiled` for its order.

    `instance` is which matrix of a bank, a whole number (a pick, read from an i32 array), or None.
    """

    tensor: str
    instance: Node | None = None


@dataclass(frozen=True, slots=True)
class Product:
    """outs[lead, rows, columns] = sum over k of left[lead, rows, k] * right[lead, columns, k].

    `left` are planes: the factor as a sum of one or two parts that TF32 holds exactly.  With a `Streamed` right there
    are no rows, the planes lie in rows of one tile, and each has its own array in `outs`; with arrays the planes of
    both sides are multiplied and added up in the destination registers, into the one array of `outs`.
    `transposed`: `right` is an array in tiles whose last axes are (columns, k): the FPU turns its tiles round.
    """

    outs: tuple[str, ...]
    lead: tuple[Index, ...]
    rows: tuple[Index, ...]
    columns: tuple[Index, ...]
    k: tuple[Index, ...]
    left: tuple[Load, ...]
    right: Streamed | tuple[Load, ...]
    transposed: bool = False
    span: Span = field(default=NOWHERE, compare=False)
    text: str = ""


@dataclass(frozen=True, slots=True)
class Extreme:
    """out[indices] = the largest or smallest of `load` over `bound`, exactly, on the data-movement core."""

    out: str
    kind: Literal["max", "min"]
    indices: tuple[Index, ...]
    bound: tuple[Index, ...]
    load: Load
    span: Span = field(default=NOWHERE, compare=False)
    text: str = ""


@dataclass(frozen=True, slots=True)
class TopK:
    """values[lead, k], picks[lead, k]: the largest of `load` along `over`, largest first, ties by the lowest place."""

    values: str | None
    picks: str | None
    lead: tuple[Index, ...]
    k: Index
    over: Index
    load: Load
    span: Span = field(default=NOWHERE, compare=False)
    text: str = ""


@dataclass(frozen=True, slots=True)
class Gather:
    """Every core's units of `source` (split, flat) into `out`, which every core holds whole."""

    out: str
    source: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Elements first … of a DRAM tensor into an array: all of it, or, where the array is split, the core's own units.

    `row` is a whole number: which row (page) of the tensor the array begins at; bf16 becomes f32 on the way.
    """

    out: str
    tensor: str
    row: Node | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Write:
    """An array into a DRAM tensor, row-major: each core its own units; core 0 one that every core holds."""

    tensor: str
    source: str
    text: str = ""


Step = Map | Copy | Whole | Product | Extreme | TopK | Gather | Fetch | Write


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
    vectors: Mapping[str, str]
    """Owner path of each part of the program's `vectors` by its local name; constants are not among them."""
    state: tuple[Resident, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """The whole model: programs by name and the calls of one token, in order."""

    device: str
    programs: Mapping[str, Program]
    calls: tuple[CallOf, ...]
