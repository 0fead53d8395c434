"""Where the names of a cell lie in memory, and how a read becomes an address.

Input: the places of a read's indices.  Output: C text.

Every tensor is row-major and a view has the order of the axes it splits or merges, so a view changes sizes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from cdrmix.codegen.c.rules import ATOM, PRODUCT, TOTAL, Text

from cdrmix.ir.nodes import Node
from cdrmix.ir.places import strides


@dataclass(frozen=True, slots=True)
class Ring:
    """A history: `head` is the C name of the newest entry's slot."""

    head: str
    window: int
    entry: int

    def axis(self, of: Sequence[int]) -> int | None:
        """The position of the window in a view of these sizes; None when the view merges it with others."""
        return next((p for p, size in enumerate(of) if size == self.window and prod(of[p + 1 :]) == self.entry), None)


@dataclass(frozen=True, slots=True)
class Held:
    """A parameter that is widened as it is read: the encoding of runtime/c/encodings.h, and the elements of a row."""

    encoding: str
    row: int


@dataclass(frozen=True, slots=True)
class Storage:
    """A name's memory: the C expression of its first element, or of itself when it is a `scalar`.

    `held` is of a parameter whose numbers are not f32, which has no elements that C knows.
    """

    base: str
    whole: bool = False
    scalar: bool = False
    ring: Ring | None = None
    held: Held | None = None

    def element(self, place: Text) -> str:
        """One value."""
        if self.held is not None:
            return f"cdr_at_{self.held.encoding}({self.base}, {place.c}, {self.held.row})"
        return self.base if self.scalar else f"{self.base}[{place.c}]"

    def address(self, place: Text) -> str:
        """The address of an element, of what is held otherwise of the rows from a row's first element on."""
        if place.value == 0:
            return self.base
        if self.held is not None:
            return f"cdr_on_{self.held.encoding}({self.base}, {place.c}, {self.held.row})"
        return f"&{self.base}[{place.c}]"


def sizes(n: Node) -> list[int]:
    """The sizes of a read's view."""
    return [a.size for a in n.arg.view]


def flat(indices: Sequence[Text], of: Sequence[int]) -> Text:
    """The row-major place of `indices` in axes of the sizes `of`."""
    fixed, terms = 0, list[Text]()
    for index, step in zip(indices, strides(of), strict=True):
        if index.value is not None and index.value >= 0:
            fixed += index.value * step
        else:
            one = index.inside(PRODUCT)
            terms.append(Text(one) if step == 1 else Text(f"{one} * {step}", PRODUCT))
    if fixed or not terms:
        terms.append(number(fixed))
    return terms[0] if len(terms) == 1 else Text(" + ".join(t.c for t in terms), TOTAL)


def number(value: int) -> Text:
    """A whole number, not negative."""
    return Text(str(value), ATOM, value)


ZERO = number(0)
