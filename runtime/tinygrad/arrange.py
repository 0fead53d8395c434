"""Tensors [B, T, …] as generated cells arrange them: seen under other axes, looked up, moved by one token.

Input, output: lazy tensors; B and T are one long where nothing varies along them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi

from tinygrad import Tensor


def view(x: Tensor, *sizes: int) -> Tensor:
    """x [B, T, …] seen as [B, T, *sizes], row-major."""
    return x.reshape(*x.shape[:2], *sizes)


def places(size: int) -> Tensor:
    """0, 1, … as [1, 1, size]."""
    return Tensor.arange(size).reshape(1, 1, size)


def constant(value: float, *sizes: int) -> Tensor:
    """A number as [1, 1, *sizes]."""
    return Tensor.full((1, 1, *sizes), value, buffer=False)


def within_a_turn(angle: Tensor) -> Tensor:
    """A float64 angle as f32, whole turns taken off while all its digits are there."""
    turns = angle * (0.5 / pi)
    return ((turns - turns.floor()) * (2 * pi)).float()


def joined(*parts: Tensor, dim: int = 1) -> Tensor:
    """Tensors one after the other.  Constants are computed first: tinygrad 0.14 adds them to their neighbours."""
    device = next((x.device for x in parts if x.device is not None), None)
    first, *rest = (x if x.device is not None else x.clone(device) for x in parts)
    return first.cat(*rest, dim=dim) if rest else first


def take(x: Tensor, at: Tensor) -> Tensor:
    """x [B, T, *S, P] at the places `at` [B, T, *A] of its last axis: [B, T, *S, *A]."""
    rest, found = x.shape[2:-1], at.shape[2:]
    if at.shape[:2] == (1, 1):
        return x[..., at[0, 0]]
    if x.shape[:2] == (1, 1) and not rest:
        return x[0, 0][at]
    b, t = max(x.shape[0], at.shape[0]), max(x.shape[1], at.shape[1])
    at = at.reshape(*at.shape[:2], *[1] * len(rest), -1).expand(b, t, *rest, -1)
    return x.expand(b, t, *x.shape[2:]).gather(-1, at).reshape(b, t, *rest, *found)


# --- along time ----------------------------------------------------------------------------------------------------
def last(after: Tensor) -> Tensor:
    """What a sequence [B, T, …] ends with: [B, …]."""
    return after[:, -1]


def delay(after: Tensor, s: Tensor) -> Tensor:
    """A state [B, T, …] before each token, given it after each, and before the block, s [B, …]."""
    if after.shape[1] == 1:
        return s.unsqueeze(1)
    return joined(s.unsqueeze(1), after[:, :-1])


def shift(after: Tensor, s: Tensor) -> Tensor:
    """As `delay`, of a state whose slot s a scan has written: the old value is copied before."""
    return delay(after, s.clone())


def tokens(each: Sequence[Tensor]) -> Tensor:
    """Tokens [B, 1, …] one after the other."""
    return joined(*each)


# --- operands of a matrix state's scan -----------------------------------------------------------------------------
def beside(x: Tensor, before: int, behind: int) -> Tensor:
    """A vector along the keys of one of several coupled states: zeros for the states before and behind it."""
    return x.pad((before, behind))


def mix(table: Sequence[Tensor], heads: int, states: int, to: int, width: int) -> Tensor:
    """The decays [B, T, *H, K] of each source into each target as [B, T, heads, states, to, width]."""
    b, t = table[0].shape[:2]
    flat = [d.reshape(b, t, heads, width) for d in table]
    return joined(*(d.unsqueeze(3) for d in flat), dim=3).reshape(b, t, heads, states, to, width)


def heads(x: Tensor, table: Sequence[int]) -> Tensor:
    """Keys [B, T, G, N] as one a head: head h reads key table[h]."""
    return joined(*(x[:, :, g : g + 1] for g in table), dim=2)
