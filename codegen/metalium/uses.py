"""What a step reads and writes, and over which indices: the one place that knows how steps are put together.

Input: a `plan.Step`.
Output: its loads with the indices that each runs over, the indices it deals out to the cores, the names it touches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import singledispatch

from cdrmix.ir import walk
from cdrmix.ir.nodes import Index, Node

from .plan import (
    Copy,
    Extreme,
    Fetch,
    Gather,
    Load,
    Map,
    Product,
    Step,
    Streamed,
    TopK,
    Whole,
    Write,
)


@dataclass(frozen=True, slots=True)
class Read:
    """A load of a step; `whole` when the step wants all of it on every core, whatever the core's own units are."""

    load: Load
    whole: bool = False


@singledispatch
def space(step: Step) -> tuple[Index, ...]:
    """The indices that a step runs over and deals out, outermost first; none for what only moves arrays."""
    return ()


@space.register(Map)
@space.register(Copy)
@space.register(Whole)
@space.register(Extreme)
def _(step: Map | Copy | Whole | Extreme) -> tuple[Index, ...]:
    return step.indices


@space.register
def _(step: Product) -> tuple[Index, ...]:
    return (*step.lead, *step.rows, *step.columns)


@space.register
def _(step: TopK) -> tuple[Index, ...]:
    return (*step.lead, step.k)


@singledispatch
def reads(step: Step) -> tuple[Read, ...]:
    """The loads of a step."""
    return ()


@reads.register
def _(step: Map) -> tuple[Read, ...]:
    return tuple(Read(load) for load in step.loads)


@reads.register
def _(step: Copy) -> tuple[Read, ...]:
    return (Read(step.load),)


@reads.register
def _(step: Product) -> tuple[Read, ...]:
    if isinstance(step.right, Streamed):
        return tuple(Read(load, whole=not step.lead) for load in step.left)
    return tuple(Read(load) for load in (*step.left, *step.right))


@reads.register
def _(step: Extreme) -> tuple[Read, ...]:
    return (Read(step.load),)


@reads.register
def _(step: TopK) -> tuple[Read, ...]:
    return (Read(step.load, whole=True),)


@singledispatch
def outs(step: Step) -> tuple[str, ...]:
    """The arrays that a step writes."""
    return ()


@outs.register(Map)
@outs.register(Copy)
@outs.register(Whole)
@outs.register(Extreme)
@outs.register(Gather)
@outs.register(Fetch)
def _(step: Map | Copy | Whole | Extreme | Gather | Fetch) -> tuple[str, ...]:
    return (step.out,)


@outs.register
def _(step: Product) -> tuple[str, ...]:
    return step.outs


@outs.register
def _(step: TopK) -> tuple[str, ...]:
    return tuple(name for name in (step.values, step.picks) if name is not None)


@singledispatch
def wholes(step: Step) -> tuple[Node, ...]:
    """The expressions over whole numbers in a step."""
    return tuple(n for r in reads(step) for n in _of_load(r.load))


@wholes.register(Map)
@wholes.register(Copy)
def _(step: Map | Copy) -> tuple[Node, ...]:
    return (*(n for r in reads(step) for n in _of_load(r.load)), *(step.place or ()))


@wholes.register
def _(step: Whole) -> tuple[Node, ...]:
    return (step.value,)


@wholes.register
def _(step: Product) -> tuple[Node, ...]:
    loads = [n for r in reads(step) for n in _of_load(r.load)]
    instance = step.right.instance if isinstance(step.right, Streamed) else None
    return (*loads, *([instance] if instance is not None else []))


@wholes.register
def _(step: Fetch) -> tuple[Node, ...]:
    return (step.row,) if step.row is not None else ()


def _of_load(load: Load) -> Iterator[Node]:
    yield from load.at
    if load.when is not None:
        yield load.when


def numbers(step: Step) -> Iterator[str]:
    """The i32 arrays that the whole numbers of a step read."""
    for n in wholes(step):
        for m in walk.reads(n):
            yield m.arg.ref.name


def touched(step: Step) -> Iterator[str]:
    """Every array that a step reads or writes; those it reads may come more than once."""
    for r in reads(step):
        yield r.load.array
    yield from numbers(step)
    if isinstance(step, Gather | Write):
        yield step.source
    yield from outs(step)


def reading(step: Step, whole: dict[str, str]) -> Step:
    """The step with loads of other arrays in place of those named in `whole`."""

    def change(load: Load) -> Load:
        return replace(load, array=whole[load.array]) if load.array in whole else load

    def all_of(loads: Iterable[Load]) -> tuple[Load, ...]:
        return tuple(change(load) for load in loads)

    match step:
        case Map():
            return replace(step, loads=all_of(step.loads))
        case Copy() | Extreme() | TopK():
            return replace(step, load=change(step.load))
        case Product():
            right = step.right if isinstance(step.right, Streamed) else all_of(step.right)
            return replace(step, left=all_of(step.left), right=right)
        case Write():
            return replace(step, source=whole.get(step.source, step.source))
        case _:
            return step
