"""Fusion: an elementwise value that only other elementwise values read is worked out inside them.

Input: a draft.  Output: the same with fewer steps.

A value is put where it is read when that is one place, or the two planes of it, or when it costs next to nothing.  The
states' new values move to the end of the program, or to just before they are read, so that what is made of the old
ones can wait for its reader.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Axis, Index, Node
from cdrmix.ir.ops import OPS
from cdrmix.ir.steps import Step
from cdrmix.ir.walk import sizes

from .draft import Assign, Draft
from .maps import fits, loads_in

CHEAP_LOADS = 2
CHEAP_CALLS = 2


def fuse(draft: Draft) -> None:
    """See the module."""
    draft.steps = needed(draft, sunk(draft))
    at = 0
    while at < len(draft.steps):
        step = draft.steps[at]
        if isinstance(step, Assign) and _can_go(draft, step) and (made := _inlined(draft, at)) is not None:
            draft.steps = made
            del draft.arrays[step.out]
        else:
            at += 1


def needed(draft: Draft, steps: list[Step]) -> list[Step]:
    """The steps whose values are kept or read."""
    kept: list[Step] = []
    wanted = {n for n, a in draft.arrays.items() if a.memory == "state"}
    for step in reversed(steps):
        if not step.parts.outs or set(step.parts.outs) & wanted:
            kept.append(step)
            wanted |= step.parts.reads
    return kept[::-1]


def sunk(draft: Draft) -> list[Step]:
    """The steps with each write of a state as late as it may be."""
    steps = list(draft.steps)
    for at in range(len(steps) - 1, -1, -1):
        step = steps[at]
        if not isinstance(step, Assign) or draft.arrays[step.out].memory != "state":
            continue
        fixed = {step.out, *step.parts.reads}
        to = at + 1
        while to < len(steps) and not (step.out in steps[to].parts.reads or fixed & set(steps[to].parts.outs)):
            to += 1
        steps.insert(to, step)
        del steps[at]
    return steps


def _can_go(draft: Draft, a: Assign) -> bool:
    array = draft.arrays[a.out]
    return (
        array.memory == "scratch" and array.dtype == "f32" and a.place is None and not a.plane
        and not draft.is_whole(a.value)
    )  # fmt: skip


def _inlined(draft: Draft, at: int) -> list[Step] | None:
    """The steps without the one at `at`, its value where it was read; None when it has to stay."""
    steps, a = draft.steps, draft.steps[at]
    assert isinstance(a, Assign)
    if sum(a.out in s.parts.outs for s in steps) != 1:
        return None
    readers = [p for p in range(at + 1, len(steps)) if a.out in steps[p].parts.reads]
    if not readers or not all(isinstance(steps[p], Assign) for p in readers):
        return None
    planes = all(isinstance(s, Assign) and s.plane for s in (steps[p] for p in readers))
    if len(readers) > 1 and not planes and not _cheap(draft, a.value):
        return None
    sources = a.parts.reads
    if any(sources & set(s.parts.outs) for s in steps[at + 1 : readers[-1]]):
        return None
    made: list[Step] = list(steps)
    for p in readers:
        reader = steps[p]
        consumer = _with(draft, reader, a) if isinstance(reader, Assign) else None
        if consumer is None:
            return None
        made[p] = consumer
    for p in readers:
        _reshape(draft, made[p])
    del made[at]
    return made


def _reshape(draft: Draft, a: Step) -> None:
    """Give an array the axes that it is now written over."""
    if not isinstance(a, Assign) or a.place is not None or not a.indices:
        return
    array, shape = draft.arrays[a.out], sizes(a.indices)
    if array.memory == "scratch" and prod(shape) == prod(array.shape):
        draft.arrays[a.out] = replace(array, shape=shape)


def _cheap(draft: Draft, n: Node) -> bool:
    rows = [OPS[m.op] for m in walk.nodes(n)]
    light, calls = all(row.effort in ("none", "light") for row in rows), sum(row.kind != "leaf" for row in rows)
    return light and len(loads_in(draft, n)) <= CHEAP_LOADS and calls <= CHEAP_CALLS


def _with(draft: Draft, consumer: Assign, a: Assign) -> Assign | None:
    """A reader with the value in the place of its reads."""
    found = [m for m in walk.reads(consumer.value) if m.arg.ref.kind == "def" and m.arg.ref.name == a.out]
    inside = [m for n in consumer.parts.nodes for m in walk.reads(n)]
    if len(found) != sum(m.arg.ref.kind == "def" and m.arg.ref.name == a.out for m in inside):
        return None
    windows = draft.windows.get(found[0].arg.ref, frozenset())
    before = len(loads_in(draft, consumer.value))
    for m in found:
        at = walk.window_positions(m.arg.view, windows)
        if any(m.args[p].op != "index" for p in at):
            return None
    while True:
        split = next((s for m in found if (s := _to_split(m, sizes(a.indices))) is not None), None)
        if split is None:
            break
        if isinstance(split, str):
            return None
        consumer = split_index(consumer, *split)
        found = [m for m in walk.reads(consumer.value) if m.arg.ref.kind == "def" and m.arg.ref.name == a.out]
    value = consumer.value
    for m in dict.fromkeys(found):
        put = _at(a, m)
        if put is None:
            return None
        value = replaced(value, m, put)
    if not fits(draft, value) or not _keeps_its_place(value, consumer):
        return None
    smaller = prod(sizes(a.indices)) < prod(sizes(consumer.indices))
    if smaller and len(loads_in(draft, value)) > max(before, CHEAP_LOADS + 1):
        return None
    texts = consumer.texts if set(a.texts) <= set(consumer.texts) else (*a.texts, *consumer.texts)
    return replace(consumer, value=value, texts=texts)


def _keeps_its_place(value: Node, consumer: Assign) -> bool:
    """Whether what the reader overwrites is read only where it is written: the order of the elements is open."""
    own = [m for m in walk.reads(value) if m.arg.ref.name == consumer.out]
    before = [m for m in walk.reads(consumer.value) if m.arg.ref.name == consumer.out]
    at = tuple(map(build.index, consumer.indices))
    return all(m in before or (m.args == at and consumer.place is None) for m in own)


def _to_split(m: Node, own: tuple[int, ...]) -> tuple[Index, tuple[int, ...]] | str | None:
    """The reader's index that runs over several of the value's own; None when there is none, a word when hopeless."""
    view, p = [a.size for a in m.arg.view], 0
    for q, size in enumerate(view):
        group: list[int] = []
        while prod(group) < size and p < len(own):
            group.append(own[p])
            p += 1
        if prod(group) == size and len([g for g in group if g > 1]) > 1:
            if m.args[q].op != "index":
                return "a place"
            return m.args[q].arg, tuple(group)
        if prod(group) != size:
            return None  # the reader splits the value's index, or neither does
    return None


def _at(a: Assign, m: Node) -> Node | None:
    """The value at the place where it is read."""
    value, indices = a.value, [i for i in a.indices if i.axis.size > 1]
    seen = [(x.size, n) for x, n in zip(m.arg.view, m.args, strict=True) if x.size > 1]
    view, args = [size for size, _ in seen], [n for _, n in seen]
    by: dict[Index, Node] = {i: build.const(0) for i in a.indices if i.axis.size == 1}
    q = 0
    for i in indices:
        group: list[int] = []
        start = q
        while prod(group) < i.axis.size and q < len(view):
            group.append(view[q])
            q += 1
        if prod(group) != i.axis.size:
            return None
        if len(group) == 1:
            by[i] = args[start]
            continue
        new = [Index(f"#{start + p}", Axis(f"{i.axis.name}{p}", size)) for p, size in enumerate(group)]
        value = split_node(value, i, new)
        by |= {j: args[start + p] for p, j in enumerate(new)}
    if q < len(view):
        return None
    return walk.substitute(value, by)


# --- indices split into several, row-major --------------------------------------------------------------------------
def split_index(a: Assign, i: Index, into: tuple[int, ...]) -> Assign:
    """The same assignment over several indices in the place of one."""
    names = {j.name for n in a.parts.nodes for j in walk.indices(n)} | {j.name for j in a.indices}
    new = []
    for p, size in enumerate(into):
        name = walk.fresh(f"{i.name}{p}", names)
        names.add(name)
        new.append(Index(name, Axis(f"{i.axis.name}{p}", size)))
    indices = tuple(j for k in a.indices for j in (new if k == i else [k]))
    place = tuple(split_node(n, i, new) for n in a.place) if a.place is not None else None
    return replace(a, indices=indices, value=split_node(a.value, i, new), place=place)


def split_node(n: Node, i: Index, new: list[Index]) -> Node:
    """An expression with an index in several: reads at it alone get a finer view."""
    if i not in n.free:
        return n
    if n.op == "index":
        made = build.index(new[0])
        for j in new[1:]:
            made = build.add(build.mul(made, build.const(j.axis.size)), build.index(j))
        return made
    if n.op == "read":
        view: list[Axis] = []
        args: list[Node] = []
        for axis, arg in zip(n.arg.view, n.args, strict=True):
            if arg.op == "index" and arg.arg == i:
                view += [j.axis for j in new]
                args += map(build.index, new)
            else:
                view.append(axis)
                args.append(split_node(arg, i, new))
        return build.read(n.arg.ref, view, args, n.dtype, n.span)
    return walk.rebuild(n, tuple(split_node(arg, i, new) for arg in n.args))


def replaced(n: Node, old: Node, new: Node) -> Node:
    """An expression with one node for another, wherever it stands."""
    return new if n == old else walk.rebuild(n, tuple(replaced(a, old, new) for a in n.args))
