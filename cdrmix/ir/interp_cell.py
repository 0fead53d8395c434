"""The interpreter's cells: one token through one instance of a cell.

Input: the cell, where it stands, what its formals are at this token, and the state before the token.
Output: the cell's value; the state after the token, carries and what training values need are left in the `Token`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cdrmix.ir.interp_expr import Array, Frame, cast, expression
from cdrmix.ir.nodes import Apply, Cell, Def, DType, Ref, Top
from cdrmix.ir.types import param_types, rounded
from cdrmix.ir.walk import around, refs, roots, sizes, windows

Banks = tuple[int, ...]
Recording = dict[tuple[str, Banks], list[dict[Ref, Array]]]


@dataclass(slots=True)
class Token:
    """One token on its way through the model; `old` is the state before it, `new` the one after it."""

    pos: int
    old: Mapping[str, Array]
    new: dict[str, Array]
    carries: dict[str, Array] = field(default_factory=dict)
    recording: Recording | None = None


Weights = Callable[[str, Cell, Banks], Mapping[Ref, Array]]
"""Gives the params and buffers of a cell by the path where it stands and the chosen instances around it."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a cell runs: its path and the chosen instance of each bank around it."""

    path: str
    banks: Banks = ()


class Runner:
    """A cell made ready to run; with `rounding`, what it names and what meets a matrix is rounded."""

    def __init__(self, cell: Cell, runners: Mapping[str, Runner], weights: Weights, rounding: bool = False):
        self.cell = cell
        self.weights = weights
        self.rounding = rounding
        self.types = param_types(cell) if rounding else {}
        self.parts = {p.name: runners[p.cell] for p in cell.parts}
        self.stateful: bool = bool(cell.states or cell.histories) or any(p.stateful for p in self.parts.values())
        over_window = windows(cell)
        self.body = [(s, [expression(n, over_window, around(s), self.types) for n in roots(s)]) for s in cell.body]
        fixed = {"param", "buffer"}
        self.recorded = {r for t in cell.training for r in refs(t.value) if r.kind not in fixed}

    def run(self, site: Site, inputs: tuple[Array, ...], token: Token) -> Array:
        """One token through the cell at `site`."""
        cell, old = self.cell, token.old
        values = dict(self.weights(site.path, cell, site.banks))
        for formal, value in zip(cell.inputs, inputs, strict=True):
            values[Ref("input", formal.name)] = self._held(value, formal.dtype).reshape([a.size for a in formal.axes])
        for state in cell.states:
            values[Ref("state", state.name)] = old[f"{site.path}.{state.name}"][site.banks]
        for carry in cell.carries:
            if carry.reads:
                values[Ref("carry", carry.name)] = token.carries[carry.name]
        seen = max((int(old[f"{site.path}.{h.name}.count"][site.banks]) for h in cell.histories), default=0)
        frame = Frame(values, {"pos": token.pos}, seen)
        for stmt, computed in self.body:
            found: Any = next((compute(frame) for compute in computed), None)
            match stmt:
                case Def():
                    self._define(stmt, found, site, token, values)
                case Top():
                    _choose(stmt, found, values)
                case Apply():
                    values[Ref("def", stmt.name)] = self._advance(stmt, found, site, token, values)
        if token.recording is not None and cell.training:
            kept = {r: values[r] for r in self.recorded}
            token.recording.setdefault((site.path, site.banks), []).append(kept)
        return values[Ref("output", "out")]

    def _held(self, value: Array, dtype: DType) -> Array:
        return rounded(value, dtype) if self.rounding else value

    def _define(self, d: Def, found: Array, site: Site, token: Token, values: dict[Ref, Array]) -> None:
        name, result = d.ref.name, self._held(np.asarray(found, cast(d.dtype)), d.dtype)
        match d.ref.kind:
            case "history":
                result = self._enter(name, result, site, token)
            case "next":
                token.new[f"{site.path}.{name}"][site.banks] = result
            case "carry":
                token.carries[name] = result
                if any(c.name == name and c.reads for c in self.cell.carries):
                    return
        values[d.ref] = result

    def _enter(self, name: str, entry: Array, site: Site, token: Token) -> Array:
        """This token's entry of a history, in front of the ones that are there."""
        window = next(h.window.size for h in self.cell.histories if h.name == name)
        path, banks = f"{site.path}.{name}", site.banks
        count = int(token.old[f"{path}.count"][banks])
        entries = np.concatenate([entry[None], token.old[path][banks][:count]])
        keep = min(count + 1, window - 1)
        token.new[path][banks][:keep] = entries[:keep]
        token.new[f"{path}.count"][banks] = keep
        return entries

    def _advance(self, a: Apply, chosen: Array | None, site: Site, token: Token, values: Mapping[Ref, Array]) -> Array:
        """What a part gives, or the chosen instances of a bank."""
        runner = self.parts[a.part]
        if chosen is not None and runner.stateful and len(set(chosen.flat)) < chosen.size:
            raise ValueError(f"{a.span}: an expert of `{a.part}` with state is chosen twice by one token")
        result = np.empty(sizes((*a.lead, *a.outs)))
        for at in np.ndindex(*sizes(a.lead)):
            place = dict(zip(a.lead, at, strict=True))
            inputs = tuple(values[g.ref][tuple(place[i] for i in g.lead)] for g in a.inputs)
            banks = site.banks if chosen is None else (*site.banks, int(chosen[at]))
            result[at] = runner.run(Site(f"{site.path}.{a.part}", banks), inputs, token)
        return result


def _choose(t: Top, source: Array, values: dict[Ref, Array]) -> None:
    places = np.argsort(-source.astype(np.float64, copy=False), axis=-1, kind="stable")[..., : t.k.axis.size]
    if t.values is not None:
        values[Ref("def", t.values)] = np.take_along_axis(source, places, -1)
    if t.picks is not None:
        values[Ref("def", t.picks)] = places
