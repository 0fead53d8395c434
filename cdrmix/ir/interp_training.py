"""The interpreter's training values: `aux`, `metric` and `after step`, over all tokens of an optimiser step.

Input: what each instance's names were at every token it saw.
Output: values by path (`layer.3.ffn.balance_loss`), with the axes of the banks around in front.

An instance of a bank reduces over its own tokens.  One that saw none has no part: zero, and its buffers stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cdrmix.ir import build, layout
from cdrmix.ir.interp_cell import Recording, Weights
from cdrmix.ir.interp_expr import Array, Frame, expression
from cdrmix.ir.nodes import TOKENS, Axis, Index, Model, Node, Ref, Training
from cdrmix.ir.ops import OPS


@dataclass(frozen=True, slots=True)
class Values:
    """`after` holds the next value of every buffer that an `after step` writes."""

    aux: dict[str, Array] = field(default_factory=dict)
    metrics: dict[str, Array] = field(default_factory=dict)
    after: dict[str, Array] = field(default_factory=dict)


def evaluate(model: Model, recording: Recording, weights: Weights) -> Values:
    """Every training value of the model."""
    values = Values()
    groups = {"aux": values.aux, "metric": values.metrics, "after": values.after}
    for place in layout.places(model):
        for t in place.cell.training:
            shape = [i.axis.size for i in t.indices]
            found = np.zeros((*place.banks, *shape))
            for at in np.ndindex(*place.banks):
                fixed = weights(place.path, place.cell, at)
                kept = recording.get((place.path, at), [])
                if kept:
                    found[at] = _value(t, kept, fixed)
                elif t.kind == "after":
                    found[at] = fixed[Ref("buffer", t.name)]
            groups[t.kind][f"{place.path}.{t.name}"] = found
    return values


def _value(t: Training, kept: list[dict[Ref, Array]], fixed: Mapping[Ref, Array]) -> Array:
    tokens = Axis(TOKENS.name, len(kept))
    stacked = {ref: np.stack([values[ref] for values in kept]) for ref in kept[0]}
    value = expression(along_tokens(t.value, tokens), order=t.indices)
    return value(Frame({**fixed, **stacked}))


def along_tokens(n: Node, tokens: Axis, i: Index | None = None) -> Node:
    """`n` with the axis of tokens made an ordinary one, in front of everything that differs by token."""
    if OPS[n.op].kind == "reduce" and any(j.axis == TOKENS for j in n.arg):
        i = Index(next(j.name for j in n.arg if j.axis == TOKENS), tokens)
        bound = tuple(i if j.axis == TOKENS else j for j in n.arg)
        return build.node(n.op, along_tokens(n.args[0], tokens, i), arg=bound, span=n.span)
    args = tuple(along_tokens(a, tokens, i) for a in n.args)
    if n.op == "read":
        ref, view = n.arg.ref, n.arg.view
        if ref.kind in ("param", "buffer"):
            return build.read(ref, view, args, n.dtype, n.span)
        if i is None:
            raise ValueError(f"{n.span}: `{ref.name}` differs by token and is read outside a reduction over tokens")
        return build.read(ref, (tokens, *view), (build.index(i), *args), n.dtype, n.span)
    return build.node(n.op, *args, arg=n.arg, span=n.span) if n.args else n
