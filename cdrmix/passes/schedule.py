"""The order of the statements of the sequence form.

Input: statements in any order, the queries of chunk states among them as `Asked`.
Output: what is needed of them, each after what it reads, otherwise in the given order; the queries of a chunk gathered
into as few passes over its states as their dependencies allow (one, unless a query waits for another's answer).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from cdrmix.ir.forms import Attend, Chunk, SequenceStmt
from cdrmix.ir.nodes import Apply, Def, Ref, Top
from cdrmix.passes import graph, scans
from cdrmix.passes.queries import Asked, Item


def schedule(items: Sequence[Item], also: Collection[Ref]) -> list[SequenceStmt]:
    """The statements in order; `also` are names that must be known at the end."""
    items = _needed(items, also)
    chunks = {item.states: item for item in items if isinstance(item, Chunk)}
    asked = [item for item in items if isinstance(item, Asked)]
    answered = {a.states for a in asked}
    left = [i for i in items if not isinstance(i, Asked) and not (isinstance(i, Chunk) and i.states in answered)]
    due = {ref for item in items for ref in scans.defines(item)}
    wants = {id(item): scans.uses(item) & due for item in items}
    out: list[SequenceStmt] = []

    def ready(item: Item) -> bool:
        return not wants[id(item)] & due

    def done(refs: set[Ref]) -> None:
        due.difference_update(refs)

    while left or asked:
        item = next((i for i in left if ready(i)), None)
        if item is not None:
            left.remove(item)
            out.append(item)
            done(scans.defines(item))
            continue
        now = [a for a in asked if ready(a) and ready(chunks[a.states])]
        if not now:
            raise AssertionError("the sequence form has a cycle")
        now = [a for a in now if a.states == now[0].states]
        asked = [a for a in asked if a not in now]
        out.append(replace(chunks[now[0].states], queries=tuple(a.query for a in now)))
        done({ref for a in now for ref in scans.defines(a)})
    return out


def _needed(items: Sequence[Item], also: Collection[Ref]) -> list[Item]:
    """The items that do something by themselves, and what they need."""
    wanted, kept = set(also), {id(i) for i in items if _acts(i)}
    for item in items:
        if id(item) in kept:
            wanted |= scans.uses(item)
    grown = True
    while grown:
        grown = False
        for item in items:
            if id(item) not in kept and scans.defines(item) & wanted:
                kept.add(id(item))
                wanted |= scans.uses(item)
                grown = True
    return [i for i in items if id(i) in kept]


def _acts(item: Item) -> bool:
    match item:
        case Def() | Top() | Apply():
            return graph.is_root(item)
        case Asked() | Attend():
            return False
        case _:
            return True
