"""Which element of an array belongs to given indices of a step.

Input: a load (or the place of a store) and its array.
Output: a `Rule`: the element as `base + steps . indices + terms`.  The form decides how the writer moves the elements:
whole runs, one number repeated, or element by element.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.places import regular, strides, terms_of
from cdrmix.ir.steps import Load

from ..plan import TILE, Array


@dataclass(frozen=True, slots=True)
class Rule:
    """See `ir.places`.  `tiled` are (row, column, tiles across) of a read of a matrix in tiles, else None; `when` and
    `fill` are the load's."""

    array: str
    base: int
    steps: dict[Index, int]
    terms: tuple[Node, ...]
    tiled: tuple[Node, Node, int] | None = None
    when: Node | None = None
    fill: float = 0.0

    def step(self, i: Index) -> int:
        """How far one step along an index moves the element, by its multiple alone."""
        return self.steps.get(i, 0)

    def varies(self) -> set[Index]:
        """The indices that come in some way other than by a step."""
        when = () if self.when is None else (self.when,)
        return {i for n in (*self.terms, *(self.tiled[:2] if self.tiled else ()), *when) for i in n.free}

    def indices(self) -> set[Index]:
        """The indices that the element depends on."""
        return {i for i, step in self.steps.items() if step} | self.varies()


def rule_of(array: Array, view: Sequence[int], at: Sequence[Node]) -> Rule:
    """The rule of a place under a view of the array."""
    if array.layout == "tiles":
        if tuple(view) != array.shape:
            raise ValueError(f"{array.name} lies in tiles and cannot be seen as {tuple(view)}")
        rows, columns = array.shape[-2:]
        across, down = -(-columns // TILE), -(-rows // TILE)
        front = [step * across * down * TILE * TILE for step in strides(array.shape[:-2])]
        base, steps, terms = regular(terms_of(at[:-2], front))
        return Rule(array.name, base, steps, terms, (at[-2], at[-1], across))
    return Rule(array.name, *regular(terms_of(at, strides(view))))


def load_rule(array: Array, load: Load) -> Rule:
    """The rule of a load."""
    return replace(rule_of(array, load.view, load.at), when=load.when, fill=load.fill)


def place_rule(array: Array, indices: Sequence[Index], place: Sequence[Node] | None) -> Rule:
    """Where a step stores: at `place`, else at its own indices in order."""
    if place is not None:
        return rule_of(array, array.shape, place)
    view = array.shape if array.layout == "tiles" else walk.sizes(indices)
    return rule_of(array, view, [build.index(i) for i in indices])


def groups_of(indices: Sequence[Index], rules: Sequence[Rule]) -> list[tuple[Index, ...]]:
    """Neighbouring indices that may be counted through as one: each rule steps evenly across them.

    The innermost group is last; without indices there is one empty group.
    """
    alone = {i for rule in rules for i in rule.varies()}
    groups: list[tuple[Index, ...]] = []
    for (i,) in singly(indices):
        last = groups[-1][-1] if groups else None
        if last is not None and not {i, last} & alone and all(r.step(last) == r.step(i) * i.axis.size for r in rules):
            groups[-1] = (*groups[-1], i)
        else:
            groups.append((i,))
    return groups or [()]


def singly(indices: Iterable[Index]) -> list[tuple[Index, ...]]:
    """Indices that are counted through each by itself; one of a single value is always 0."""
    return [(i,) for i in indices if i.axis.size > 1]


def step_of(rule: Rule, group: Sequence[Index]) -> int | None:
    """How far one step along a group moves the element; None where it is not even."""
    if set(group) & rule.varies():
        return None
    return rule.step(group[-1]) if group else 0
