"""The steps form: flat arrays, and few kinds of step over them, for machines.

A step makes arrays from arrays, one after the other.  Arrays are dense and row-major, whatever axes they are seen
under, so that a split or a merge of axes moves nothing.  What an element is made of stays an expression of `ir.nodes`:
whole numbers (places, ages, picks) are const, index, integer arithmetic, comparisons, `select` and reads of arrays of
whole numbers; values of a `Map` are elementwise operations on `operand` nodes.  Tiles, cores, planes, loop nests and
vectors are a backend's own, and so are steps that only its machine has: they are `Step`s too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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

    def reading(self, by: Mapping[str, str]) -> Load:
        """The same element of another array."""
        return replace(self, array=by[self.array]) if self.array in by else self


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
    """What a step is put together of: the arrays it makes, the indices it runs over (outermost first), its loads, and
    its whole numbers besides those of the loads; `source` is an array that it moves as it is."""

    outs: tuple[str, ...] = ()
    space: tuple[Index, ...] = ()
    loads: tuple[Load, ...] = ()
    wholes: tuple[Node, ...] = ()
    source: str | None = None

    @property
    def nodes(self) -> list[Node]:
        """Every expression of the step but a `Map`'s value."""
        return [*(n for load in self.loads for n in load.wholes), *self.wholes]

    @property
    def reads(self) -> set[str]:
        """The arrays that the step reads."""
        found = {m.arg.ref.name for n in self.nodes for m in walk.reads(n)} | {load.array for load in self.loads}
        return found if self.source is None else {*found, self.source}


@dataclass(frozen=True, slots=True)
class Step:
    """One step.  `span` and `text` are of the equation that it is of."""

    span: Span = field(default=NOWHERE, compare=False, kw_only=True)
    text: str = field(default="", kw_only=True)

    @property
    def parts(self) -> Parts:
        """What it is put together of."""
        raise NotImplementedError(type(self).__name__)

    def reading(self, by: Mapping[str, str]) -> Step:
        """The step with other arrays in place of those that it reads as they are."""
        return self


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

    @property
    def parts(self) -> Parts:
        return Parts((self.out,), self.indices, self.loads, self.place or ())

    def reading(self, by: Mapping[str, str]) -> Map:
        return replace(self, loads=_reading(self.loads, by))


@dataclass(frozen=True, slots=True)
class Copy(Step):
    """out[place] = load, of floats or whole numbers: nothing is computed."""

    out: str
    indices: tuple[Index, ...]
    load: Load
    place: tuple[Node, ...] | None = None

    @property
    def parts(self) -> Parts:
        return Parts((self.out,), self.indices, (self.load,), self.place or ())

    def reading(self, by: Mapping[str, str]) -> Copy:
        return replace(self, load=self.load.reading(by))


@dataclass(frozen=True, slots=True)
class Whole(Step):
    """out[indices] = a whole number; stored as a float where `out` is one of floats."""

    out: str
    indices: tuple[Index, ...]
    value: Node

    @property
    def parts(self) -> Parts:
        return Parts((self.out,), self.indices, (), (self.value,))


@dataclass(frozen=True, slots=True)
class Streamed:
    """A parameter as the matrix of a product.  `instance` is which of a bank's, a whole number, or None."""

    tensor: str
    instance: Node | None = None


@dataclass(frozen=True, slots=True)
class Product(Step):
    """outs[lead, rows, columns] = sum over k of left[lead, rows, k] * right[lead, columns, k].

    `left` are planes: the factor as a sum of one or two parts.  With a `Streamed` right there are no rows, and each
    plane has its own array in `outs`; with arrays the planes of both sides are multiplied and added up, into the one of
    `outs`.
    `transposed`: `right` is a matrix whose last axes are (columns, k).
    """

    outs: tuple[str, ...]
    lead: tuple[Index, ...]
    rows: tuple[Index, ...]
    columns: tuple[Index, ...]
    k: tuple[Index, ...]
    left: tuple[Load, ...]
    right: Streamed | tuple[Load, ...]
    transposed: bool = False

    @property
    def factors(self) -> tuple[Load, ...]:
        """The planes of the right factor; none where it is streamed."""
        return self.right if isinstance(self.right, tuple) else ()

    @property
    def streamed(self) -> Streamed | None:
        """The right factor where it is a parameter."""
        return self.right if isinstance(self.right, Streamed) else None

    @property
    def parts(self) -> Parts:
        instance = self.streamed.instance if self.streamed is not None else None
        wholes = () if instance is None else (instance,)
        return Parts(self.outs, (*self.lead, *self.rows, *self.columns), (*self.left, *self.factors), wholes)

    def reading(self, by: Mapping[str, str]) -> Product:
        return replace(self, left=_reading(self.left, by), right=self.streamed or _reading(self.factors, by))


@dataclass(frozen=True, slots=True)
class Extreme(Step):
    """out[indices] = the largest or smallest of `load` over `bound`, exactly."""

    out: str
    kind: Literal["max", "min"]
    indices: tuple[Index, ...]
    bound: tuple[Index, ...]
    load: Load

    @property
    def parts(self) -> Parts:
        return Parts((self.out,), self.indices, (self.load,))

    def reading(self, by: Mapping[str, str]) -> Extreme:
        return replace(self, load=self.load.reading(by))


@dataclass(frozen=True, slots=True)
class TopK(Step):
    """values[lead, k], picks[lead, k]: the largest of `load` along `over`, largest first, ties by the lowest place."""

    values: str | None
    picks: str | None
    lead: tuple[Index, ...]
    k: Index
    over: Index
    load: Load

    @property
    def parts(self) -> Parts:
        outs = tuple(name for name in (self.values, self.picks) if name is not None)
        return Parts(outs, (*self.lead, self.k), (self.load,))

    def reading(self, by: Mapping[str, str]) -> TopK:
        return replace(self, load=self.load.reading(by))


def _reading(loads: Iterable[Load], by: Mapping[str, str]) -> tuple[Load, ...]:
    return tuple(load.reading(by) for load in loads)


def indices_of(step: Step) -> tuple[Index, ...]:
    """Every index of a step, those that it reduces over too."""
    match step:
        case Product():
            inner: tuple[Index, ...] = step.k
        case Extreme():
            inner = step.bound
        case TopK():
            inner = (step.over,)
        case _:
            inner = ()
    return (*step.parts.space, *inner)
