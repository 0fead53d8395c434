"""The order of the statements of the sequence form.

Input: statements in any order, the queries of chunk states among them as `Asked`.
Output: what is needed of them, each after what it reads, otherwise in the given order; the queries of a chunk gathered
into as few passes over its states as their dependencies allow (one, unless a query waits for another's answer).
"""

from __future__ import annotations

import heapq
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
    readers: dict[Ref, list[Item]] = {}
    for item in items:
        for ref in wants[id(item)]:
            readers.setdefault(ref, []).append(item)
    place = {id(item): at for at, item in enumerate(left)}
    ready = [at for at, item in enumerate(left) if not wants[id(item)]]
    out: list[SequenceStmt] = []

    def done(refs: set[Ref]) -> None:
        for ref in refs & due:
            due.discard(ref)
            for item in readers.get(ref, ()):
                wants[id(item)].discard(ref)
                if not wants[id(item)] and id(item) in place:
                    heapq.heappush(ready, place[id(item)])

    while ready or asked:
        if ready:
            out.append(left[heapq.heappop(ready)])
            done(scans.defines(out[-1]))
            continue
        now = [a for a in asked if not wants[id(a)] and not wants[id(chunks[a.states])]]
        if not now:
            break
        now = [a for a in now if a.states == now[0].states]
        asked = [a for a in asked if not any(a is b for b in now)]
        out.append(replace(chunks[now[0].states], queries=tuple(a.query for a in now)))
        done({ref for a in now for ref in scans.defines(a)})
    if any(wants.values()):
        raise AssertionError("the sequence form has a cycle")
    return out


def _needed(items: Sequence[Item], also: Collection[Ref]) -> list[Item]:
    """The items that do something by themselves, and what they need."""
    makers: dict[Ref, list[Item]] = {}
    for item in items:
        for ref in scans.defines(item):
            makers.setdefault(ref, []).append(item)
    kept: set[int] = set()
    todo = [item for item in items if _acts(item)] + [item for ref in also for item in makers.get(ref, ())]
    while todo:
        item = todo.pop()
        if id(item) not in kept:
            kept.add(id(item))
            todo += [maker for ref in scans.uses(item) for maker in makers.get(ref, ())]
    return [i for i in items if id(i) in kept]


def _acts(item: Item) -> bool:
    match item:
        case Def() | Top() | Apply():
            return graph.is_root(item)
        case Asked() | Attend():
            return False
        case _:
            return True
