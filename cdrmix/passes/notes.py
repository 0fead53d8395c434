"""What the user is told about states that got no fast form: which state, which term, and what it costs."""

from __future__ import annotations

from math import prod

from cdrmix.diagnose import NOWHERE
from cdrmix.ir import walk
from cdrmix.ir.forms import Coupled, Elementwise
from cdrmix.ir.nodes import Cell, Index, Node, Ref
from cdrmix.ir.text_nodes import expression
from cdrmix.passes.groups import Group
from cdrmix.passes.terms import Culprit, stem

LONGEST = 100
"""Characters of an expression that a note shows."""


def shown(n: Node) -> str:
    """An expression in the words of the text: bound indices as they were written, cut where it is very long."""
    by: dict[Index, Index] = {}
    used: set[str] = set()
    for i in [*n.free, *(i for m in walk.nodes(n) for i in walk.bound(m))]:
        name = walk.fresh(stem(i.name), used)
        used.add(name)
        by.setdefault(i, Index(name, i.axis))
    n = walk.rename_indices(n, by)
    text = expression(n, {i.name: i.axis for i in walk.indices(n)})
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def told(cell: Cell, culprit: Culprit) -> str:
    """`expression` and what is wrong with it."""
    return f"`{shown(_as_written(cell, culprit.node))}` {culprit.reason}"


def sentence(cell: Cell, g: Group) -> str:
    """Why a group has no faster form."""
    if g.culprit is None:
        return g.why
    return told(cell, g.culprit) if g.why in ("", g.culprit.reason) else f"{g.why}: {told(cell, g.culprit)}"


def _as_written(cell: Cell, n: Node) -> Node:
    """The node of the cell that `n` was made from; passes keep its place in the text."""
    if n.span == NOWHERE:
        return n
    return next((m for m in walk.nodes(cell.body) if m.span == n.span and m.op == n.op), n)


def note_of_group(cell: Cell, g: Group) -> list[str]:
    """A note where a group is slower or larger than a state of its size could be."""
    many = len(g.states) > 1
    states = ("states " if many else "state ") + " and ".join(f"`{s}`" for s in g.states)
    if g.kind == "general":
        return [f"{cell.op}: {states} {'run' if many else 'runs'} token by token in training: {sentence(cell, g)}"]
    if isinstance(g.scan, Elementwise | Coupled) and g.kind != "max-plus" and _is_large(g.scan):
        size = walk.size(g.scan.indices) * len(g.states)
        kept = f"{'are' if many else 'is'} kept for every token in training"
        return [f"{cell.op}: {states} {kept} ({size} numbers each): {sentence(cell, g)}"]
    return []


def _is_large(scan: Elementwise | Coupled) -> bool:
    """Whether the states are larger than anything of the token that they are made of."""
    made_of = [n for e in walk.roots(scan) for n in walk.reads(e) if n.arg.ref.kind != "param"]
    return walk.size(scan.indices) > max((prod(a.size for a in n.arg.view) for n in made_of), default=1)


def note_of_softmax(cell: Cell, ref: Ref, culprit: Culprit) -> str:
    """A note for a softmax over a window that no attention kernel can run."""
    name = "the output" if ref.kind == "output" else f"`{ref.name}`"
    return f"{cell.op}: {name} unfolds its whole window for every token in training: {told(cell, culprit)}"
