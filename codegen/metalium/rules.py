"""Which element of an array belongs to given indices of a step.

Input: a load (or the place of a store) and its array.
Output: a `Rule`: the element as `base + steps . indices + terms`, where `steps` are whole multiples of indices and
`terms` are what is not so regular (a ring's place, a pick).  The form decides how the writer moves the elements: whole
runs, one number repeated, or element by element.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.ops import OPS

from .plan import TILE, Array, Load

LARGEST_TABLE = 1 << 20
"""Terms over at most so many values of their indices are tried out for regularity."""


@dataclass(frozen=True, slots=True)
class Rule:
    """See the module.  `tiled` are (row, column, tiles across) of a read of a matrix in tiles, else None."""

    array: str
    base: int
    steps: dict[Index, int]
    terms: tuple[Node, ...]
    tiled: tuple[Node, Node, int] | None = None

    def varies(self) -> set[Index]:
        """The indices that come in some way other than by a step."""
        loose = [*self.terms, *(self.tiled[:2] if self.tiled else ())]
        return {i for n in loose for i in n.free}


def rule_of(array: Array, view: Sequence[int], at: Sequence[Node]) -> Rule:
    """The rule of a load, or of a place in `array.shape`."""
    if array.layout == "tiles":
        if tuple(view) != array.shape:
            raise ValueError(f"{array.name} lies in tiles and cannot be seen as {tuple(view)}")
        rows, columns = array.shape[-2:]
        across, down = -(-columns // TILE), -(-rows // TILE)
        front = [prod(array.shape[p + 1 : -2]) * across * down * TILE * TILE for p in range(len(array.shape) - 2)]
        base, steps, terms = regular(terms_of(at[:-2], front))
        return Rule(array.name, base, steps, terms, (at[-2], at[-1], across))
    strides = [prod(view[p + 1 :]) for p in range(len(view))]
    return Rule(array.name, *regular(terms_of(at, strides)))


def load_rule(array: Array, load: Load) -> Rule:
    """The rule of a load."""
    return rule_of(array, load.view, load.at)


def place_rule(array: Array, indices: Sequence[Index], place: Sequence[Node] | None) -> Rule:
    """Where a step stores: at `place`, else at its own indices in order."""
    if place is not None:
        return rule_of(array, array.shape, place)
    if array.layout == "tiles":
        return rule_of(array, array.shape, [build.index(i) for i in indices])
    return rule_of(array, [i.axis.size for i in indices], [build.index(i) for i in indices])


def terms_of(at: Iterable[Node], strides: Iterable[int]) -> list[tuple[Node, int]]:
    """A sum of terms with whole factors."""
    found: list[tuple[Node, int]] = []

    def add(n: Node, times: int) -> None:
        match n.op:
            case "add" | "sub":
                add(n.args[0], times)
                add(n.args[1], times if n.op == "add" else -times)
            case "neg":
                add(n.args[0], -times)
            case "mul" if n.args[0].op == "const":
                add(n.args[1], times * int(n.args[0].arg))
            case "mul" if n.args[1].op == "const":
                add(n.args[0], times * int(n.args[1].arg))
            case _:
                found.append((n, times))

    for n, stride in zip(at, strides, strict=True):
        add(n, stride)
    return [(n, times) for n, times in found if times]


def regular(terms: Sequence[tuple[Node, int]]) -> tuple[int, dict[Index, int], tuple[Node, ...]]:
    """Base, steps and what is left over."""
    still = [(n, t) for n, t in terms if not moving(n)]
    loose = [_times(n, t) for n, t in terms if moving(n)]
    found = affine(still)
    if found is not None:
        return (*found, tuple(loose))
    base, steps = 0, dict[Index, int]()
    for term in still:
        one = affine([term])
        if one is None:
            loose.append(_times(*term))
            continue
        base += one[0]
        for i, step in one[1].items():
            steps[i] = steps.get(i, 0) + step
    return base, steps, tuple(loose)


def affine(terms: Sequence[tuple[Node, int]]) -> tuple[int, dict[Index, int]] | None:
    """The sum as base + steps . indices, found by trying all values; None where it is not so."""
    indices = tuple(dict.fromkeys(i for n, _ in terms for i in n.free))
    sizes = tuple(i.axis.size for i in indices)
    if all(n.op in ("index", "const") for n, _ in terms):
        steps = {i: sum(t for n, t in terms if n.op == "index" and n.arg == i) for i in indices}
        return sum(t * int(n.arg) for n, t in terms if n.op == "const"), steps
    if prod(sizes) > LARGEST_TABLE:
        return None
    values = np.zeros(sizes, np.int64)
    for n, t in terms:
        values = values + t * np.broadcast_to(_values(n, indices), sizes)
    base = int(values.flat[0])
    steps = {}
    expected = np.full(sizes, base, np.int64)
    for axis, i in enumerate(indices):
        step = int(values[tuple(int(a == axis) for a in range(len(sizes)))]) - base if sizes[axis] > 1 else 0
        steps[i] = step
        shape = [1] * len(sizes)
        shape[axis] = sizes[axis]
        expected = expected + step * np.arange(sizes[axis]).reshape(shape)
    return (base, steps) if np.array_equal(values, expected) else None


def moving(n: Node) -> bool:
    """Whether an expression reads anything."""
    return any(True for _ in walk.reads(n))


def _times(n: Node, times: int) -> Node:
    return n if times == 1 else build.node("mul", n, build.const(times))


def _values(n: Node, indices: tuple[Index, ...]) -> np.ndarray:
    match n.op:
        case "const":
            return np.asarray(int(n.arg))
        case "index":
            shape = [1] * len(indices)
            shape[indices.index(n.arg)] = n.arg.axis.size
            return np.arange(n.arg.axis.size).reshape(shape)
    meaning = OPS[n.op].numpy
    assert meaning is not None
    return np.asarray(meaning(*(_values(a, indices) for a in n.args))).astype(np.int64)


def groups_of(indices: Sequence[Index], rules: Sequence[Rule], kept: Iterable[Index] = ()) -> list[tuple[Index, ...]]:
    """Neighbouring indices that may be counted through as one: each rule steps evenly across them.

    `kept` stay by themselves.  The innermost group is last; without indices there is one empty group.
    """
    alone = {*kept, *(i for rule in rules for i in rule.varies())}
    groups: list[tuple[Index, ...]] = []
    for i in indices:
        if i.axis.size == 1:
            continue  # always 0
        last = groups[-1][-1] if groups else None
        if last is not None and not {i, last} & alone and all(_even(r, last, i) for r in rules):
            groups[-1] = (*groups[-1], i)
        else:
            groups.append((i,))
    return groups or [()]


def _even(rule: Rule, outer: Index, inner: Index) -> bool:
    """Whether one step along `outer` moves as far as all of `inner`."""
    return rule.steps.get(outer, 0) == rule.steps.get(inner, 0) * inner.axis.size


def step_of(rule: Rule, group: Sequence[Index]) -> int | None:
    """How far one step along a group moves the element; None where it is not even."""
    if set(group) & rule.varies():
        return None
    return rule.steps.get(group[-1], 0) if group else 0


def extent(group: Sequence[Index]) -> int:
    """How many values a group takes."""
    return prod(i.axis.size for i in group)
