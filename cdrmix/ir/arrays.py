"""The array form: what a cell computes, as operations on whole tensors.  Libraries of tensors take it.

An `Array` is an expression.  Its axes are the leading ones, which nobody counts ([B, T] over a sequence, [B] in a step,
[rows] of an expert, none for what is the same for every token), and then one for each of `dims`, in their order.
Operands of an elementwise operation keep their own axes: a printer brings them to those of the result.  Names, lines
and precedence are a printer's; what a `Local` stands for is decided here.

Of its types `number` is a Python number; `int` and `bool` are tensors; `exact` is float64 arithmetic on places (an
angle of a far position keeps its digits), `turn` such an angle less its whole turns; `float` is the model's data, in
which it computes; `bf16` and `f16` are data held narrower (`ir/types.py`): a `cast` to them rounds, one to `float`
widens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cdrmix.ir.nodes import Index

Sizes = tuple[int, ...]
Indices = tuple[Index, ...]
Type = Literal["number", "bool", "int", "exact", "turn", "float", "bf16", "f16"]


@dataclass(frozen=True, slots=True)
class Local:
    """A name within a function; `hint` is what it would be called."""

    hint: str
    number: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A parameter or buffer; `sizes`, where they are given, are the row-major view it is read under."""

    name: str
    shape: Sizes
    sizes: Sizes | None = None


@dataclass(frozen=True, slots=True)
class Contract:
    """How the arguments of a `contract` are multiplied and summed over `bound`.

    Argument `weight`, where there is one, is a stored matrix [*groups, *outs, *along] in row-major order (`transposed`:
    [*along, *outs]) and the other argument is over groups, axes of its own, and `along`, which are summed.
    """

    bound: Indices
    weight: int | None = None
    groups: Indices = ()
    outs: Indices = ()
    along: Indices = ()
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """How many operands an operation has, or has at least (`more`), the type of `arg`, and what it is."""

    operands: int
    arg: Any
    meaning: str
    more: bool = False


ROWS: Mapping[str, Row] = {
    "number": Row(0, int | float, "a number of Python's"),
    "local": Row(0, Local, "a name of this function"),
    "stored": Row(0, Stored, "a parameter or buffer"),
    "old": Row(0, str, "the state of this name before the first token"),
    "total": Row(0, tuple[str, bool], "the sum over all tokens that was kept under a key, or (True) the mean"),
    "places": Row(0, Index, "0, 1, …"),
    "context": Row(0, Literal["pos", "layer", "layers"], "of the token, or of the cell"),
    "token": Row(2, None, "a sequence, t: it at one token"),
    # between types
    "cast": Row(1, None, "to `type`"),
    "turn": Row(1, None, "less its whole turns"),
    "whole": Row(1, None, "as 0 or 1"),
    # the same elements, seen in another way
    "view": Row(1, tuple[Sizes, Sizes], "the axes row-major under other sizes: (old, new)"),
    "rename": Row(1, None, "under other indices"),
    "permute": Row(1, None, "the axes in the order of `dims`"),
    "expand": Row(1, bool, "all of `dims`, each at its full size; whether the leading axes too"),
    "spread": Row(1, tuple[tuple[bool, ...], Sizes], "axes that it lacks at their sizes: (has, sizes)"),
    "at": Row(1, tuple[tuple[int, int], ...], "fixed places of axes, which go: ((position, place), …)"),
    "slice": Row(1, tuple[int, int, int], "as many places as the axis of `dims` has there: (position, start, size)"),
    "flip": Row(1, int, "backwards along the axis at this position"),
    "clip": Row(2, Indices, "x, there, …: as many places along these as the windows have tokens", more=True),
    # x, place, …: read at computed places of some axes: (their positions, the sizes of all)
    "rows": Row(
        2, tuple[Sizes, Sizes, bool], "that differ by token; and whether they are whole stored rows", more=True
    ),
    "index": Row(2, tuple[Sizes, Sizes], "the same for every token", more=True),
    "pick": Row(2, tuple[Sizes, Sizes], "that differ by token, of what does too", more=True),
    # along axes
    **dict.fromkeys(("sum", "mean", "max_over", "min_over", "logsumexp"), Row(1, Indices, "over these")),
    "norm": Row(1, Indices, "the root of the sum of squares"),
    "softmax": Row(1, Index, "along this"),
    "contract": Row(1, Contract, "a product, summed", more=True),
    "masked": Row(2, float, "there, x: this where a token of the window is not there"),
    "count": Row(1, Indices, "there: how many tokens of the window are"),
}
"""Of each operation that is no elementwise row of `ops.OPS`."""


@dataclass(frozen=True, slots=True)
class Array:
    """One operation: an elementwise row of `ops.OPS`, or one of `ROWS`, which says what `arg` is.

    `dims` are its axes, `lead` whether it has the leading ones.  `absent_is_zero`: where a token of a window is not
    there, it is zero.
    """

    op: str
    args: tuple[Array, ...] = ()
    arg: Any = None
    type: Type = "float"
    dims: Indices = ()
    lead: bool = False
    absent_is_zero: bool = False

    @property
    def const(self) -> int | float | None:
        """The number it is, where that is known."""
        return self.arg if self.op == "number" else None

    def position(self, i: Index) -> int:
        """Where an axis is, from the end."""
        return self.dims.index(i) - len(self.dims)


def seen(op: str, x: Array, arg: Any, dims: Sequence[Index], *places: Array) -> Array:
    """The elements of `x` seen in another way, under `dims`."""
    lead = x.lead or any(p.lead for p in places)
    return Array(op, (x, *places), arg, x.type, tuple(dims), lead, x.absent_is_zero)


def nodes(x: Array) -> Iterator[Array]:
    """`x` and everything in it, outermost first."""
    todo = [x]
    while todo:
        x = todo.pop()
        yield x
        todo += x.args[::-1]


def union(found: Sequence[Array], order: Sequence[Index]) -> tuple[Index, ...]:
    """The axes of all the arrays, in `order`."""
    dims = {d for x in found for d in x.dims}
    return tuple(i for i in order if i in dims)
