"""Fusion: an elementwise value that only other elementwise values read is worked out inside them.

Input: a draft.  Output: the same with fewer steps.

A value is put where it is read when that is one place, or the two planes of it, or when it costs next to nothing.  The
states' new values move to the end of the program, or to just before they are read, so that what is made of the old
ones can wait for its reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from operator import mul

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Axis, Index, Node, Ref
from cdrmix.ir.ops import OPS
from cdrmix.ir.steps import Step
from cdrmix.ir.walk import sizes

from .draft import Assign, Draft, flat
from .maps import fits, loads_in

CHEAP_LOADS = 2
CHEAP_CALLS = 2


def fuse(draft: Draft) -> None:
    """See the module."""
    draft.steps = needed(draft, sunk(draft))
    at = 0
    while at < len(draft.steps):
        step = draft.steps[at]
        if isinstance(step, Assign) and (made := _inlined(draft, step, at)) is not None:
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
        late = (p for p, s in enumerate(steps) if p > at and (step.out in s.parts.reads or fixed & set(s.parts.outs)))
        steps.insert(next(late, len(steps)), step)
        del steps[at]
    return steps


def _inlined(draft: Draft, a: Assign, at: int) -> list[Step] | None:
    """The steps without `a`, which is at `at`, its value where it was read; None when it has to stay."""
    steps = draft.steps
    if draft.arrays[a.out].memory != "scratch" or a.place is not None or a.plane or draft.is_whole(a.value):
        return None
    readers = [p for p in range(at + 1, len(steps)) if a.out in steps[p].parts.reads]
    planes = all(isinstance(s, Assign) and s.plane for s in (steps[p] for p in readers))
    if len(readers) > 1 and not planes and not _cheap(draft, a.value):
        return None
    sources = a.parts.reads
    if any(sources & set(s.parts.outs) for s in steps[at + 1 : readers[-1]]):
        return None
    made: dict[int, Assign] = {}
    for p in readers:
        reader = steps[p]
        consumer = _with(draft, reader, a) if isinstance(reader, Assign) else None
        if consumer is None:
            return None
        made[p] = consumer
    for consumer in made.values():
        if consumer.place is None and consumer.indices and draft.arrays[consumer.out].memory == "scratch":
            draft.arrays[consumer.out] = replace(draft.arrays[consumer.out], shape=sizes(consumer.indices))
    return [made.get(p, step) for p, step in enumerate(steps) if p != at]


def _cheap(draft: Draft, n: Node) -> bool:
    rows = [OPS[m.op] for m in walk.nodes(n)]
    light, calls = all(row.effort in ("none", "light") for row in rows), sum(row.kind != "leaf" for row in rows)
    return light and len(loads_in(draft, n)) <= CHEAP_LOADS and calls <= CHEAP_CALLS


def _with(draft: Draft, consumer: Assign, a: Assign) -> Assign | None:
    """A reader with the value in the place of its reads."""
    found = [m for m in walk.reads(consumer.value) if m.arg.ref == Ref("def", a.out)]
    windows = draft.windows.get(Ref("def", a.out), frozenset())
    if any(m.args[p].op != "index" for m in found for p in walk.window_positions(m.arg.view, windows)):
        return None
    by: dict[Node, Node] = {}
    for m in found:
        seen = [(x.size, n) for x, n in zip(m.arg.view, m.args, strict=True) if x.size > 1]
        put = a
        for theirs, ours in _runs([size for size, _ in seen], sizes(a.indices)):
            view, args = zip(*seen[theirs], strict=True)
            several = [i for i in a.indices[ours] if i.axis.size > 1]
            if len(several) > 1:  # the reader's index runs over several of the value's: it is split first
                if len(args) > 1 or args[0].op != "index":
                    return None
                return _with(draft, split_index(consumer, args[0].arg, sizes(a.indices[ours])), a)
            if len(args) > 1:
                put = split_index(put, several[0], view)
        at = {i: build.const(0) for i in put.indices if i.axis.size == 1}
        at |= zip((i for i in put.indices if i.axis.size > 1), (n for _, n in seen), strict=True)
        by[m] = walk.substitute(put.value, at)
    value = walk.transform(consumer.value, lambda m: by.get(m, m))
    if not fits(draft, value) or not _keeps_its_place(value, consumer):
        return None
    smaller = walk.size(a.indices) < walk.size(consumer.indices)
    if smaller and len(loads_in(draft, value)) > max(len(loads_in(draft, consumer.value)), CHEAP_LOADS + 1):
        return None
    texts = consumer.texts if set(a.texts) <= set(consumer.texts) else (*a.texts, *consumer.texts)
    return replace(consumer, value=value, texts=texts)


def _runs(left: Sequence[int], right: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """The shortest runs of axes of two row-major shapes that lie over each other; an axis of one
    place goes with what is behind it."""
    ends = [list(accumulate(shape, mul, initial=1)) for shape in (left, right)]
    both = [end for end in ends[0] if end in ends[1]]
    for begin, end in pairwise(both):
        first, second = (slice(of.index(begin), of.index(end)) for of in ends)
        yield first, second


def _keeps_its_place(value: Node, consumer: Assign) -> bool:
    """Whether what the reader overwrites is read only where it is written: the order of the elements is open."""
    own = [m for m in walk.reads(value) if m.arg.ref.name == consumer.out]
    before = [m for m in walk.reads(consumer.value) if m.arg.ref.name == consumer.out]
    at = tuple(map(build.index, consumer.indices))
    return all(m in before or (m.args == at and consumer.place is None) for m in own)


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
        return flat([build.index(j) for j in new], sizes(new))
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
