"""The steps of a draft: the plan's own, and elementwise assignments that are not yet Maps.

Input: a step.  Output: what it reads and writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cdrmix.diagnose import NOWHERE, Span
from cdrmix.ir import walk
from cdrmix.ir.nodes import Index, Node

from . import plan


@dataclass(frozen=True, slots=True)
class Assign:
    """out[place] = an elementwise value over `indices`; it becomes a Map, a Copy or a Whole.

    `plane` is the part of the value that is kept: `hi` what TF32 holds of it, `lo` the rest.
    """

    out: str
    indices: tuple[Index, ...]
    value: Node
    place: tuple[Node, ...] | None = None
    plane: str = ""
    span: Span = field(default=NOWHERE, compare=False)
    text: str = ""


Drafted = Assign | plan.Step


def written(step: Drafted) -> tuple[str, ...]:
    """The arrays that a step writes."""
    match step:
        case plan.Product():
            return step.outs
        case plan.TopK():
            return tuple(n for n in (step.values, step.picks) if n is not None)
        case plan.Write():
            return ()
        case _:
            return (step.out,)


def nodes_of(step: Drafted) -> list[Node]:
    """The expressions of a step: a value, and the whole numbers in its loads and places."""
    match step:
        case Assign():
            return [step.value, *(step.place or ())]
        case plan.Copy() | plan.Map():
            inner = [n for load in loads_of(step) for n in _within(load)]
            return [*inner, *(step.place or ())]
        case plan.Whole():
            return [step.value]
        case plan.Fetch():
            return [step.row] if step.row is not None else []
        case plan.Product():
            right = step.right
            more = [right.instance] if isinstance(right, plan.Streamed) and right.instance is not None else []
            return [*(n for load in loads_of(step) for n in _within(load)), *more]
        case _:
            return [n for load in loads_of(step) for n in _within(load)]


def _within(load: plan.Load) -> list[Node]:
    return [*load.at, *([load.when] if load.when is not None else [])]


def loads_of(step: Drafted) -> tuple[plan.Load, ...]:
    """The loads of a step."""
    match step:
        case plan.Map():
            return step.loads
        case plan.Copy() | plan.Extreme() | plan.TopK():
            return (step.load,)
        case plan.Product():
            return (*step.left, *(step.right if isinstance(step.right, tuple) else ()))
        case _:
            return ()


def reads_of(step: Drafted) -> set[str]:
    """The arrays that a step reads."""
    found = {m.arg.ref.name for n in nodes_of(step) for m in walk.reads(n)} | {load.array for load in loads_of(step)}
    if isinstance(step, (plan.Gather, plan.Write)):
        found.add(step.source)
    return found


def renamed(step: Drafted, old: str, new: str) -> Drafted:
    """A step that reads another array of as many floats."""

    def load(x: plan.Load) -> plan.Load:
        return replace(x, array=new) if x.array == old else x

    match step:
        case plan.Map():
            return replace(step, loads=tuple(map(load, step.loads)))
        case plan.Copy() | plan.Extreme() | plan.TopK():
            return replace(step, load=load(step.load))
        case plan.Product():
            right = tuple(map(load, step.right)) if isinstance(step.right, tuple) else step.right
            return replace(step, left=tuple(map(load, step.left)), right=right)
        case plan.Gather() | plan.Write():
            return replace(step, source=new) if step.source == old else step
        case _:
            return step
