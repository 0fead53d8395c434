"""What an equation leaves until the ranges of its indices are known.

Input: reads with more indices than axes, index arithmetic, index variables, as they are met in the text.
Output: lists of them for `reading.finish`, which settles them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cdrmix.check.axes.axes import AxisVar, IndexVar
from cdrmix.check.body.tensors import Value
from cdrmix.diagnose import Span


@dataclass(eq=False, slots=True)
class Split:
    """A read with more indices than axes: `ways` are the axes it may mean, one when it is settled."""

    axes: tuple[AxisVar, ...]
    items: tuple[Value, ...]
    texts: tuple[str, ...]
    base: str
    ways: list[tuple[AxisVar, ...]]
    span: Span
    settled: bool = False


@dataclass(eq=False, slots=True)
class Waiting:
    """What an equation leaves for its end, or for the end of the equation (`outer`) that calls its function; `told` are
    indices that it lacks, each told once.
    """

    indices: list[IndexVar] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)
    checks: list[tuple[Value, Callable[[], None]]] = field(default_factory=list)
    outer: Waiting | None = None
    told: set[str] = field(default_factory=set)
