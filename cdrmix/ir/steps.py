"""The steps form: flat arrays, and few kinds of step over them, for machines.

A step makes arrays from arrays, one after the other.  Arrays are dense and row-major, whatever axes they are seen
under, so that a split or a merge of axes moves nothing.  What an element is made of stays an expression of `ir.nodes`:
whole numbers (places, ages, picks) are const, index, integer arithmetic, comparisons, `select` and reads of arrays of
whole numbers; values of a `Map` are elementwise operations on `operand` nodes.  Tiles, cores, planes, loop nests and
vectors are a backend's own, and so are steps that only its machine has: they are `Step`s too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from cdrmix.diagnose import NOWHERE, Span
from cdrmix.ir import walk
from cdrmix.ir.nodes import Index, Node


@dataclass(frozen=True, slots=True)
class Load:
    """An element of an array: `at` is one whole number an axis of `view`, over the indices of the step.

    `view` has as many elements as the array.  Where `when` is there and false, the element is `fill`.
    """

    array: str
    view: tuple[int, ...]
    at: tuple[Node, ...]
    when: Node | None = None
    fill: float = 0.0

    @property
    def wholes(self) -> tuple[Node, ...]:
        """The whole numbers that say where the element is, and whether."""
        return self.at if self.when is None else (*self.at, self.when)

    @property
    def free(self) -> set[Index]:
        """The indices that it depends on."""
        return {i for n in self.wholes for i in n.free}


def operand(number: int) -> Node:
    """The load of that number, in the value of a `Map`."""
    return Node("operand", (), number, "f32")


def literal(value: float) -> Node:
    """A number in the value of a `Map`."""
    return Node("const", (), value, "f32")


def apply(op: str, *args: Node) -> Node:
    """An elementwise operation in the value of a `Map`: a row of `ir.ops`, or `tf32`, its argument with the nine
    highest bits of its mantissa, the rest cut off.  Comparisons give 0 or 1."""
    return Node(op, args, None, "f32")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a step is put together of: the arrays it makes, the indices it runs over (outermost first), its loads, its
    whole numbers besides those of the loads, the indices it reduces over, and an array that it moves as it is."""

    outs: tuple[str, ...] = ()
    space: tuple[Index, ...] = ()
    loads: tuple[Load, ...] = ()
    wholes: tuple[Node, ...] = ()
    inner: tuple[Index, ...] = ()
    source: str | None = None

    @property
    def nodes(self) -> list[Node]:
        """Every expression of the step but a `Map`'s value."""
        return [*(n for load in self.loads for n in load.wholes), *self.wholes]

    @property
    def reads(self) -> set[str]:
        """The arrays that the step reads."""
        read = {m.arg.ref.name for n in self.nodes for m in walk.reads(n)}
        return {*read, *(load.array for load in self.loads), *([self.source] if self.source else [])}


@dataclass(frozen=True, slots=True)
class Step:
    """One step.  `span` and `texts` are of the equations that it is of."""

    span: Span = field(default=NOWHERE, compare=False, kw_only=True)
    texts: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def parts(self) -> Parts:
        """What it is put together of."""
        match self:
            case Map():
                return Parts((self.out,), self.indices, self.loads, self.place or ())
            case Copy():
                return Parts((self.out,), self.indices, (self.load,), self.place or ())
            case Whole():
                return Parts((self.out,), self.indices, wholes=(self.value,))
            case Product():
                space, wholes = (*self.lead, *self.rows, *self.columns), (self.instance,) if self.instance else ()
                return Parts(self.outs, space, (*self.left, *self.factors), wholes, self.k)
            case Extreme():
                return Parts((self.out,), self.indices, (self.load,), inner=self.bound)
            case TopK():
                outs = tuple(name for name in (self.values, self.picks) if name is not None)
                return Parts(outs, (*self.lead, self.k), (self.load,), inner=(self.over,))
        raise NotImplementedError(type(self).__name__)

    def reading(self, by: Mapping[str, str]) -> Step:
        """The step with other arrays in place of those that it reads as they are."""

        def other(part: object) -> object:
            match part:
                case Load():
                    return replace(part, array=by.get(part.array, part.array))
                case (Load(), *_):
                    return tuple(map(other, part))
            return part

        return replace(self, **{f.name: other(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Map(Step):
    """out[indices] = value, elementwise.  `indices` span `out`.

    `place` is where in `out` (None: at the indices), one whole number an axis of its shape; it may depend on `pos` and
    picks, never on data.
    """

    out: str
    indices: tuple[Index, ...]
    value: Node
    loads: tuple[Load, ...]
    place: tuple[Node, ...] | None = None


@dataclass(frozen=True, slots=True)
class Copy(Step):
    """out[place] = load, of floats or whole numbers: nothing is computed."""

    out: str
    indices: tuple[Index, ...]
    load: Load
    place: tuple[Node, ...] | None = None


@dataclass(frozen=True, slots=True)
class Whole(Step):
    """out[indices] = a whole number; stored as a float where `out` is one of floats."""

    out: str
    indices: tuple[Index, ...]
    value: Node


@dataclass(frozen=True, slots=True)
class Product(Step):
    """outs[lead, rows, columns] = sum over k of left[lead, rows, k] * right[lead, columns, k].

    `left` are planes: the factor as a sum of one or two parts; so are `factors`, the right side.  They are multiplied
    each with each and added up, into the one of `outs`.  `transposed`: the right side is a matrix whose last axes are
    (columns, k).  Without `factors` the right side is the parameter `streamed`, of a bank the matrix `instance`, a
    whole number: there are no rows, and each plane of `left` has its own array in `outs`.
    """

    outs: tuple[str, ...]
    lead: tuple[Index, ...]
    rows: tuple[Index, ...]
    columns: tuple[Index, ...]
    k: tuple[Index, ...]
    left: tuple[Load, ...]
    factors: tuple[Load, ...] = ()
    streamed: str | None = None
    instance: Node | None = None
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Extreme(Step):
    """out[indices] = the largest or smallest of `load` over `bound`, exactly."""

    out: str
    kind: Literal["max", "min"]
    indices: tuple[Index, ...]
    bound: tuple[Index, ...]
    load: Load


@dataclass(frozen=True, slots=True)
class TopK(Step):
    """values[lead, k], picks[lead, k]: the largest of `load` along `over`, largest first, ties by the lowest place."""

    values: str | None
    picks: str | None
    lead: tuple[Index, ...]
    k: Index
    over: Index
    load: Load
