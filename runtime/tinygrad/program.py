"""What a generated `program.py` is made of: units, the calls of the stack, and the frame a unit's cells run in.

Everything runs over [B, T]: B sessions, T tokens each.  Every tensor a cell sees has those two axes in front, of
length one where it does not vary along them; a weight is [1, 1, *shape].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tinygrad import Tensor

from .frame import Frame

Shape = tuple[int, ...]
Kind = Literal["state", "history", "pos"]


@dataclass(frozen=True, slots=True)
class Result:
    """What one run gives.  `states`: the new value by local name; None where the slot's tensor is the new value."""

    out: Tensor | None
    states: dict[str, Tensor | None]
    carries: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Unit:
    """A line of the stack as one program; lines that differ only in their weights and states share it.

    `x`, `out`, `reads` and `writes` (carries) are shapes of one token; `weights` and `states` have a shape and the
    stored type (f32, f16, bf16, i8; i32).  Not `blocked`: one token at a time.
    """

    name: str
    body: Callable[[Frame, Tensor], Tensor | None]
    x: Shape
    x_dtype: str
    out: Shape
    weights: Mapping[str, tuple[Shape, str]]
    states: Mapping[str, tuple[Shape, str]]
    reads: Mapping[str, Shape]
    writes: Mapping[str, Shape]
    blocked: bool = True

    def run(self, x: Tensor, w: Mapping[str, Tensor], s: Mapping[str, Tensor], c: Mapping[str, Tensor]) -> Result:
        """x [B, T, *x]; w: weights as stored; s: slots [B, *shape]; c: carries from above [B, T, *shape]."""
        frame = Frame.of(x, w, s, c)
        out = self.body(frame, x)
        for name, slot in frame.written.items():
            s[name].replace(slot)
        return Result(out, frame.states, frame.carries)


@dataclass(frozen=True, slots=True)
class Call:
    """A unit in its place.  `last_only`: nothing after it in the stack needs any token but the last."""

    unit: str
    path: str
    weights: Mapping[str, str]
    states: Mapping[str, str]
    last_only: bool = False


@dataclass(frozen=True, slots=True)
class Slot:
    """A piece of the streaming state: `start` is a number, or the name of the stored tensor it begins as.

    A history is a ring of the last `shape[0]` entries: token n's lies at n % shape[0].
    """

    shape: Shape
    kind: Kind
    start: float | str = 0.0


def _advance(here: Frame, x: Tensor) -> None:
    """One more block of tokens has been seen."""
    here.keep("pos", here.state("pos") + int(x.shape[1]))


advance = Unit("advance", _advance, (), "i32", (), {}, {"pos": ((), "i32")}, {}, {})
"""The last call: the place of the next block."""
