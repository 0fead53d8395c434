"""The array form: what a cell computes, as operations on whole tensors.  Libraries of tensors take it.

An `Array` is an expression.  Its axes are the leading ones, which nobody counts ([B, T] over a sequence, [B] in a step,
[rows] of an expert, none for what is the same for every token), and then one for each of `dims`, in their order.
Operands of an elementwise operation keep their own axes: a printer brings them to those of the result.  Names, lines
and precedence are a printer's; what a `Local` stands for is decided here.

`number` is a Python number; `int` and `bool` are tensors; `exact` is float64 arithmetic on places (an angle of a far
position keeps its digits), `turn` such an angle less its whole turns; `float` is the model's data, in which
it computes; `bf16` and `f16` are data held narrower (`ir/types.py`): a `cast` to them rounds, one to `float` widens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cdrmix.ir.nodes import Index

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
    shape: tuple[int, ...]
    sizes: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Contract:
    """How the arguments of a `contract` are multiplied and summed over `bound`.

    Argument `weight`, where there is one, is a stored matrix [*groups, *outs, *along] in row-major order (`transposed`:
    [*along, *outs]) and the other argument is over groups, axes of its own, and `along`, which are summed.
    """

    bound: tuple[Index, ...]
    weight: int | None = None
    groups: tuple[Index, ...] = ()
    outs: tuple[Index, ...] = ()
    along: tuple[Index, ...] = ()
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Array:
    """One operation.  Elementwise rows of `ops.OPS` keep their names; the others are these.

    | op | args | arg | |
    |---|---|---|---|
    | `number` | | the number | |
    | `local` | | `Local` | a name of this function |
    | `stored` | | `Stored` | a parameter or buffer |
    | `old` | | the state's name | a state before the first token |
    | `total` | | (a key, whether the mean) | the sum over all tokens that was kept under it |
    | `places` | | the `Index` | 0, 1, … |
    | `context` | | `pos`, `layer`, `layers` | |
    | `there` | | the window's `Index` | which tokens of a window are there |
    | `view` | x | (old, new) sizes | the last axes row-major under other sizes |
    | `permute` | x | None | the axes in the order of `dims` |
    | `expand` | x | whether the leading axes too | all of `dims`, each at its full size |
    | `unit` | x | position | a new axis of length one |
    | `spread` | x | the sizes | axes it lacks (of `has`) at their sizes: (has, sizes) |
    | `at` | x | ((position, place), …) | fixed places of axes, which go |
    | `slice` | x | (position, start, size) | of `size` places, as many as the axis of `dims` has there |
    | `flip` | x | position | |
    | `clip` | x | the indices | as many places as the windows that are met have tokens |
    | `rows` | x, places | (positions, sizes, whether whole stored rows) | places that differ by token |
    | `index` | x, places | (positions, sizes) | the same for every token |
    | `pick` | x, places | (positions, sizes) | the same, of what differs by token too |
    | `cast` | x | None | to `type` |
    | `masked` | x | (window's `Index`, fill) | `fill` where a token is not there |
    | `count` | | the window's `Index` | how many tokens are there |
    | `sum`, `mean`, `max_over`, `min_over`, `logsumexp` | x | the indices, all of them axes of x | |
    | `softmax` | x | the `Index` | |
    | `norm` | x | the indices | the root of the sum of squares |
    | `contract` | factors | `Contract` | |
    | `token` | x, t | | a sequence at one token |
    | `turn` | an angle | | less its whole turns |
    | `rename` | x | | the same under other indices |
    | `whole` | a truth value | | as 0 or 1 |
    """

    op: str
    args: tuple[Array, ...] = ()
    arg: Any = None
    type: Type = "float"
    dims: tuple[Index, ...] = ()
    lead: bool = False
    const: int | float | None = None
    absent_is_zero: bool = False

    def position(self, i: Index) -> int:
        """Where an axis is, from the end."""
        return self.dims.index(i) - len(self.dims)


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
