"""The statements of the array form: a cell's function over [B, T], over one token [B], or over rows of an expert.

A `Local` that stands as a field of a statement is defined by it; those in its arrays are read.  What is computed, and
in which layout, is decided; a backend spells each kind of statement (`Let`, a scan, an attention, a call, …).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal, TypeVar

from cdrmix.diagnose import Span
from cdrmix.ir.arrays import Array, Local, nodes
from cdrmix.ir.nodes import Cell, Index, Part

Mode = Literal["sequence", "step", "rows", "init"]
"""What a function runs over: [B, T] tokens, one token [B], rows of tokens with the expert of each, or no token."""


@dataclass(frozen=True, slots=True)
class Say:
    """The equation that what follows is about, as a comment."""

    span: Span


@dataclass(frozen=True, slots=True)
class Let:
    """`name = value`; `whole`: a product that is all of its equation."""

    name: Local
    value: Array
    whole: bool = False

    @property
    def product(self) -> bool:
        """Whether the value is a product of a stored [rows, columns] with vectors and no more."""
        if self.value.op != "contract" or self.value.arg.weight is None:
            return False
        return not self.value.arg.groups and len(self.value.arg.outs) == len(self.value.arg.along) == 1


@dataclass(frozen=True, slots=True)
class Products:
    """Products with weights, none of which needs another; `says` are the equations that each is all of."""

    lets: tuple[Let, ...]
    says: tuple[tuple[Say, ...], ...]


@dataclass(frozen=True, slots=True)
class Moments:
    """The mean and the variance of x along its last axis."""

    mean: Local
    variance: Local
    x: Array


@dataclass(frozen=True, slots=True)
class TopK:
    """`values, picks`: the k largest of the last axis, largest first, ties by the lowest place."""

    values: Local | None
    picks: Local | None
    source: Array
    k: int
    dims: tuple[Index, ...]


@dataclass(frozen=True, slots=True)
class Keep:
    """What a state is after the last token: the last of a sequence `after`, or in a step the value itself."""

    state: str
    after: Array


@dataclass(frozen=True, slots=True)
class Shift:
    """`before`: the states before each token, those `after` each shifted by one and begun with the state.

    `by` has made those after each; of an `equation`, the state becomes their last here.
    """

    before: Local
    state: str
    after: Array
    begin: Array | None
    by: Literal["equation", "scan", "loop"]


@dataclass(frozen=True, slots=True)
class Scan:
    """`after` each token: decay * s + addend, or combine(s + decay, addend) where `combine` is given.

    All over the state's indices; a decay may lack some.  `last` is the state after the last token.
    """

    after: Local
    last: Local
    state: str
    decay: Array
    addend: Array
    combine: str | None
    begin: Array | None
    indices: tuple[Index, ...]


@dataclass(frozen=True, slots=True)
class Mix:
    """States that mix elementwise: s_f' = sum_g decay[f][g] * s_g + addend[f].  A None decay is zero."""

    after: tuple[Local, ...]
    last: tuple[Local, ...]
    states: tuple[str, ...]
    decay: tuple[tuple[Array | None, ...], ...]
    addend: tuple[Array, ...]
    begin: tuple[Array | None, ...]
    indices: tuple[Index, ...]


@dataclass(frozen=True, slots=True)
class Beside:
    """An operand along the key at its state's place among `count` coupled states, whose keys lie side by side."""

    x: Array
    place: int
    count: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix state's axes as [H, V, K]: `batch` flat, `value` flat, `key`; `order` is the state's own."""

    order: tuple[Index, ...]
    batch: tuple[Index, ...]
    value: tuple[Index, ...]
    key: Index

    @property
    def inner(self) -> tuple[Index, ...]:
        """The axes in the order [batch, value, key]."""
        return (*self.batch, *self.value, self.key)


@dataclass(frozen=True, slots=True)
class Asked:
    """`name` [batch, lead, value]: a matrix state read by vectors `q` [H, (L,) K], after this token or before it.

    `flat` is what the scan gives, [H, (L,) V]; `found` the axes it is seen under, and `dims` those of the name.
    """

    name: Local
    q: Beside
    after: bool
    lead: tuple[Index, ...]
    flat: tuple[int, ...]
    found: tuple[Index, ...]
    dims: tuple[Index, ...]


@dataclass(frozen=True, slots=True)
class ChunkScan:
    """The reads of S' = S (diag(decay) + Σ a bᵀ) + Σ v kᵀ, in one pass; operands are [B, T, H, (R,) V | K].

    `decay`: None for one, [H, K] or [H, 1]; for coupled states a table by (source, target), None being zero.
    `answers` is what all the reads saw, `last` the states after the last token.  `again`: a later scan of the same
    states begins where this one does.
    """

    answers: Local
    last: Local
    states: tuple[str, ...]
    layout: Matrix
    asked: tuple[Asked, ...]
    decay: Array | tuple[tuple[Array | None, ...], ...] | None
    k: tuple[Beside, ...]
    v: tuple[Array, ...]
    a: tuple[Beside, ...]
    b: tuple[Beside, ...]
    value_decay: Array | None
    begin: tuple[Array | None, ...]
    again: bool = False


@dataclass(frozen=True, slots=True)
class Loop:
    """Token by token: `now` are the states before the token, `body` makes those `after` it, `all` is their sequence.

    `dims` are each state's own.
    """

    token: Local
    states: tuple[str, ...]
    dims: tuple[tuple[Index, ...], ...]
    now: tuple[Local, ...]
    seen: tuple[Local, ...]
    all: tuple[Local, ...]
    body: tuple[Statement, ...]
    after: tuple[Array, ...]
    begin: tuple[Array | None, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Entry:
    """This token's entry of a history; `window` and `there`, where they are read, are its windows and their masks."""

    entry: Local
    history: str
    value: Array
    size: int
    window: Local | None
    there: Local | None
    dims: tuple[Index, ...]
    past: Local | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """The keys or the values of an attention: a history's entries seen as [*groups, *features], flattened to two axes.

    `size` is the window, `view` are the sizes they are seen under, `order` which of those axes stand first; `table` is
    the key of each head, None where neighbouring heads share the keys evenly.
    """

    history: str
    size: int
    entry: Array
    past: Array | None
    declared: tuple[int, ...]
    view: tuple[int, ...]
    order: tuple[int, ...]
    flat: tuple[int, int]
    table: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Attention:
    """`name` [heads…, features…]: softmax over a window of (scale * q · k + bias), times v.

    Several `queries` [heads, features] and `keys` are one product of their features end to end.
    """

    name: Local
    queries: tuple[Array, ...]
    keys: tuple[Side, ...]
    values: Side
    scale: float
    bias: Array | None
    flat: tuple[int, int]
    dims: tuple[Index, ...]
    found: tuple[Index, ...]


@dataclass(frozen=True, slots=True)
class Given:
    """An argument of a call: `axes` are the formal's sizes, before which `front` of the call's indices stand."""

    value: Array
    own: tuple[int, ...]
    axes: tuple[int, ...]
    front: int


@dataclass(frozen=True, slots=True)
class CallPart:
    """`name`: one advance of a part."""

    name: Local
    part: Part
    inputs: tuple[Given, ...]
    dims: tuple[Index, ...]


@dataclass(frozen=True, slots=True)
class CallBank:
    """`name` [*lead, *outs]: the chosen instances of a bank on this token (`pick` over `lead`), or every one (None).

    `rows`: nothing in it runs along time or place, so that tokens may be sorted by expert.
    """

    name: Local
    part: Part
    pick: Array | None
    inputs: tuple[Given, ...]
    lead: tuple[Index, ...]
    out: tuple[int, ...]
    dims: tuple[Index, ...]
    rows: bool


@dataclass(frozen=True, slots=True)
class Sum:
    """Where the caller measures: the sum of `value` over this call's tokens, under its key."""

    key: str
    value: Array
    gradient: bool


@dataclass(frozen=True, slots=True)
class Measure:
    """What is done only where the caller measures."""

    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Fill:
    """A parameter or buffer over `dims` begins with a value, or by a rule that draws numbers."""

    name: str
    dims: tuple[Index, ...]
    value: Array | None
    rule: str = ""
    args: tuple[Array, ...] = ()


Statement = (
    Say | Let | Products | Moments | TopK | Keep | Shift | Scan | Mix | ChunkScan | Loop | Entry | Attention | CallPart
    | CallBank | Sum | Measure | Fill
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Function:
    """A cell over [B, T], over one token, or over rows.

    `inputs` are the formals in order, `above` the carries that are read, by name; `result` is the output, `gives` the
    carries for the layers below.  `values`, of a function without tokens, are what it makes, by name.
    """

    cell: Cell
    mode: Mode
    inputs: tuple[Local, ...]
    above: tuple[tuple[str, Local], ...]
    body: tuple[Statement, ...]
    result: Array | None = None
    gives: tuple[tuple[str, Array], ...] = ()
    values: tuple[tuple[str, Array], ...] = ()


@dataclass(frozen=True, slots=True)
class Traits:
    """What a library of arrays is like, where that changes how a program is best written for it.

    `modes`: the functions it is wanted in; in `init` and `sequence` with `gradients`, training's too.
    `gradients`: they are wanted, so that no operand may make one that is not finite.  `fuses`: a product that is summed
    becomes no tensor.  `short_windows`: a window holds no more places than the sequence has tokens.  `by_weight`:
    products with weights are named, so that they can stand side by side; the weights are [groups, rows, columns].
    `resets`: a document may begin within the sequence.  `moments`: a mean and the variance about it are one call.
    """

    modes: frozenset[Mode]
    gradients: bool = False
    fuses: bool = False
    short_windows: bool = False
    by_weight: bool = False
    resets: bool = False
    moments: bool = False


@dataclass(frozen=True, slots=True)
class CellArrays:
    """The functions of a cell that a library wants; None where the cell has nothing to do there.

    `timeless`: a token's value depends on that token and its place alone, so that `sequence` is its `step` too.
    `weights` fills parameters and buffers, `states` makes the first states; `totals` makes training values of sums.
    """

    cell: Cell
    timeless: bool
    sequence: Function | None = None
    step: Function | None = None
    rows: Function | None = None
    weights: Function | None = None
    states: Function | None = None
    totals: tuple[tuple[Literal["aux", "metric", "after"], Function], ...] = ()

    @property
    def functions(self) -> list[Function]:
        """All that there are."""
        found = (self.sequence, self.step, self.rows, self.weights, self.states, *(f for _, f in self.totals))
        return [f for f in found if f is not None]


# --- traversal -----------------------------------------------------------------------------------------------------
T = TypeVar("T")


def arrays(stmt: object) -> Iterator[Array]:
    """The arrays of a statement or of a piece of one, blocks within it included."""
    return _held(Array, stmt)


def defined(stmt: object) -> Iterator[Local]:
    """The names that a statement defines."""
    return _held(Local, stmt)


def read(stmt: object) -> set[Local]:
    """The names that a statement reads."""
    return {n.arg for x in arrays(stmt) for n in nodes(x) if n.op == "local"}


def _held(kind: type[T], x: object) -> Iterator[T]:
    """What of a kind a statement holds, in its tuples and records too; arrays and declarations are not looked into."""
    if isinstance(x, kind):
        yield x
    elif isinstance(x, tuple):
        for each in x:
            yield from _held(kind, each)
    elif type(x).__module__ == __name__:
        for f in fields(x):  # type: ignore[arg-type]
            yield from _held(kind, getattr(x, f.name))
