"""An expression over a definition's own indices, at places given under another view of the same elements.

Input: the definition's indices, and the view and places of a read of it.
Output: a `Move`: fresh indices over the view's axes, their places, and how an expression is written over them.

`z[h, n]` with `h < H, n < N`, read as a `[D]` at `i`, is `z[i]` under the view `[D]` where both indices stand side by
side, and `i // N` and `i % N` elsewhere; the other way round likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Axis, Index, Node


@dataclass(frozen=True, slots=True)
class Block:
    """Own indices that are together the same elements as some axes of the view, with fresh indices over those."""

    own: tuple[Index, ...]
    new: tuple[Index, ...]

    def arithmetic(self) -> dict[Index, Node]:
        """Each own index by the new ones."""
        place, found, below = _flat(self.new), {}, walk.size(self.own)
        for i in self.own:
            below //= i.axis.size
            here = place if below == 1 else build.node("floordiv", place, build.const(below))
            found[i] = here if i is self.own[0] else build.node("mod", here, build.const(i.axis.size))
        return found


@dataclass(frozen=True, slots=True)
class Move:
    """From a definition's own indices to fresh ones, whose places a read gives."""

    blocks: tuple[Block, ...]
    places: dict[Index, Node]

    def __call__(self, n: Node) -> Node:
        """The expression over the fresh indices."""
        for block in self.blocks:
            n = walk.transform(n, lambda m, block=block: _viewed(m, block))  # type: ignore[misc]
            n = walk.substitute(n, block.arithmetic())
        return n


def move(
    own: Sequence[Index], view: Sequence[Axis], places: Sequence[Node], fresh: Callable[[Index], Index]
) -> Move | None:
    """How to write over the axes of `view` what is written over `own`; None where they do not fall into blocks."""
    blocks: list[Block] = []
    at: dict[Index, Node] = {}
    a = b = 0
    while a < len(own) or b < len(view):
        a0, b0, mine, theirs = a, b, 1, 1
        while a == a0 or b == b0 or mine != theirs:
            if a < len(own) and (a == a0 or b == len(view) or (b > b0 and mine < theirs)):
                mine, a = mine * own[a].axis.size, a + 1
            elif b < len(view):
                theirs, b = theirs * view[b].size, b + 1
            else:
                return None
        if a - a0 == b - b0 == 1:
            at[own[a0]] = places[b0]
            continue
        new = tuple(fresh(Index(own[a0].name, axis)) for axis in view[b0:b])
        blocks.append(Block(tuple(own[a0:a]), new))
        at.update(zip(new, places[b0:b], strict=True))
    return Move(tuple(blocks), at)


def _flat(indices: Sequence[Index]) -> Node:
    """The place in the merged axis."""
    place = build.index(indices[0])
    for i in indices[1:]:
        place = build.add(build.node("mul", place, build.const(i.axis.size)), build.index(i))
    return place


def _viewed(n: Node, block: Block) -> Node:
    """A read at a block's own indices, side by side and alone, under the view of the new ones."""
    if n.op == "softmax" and n.arg in block.own:
        raise walk.FixedPlace
    if n.op != "read":
        return n
    k, alone = len(block.own), [(a.arg, axis.size) for a, axis in zip(n.args, n.arg.view, strict=True)]
    for p in range(len(alone) - k + 1):
        if alone[p : p + k] == [(i, i.axis.size) for i in block.own]:
            axes = (*n.arg.view[:p], *(i.axis for i in block.new), *n.arg.view[p + k :])
            args = (*n.args[:p], *map(build.index, block.new), *n.args[p + k :])
            return _viewed(build.read(n.arg.ref, axes, args, n.dtype, n.span), block)
    return n
