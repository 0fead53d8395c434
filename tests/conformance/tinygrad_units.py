"""Units written by hand, in the form of a generated `program.py`: each tries one thing the capture must get right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinygrad import Tensor, dtypes


@dataclass(frozen=True, slots=True)
class Unit:
    run: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Result:
    out: Tensor | None
    states: dict[str, Tensor | None]
    carries: dict[str, Tensor]


def product(x, w, s, c):  # type: ignore[no-untyped-def]
    """A residual product with 16 bit weights; a carry that is the same tensor as a part of the output."""
    y = (x.unsqueeze(2) * w["W"].float()).sum(-1).contiguous()
    return Result(x + y, {}, {"v": y})


def memory(x, w, s, c):  # type: ignore[no-untyped-def]
    """Two states, one of which decides what is read from the other; reads a carry."""
    b, t, d = x.shape
    before = s["prev"].unsqueeze(1) if t == 1 else s["prev"].unsqueeze(1).cat(x[:, :-1], dim=1)
    h = ((x - before) * w["mu"] + c["v"]).contiguous()
    kept = s["mem"] * 0.5 + (h.unsqueeze(-1) * x.unsqueeze(-2)).sum(1)
    y = (kept * s["prev"].unsqueeze(1)).sum(-1)
    return Result(h + y.unsqueeze(1), {"prev": x[:, -1], "mem": kept}, {})


def swap(x, w, s, c):  # type: ignore[no-untyped-def]
    """Each state's new value is the other's old one, and the output is one of the old ones as it lies."""
    b, t, d = x.shape
    return Result(s["a"].unsqueeze(1).expand(b, t, d), {"a": s["b"], "b": s["a"]}, {})


def ring(x, w, s, c):  # type: ignore[no-untyped-def]
    """Written in place at a place on the device; what it held before is the output."""
    b, t, d = x.shape
    at = (s["pos"].unsqueeze(1) + Tensor.arange(t)) % 4
    chosen = at.unsqueeze(-1) == Tensor.arange(4)  # [B, T, 4]
    old = (chosen.unsqueeze(-1).where(s["K"].unsqueeze(1), 0)).sum(2).contiguous()
    new = chosen.unsqueeze(-1).where(x.unsqueeze(2), 0).sum(1)
    s["K"].assign(chosen.any(1).unsqueeze(-1).where(new, s["K"]))
    return Result(old, {"K": None}, {})


def shifted(x, w, s, c):  # type: ignore[no-untyped-def]
    """The last entries of a state move by one place: every place is read by another thread than writes it."""
    return Result(s["K"].sum(1, keepdim=True) + x, {"K": x.cat(s["K"], dim=1)[:, :-1]}, {})


def race(x, w, s, c):  # type: ignore[no-untyped-def]
    """The same, stored by the unit itself."""
    s["K"].assign(x.cat(s["K"], dim=1)[:, :-1])
    return Result(x + 1, {"K": None}, {})


def expert(x, w, s, c):  # type: ignore[no-untyped-def]
    """Reads only the expert a score on the device picks; int8 weights with a scale a row."""
    b, t, d = x.shape
    pick = x.argmax(-1).flatten() % 8
    pick = pick.cast(dtypes.int32).contiguous()
    rows = w["F"][pick].float() * w["F.scale"][pick].unsqueeze(-1)  # [B * T, D, D]
    return Result((rows * x.reshape(b * t, 1, d)).sum(-1).reshape(b, t, d), {}, {})


def widened(x, w, s, c):  # type: ignore[no-untyped-def]
    """bfloat16 weights, stored as the upper half of an f32; the input itself is a carry."""
    rows = (w["W"].cast(dtypes.uint32) << 16).bitcast(dtypes.float32)
    return Result((x.unsqueeze(2) * rows).sum(-1), {}, {"x": x})


def advance(x, w, s, c):  # type: ignore[no-untyped-def]
    return Result(None, {"pos": s["pos"] + x.shape[1]}, {})


def host_constant(x, w, s, c):  # type: ignore[no-untyped-def]
    return Result(x * Tensor([1.0, 2.0, 3.0, 4.0] * (x.shape[-1] // 4)), {}, {})


def never_written(x, w, s, c):  # type: ignore[no-untyped-def]
    return Result(x + Tensor.empty(*x.shape), {}, {})


def wrong_shape(x, w, s, c):  # type: ignore[no-untyped-def]
    return Result(x[..., :-1], {}, {})


UNITS = {
    f.__name__: Unit(f)
    for f in (
        product,
        memory,
        swap,
        ring,
        shifted,
        race,
        expert,
        widened,
        advance,
        host_constant,
        never_written,
        wrong_shape,
    )
}
