"""Nominal axes of an op that is being elaborated, and the products that split them.

Input: what the text declares: axes by name, `dim D = H * N`, `dim A = B`.
Output: which axes are one, and in which ways axes may be read with more indices than they are.

An axis may be *loose*: it came out of another op, which has no name for it here, and takes the identity of the first
axis it meets.  The tokens of a history's window are an axis of their own (`window`), so that a value that runs over
tokens is never taken for one that runs over places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from cdrmix.diagnose import Span

MAX_READINGS = 256
"""Ways to split axes that are looked at; texts have one or two."""

MAX_NESTED = 8
"""How deep factors of factors are looked at; texts have one or two levels."""


@dataclass(eq=False, slots=True)
class AxisVar:
    """An axis; `window` is set on the axis of a history's tokens, to the declared axis of its length."""

    name: str
    size: int
    loose: bool = False
    window: AxisVar | None = None
    same: AxisVar | None = None

    @property
    def root(self) -> AxisVar:
        """The axis that stands for all those that are one with this."""
        axis = self
        while axis.same is not None:
            axis = axis.same
        return axis


@dataclass(eq=False, slots=True)
class IndexVar:
    """An index variable of the text; `where` is for messages: the position that fixed its range, or, while it has none,
    the reduction that binds it.
    """

    name: str
    span: Span
    axis: AxisVar | None = None
    where: str = ""


def made_one(a: AxisVar, b: AxisVar) -> str:
    """How to say that two axes of one size are meant to be one."""
    one, other = (a.name, b.name) if a.name.isidentifier() else (b.name, a.name)
    return f"write `{one}` for both" if other.isdigit() else f"say `dim {one} = {other}`"


def is_one(a: AxisVar, b: AxisVar) -> bool:
    """Whether two axes are known to be one."""
    return a.root is b.root


def unite(a: AxisVar, b: AxisVar) -> bool:
    """Make two axes one where the rules allow it: they are already, or one of them is loose and the sizes agree."""
    a, b = a.root, b.root
    if a is b:
        return True
    if a.size != b.size or not (a.loose or b.loose) or bool(a.window) != bool(b.window):
        return False
    declare_one(a, b)
    return True


def declare_one(a: AxisVar, b: AxisVar) -> None:
    """Make two axes of one size one; a name of the text wins over a loose one."""
    a, b = a.root, b.root
    if a is not b:
        loose, kept = (a, b) if a.loose else (b, a)
        loose.same = kept


def names(axes: Sequence[AxisVar]) -> str:
    """`[H, N]`."""
    return f"[{', '.join(a.root.name for a in axes)}]"


@dataclass(slots=True)
class Products:
    """The products that one op body declares, left factor slowest."""

    table: list[tuple[AxisVar, tuple[AxisVar, ...]]] = field(default_factory=list)

    def declare(self, whole: AxisVar, factors: tuple[AxisVar, ...]) -> None:
        """`dim whole = a * b`; two axes of the same factors are one."""
        other = self.find(factors)
        if other is None:
            self.table.append((whole, factors))
        else:
            declare_one(other, whole)

    def find(self, factors: Sequence[AxisVar]) -> AxisVar | None:
        """The axis that is the product of these factors."""
        for whole, parts in self.table:
            if len(parts) == len(factors) and all(map(is_one, parts, factors)):
                return whole
        return None

    def splits(self, axis: AxisVar, above: tuple[AxisVar, ...] = ()) -> list[tuple[AxisVar, ...]]:
        """The ways to write an axis as axes, itself first."""
        found: list[tuple[AxisVar, ...]] = [(axis,)]
        for whole, factors in self.table if len(above) < MAX_NESTED else ():
            if is_one(whole, axis) and axis.root not in above and len(factors) > 1:
                nested = [self.splits(f, (*above, axis.root)) for f in factors]
                found += [sum(parts, ()) for parts in _first(product(*nested))]
        return _distinct(found)

    def readings(self, axes: Sequence[AxisVar], count: int) -> list[tuple[AxisVar, ...]]:
        """The ways to read a value of these axes with `count` indices."""
        ways = _first(product(*(self.splits(a) for a in axes)))
        return _distinct([flat for parts in ways if len(flat := sum(parts, ())) == count])

    def same_elements(self, a: Sequence[AxisVar], b: Sequence[AxisVar]) -> bool:
        """Whether two lists of axes are the same elements in the same order; an axis written `1` counts for nothing."""
        ours = [sum(parts, ()) for parts in _first(product(*map(self.splits, filter(_counts, a))))]
        theirs = [sum(parts, ()) for parts in _first(product(*map(self.splits, filter(_counts, b))))]
        return any(len(x) == len(y) and all(map(_may_be_one, x, y)) for x in ours for y in theirs)


def _counts(axis: AxisVar) -> bool:
    return axis.root.name != "1"


def _may_be_one(a: AxisVar, b: AxisVar) -> bool:
    return is_one(a, b) or (a.root.loose or b.root.loose) and a.size == b.size


def _first(ways: Iterator[tuple[tuple[AxisVar, ...], ...]]) -> list[tuple[tuple[AxisVar, ...], ...]]:
    return [way for way, _ in zip(ways, range(MAX_READINGS), strict=False)]


def _distinct(ways: list[tuple[AxisVar, ...]]) -> list[tuple[AxisVar, ...]]:
    found = {tuple(id(a.root) for a in way): way for way in reversed(ways)}
    return list(reversed(found.values()))
