"""The interpreter's cells: one token through one instance of a cell.

Input: the cell, where it stands, what its formals are at this token, and the state before the token.
Output: the cell's value; the state after the token, carries and what training values need are left in the `Token`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from cdrmix.ir.interp_expr import Array, Expression, Frame, cast, expression
from cdrmix.ir.nodes import Apply, Cell, Def, DType, Ref, Stmt, Top
from cdrmix.ir.types import param_types, rounded
from cdrmix.ir.walk import Windows, around, refs, roots, sizes, windows

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


Action = Callable[["_Run"], None]


@dataclass(slots=True)
class _Run:
    site: Site
    token: Token
    frame: Frame


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
        self.actions = [self._action(s, over_window) for s in cell.body]
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
        run = _Run(site, token, Frame(values, {"pos": token.pos}, seen))
        for action in self.actions:
            action(run)
        if token.recording is not None and cell.training:
            kept = {r: values[r] for r in self.recorded}
            token.recording.setdefault((site.path, site.banks), []).append(kept)
        return values[Ref("output", "out")]

    def _held(self, value: Array, dtype: DType) -> Array:
        return rounded(value, dtype) if self.rounding else value

    def _action(self, stmt: Stmt, over_window: Windows) -> Action:
        if isinstance(stmt, Apply):
            return self._apply(stmt)
        (root,) = roots(stmt)
        value = expression(root, over_window, around(stmt), self.types)
        return self._define(stmt, value) if isinstance(stmt, Def) else _top(stmt, value)

    def _define(self, d: Def, value: Expression) -> Action:
        kind, name, key = cast(d.dtype), d.ref.name, d.ref
        if d.ref.kind == "history":
            return self._enter(d, value)
        from_above = any(c.name == name and c.reads for c in self.cell.carries)

        def define(run: _Run) -> None:
            result = self._held(np.asarray(value(run.frame), kind), d.dtype)
            match key.kind:
                case "next":
                    run.token.new[f"{run.site.path}.{name}"][run.site.banks] = result
                case "carry":
                    run.token.carries[name] = result
                    if from_above:
                        return
            run.frame.values[key] = result

        return define

    def _enter(self, d: Def, value: Expression) -> Action:
        """This token's entry of a history, put in front of the ones that are there."""
        window = next(h.window.size for h in self.cell.histories if h.name == d.ref.name)

        def enter(run: _Run) -> None:
            path, banks, new = f"{run.site.path}.{d.ref.name}", run.site.banks, run.token.new
            count = int(run.token.old[f"{path}.count"][banks])
            past = run.token.old[path][banks][:count]
            entry = self._held(np.asarray(value(run.frame), np.float64), d.dtype)
            entries = np.concatenate([entry[None], past])
            run.frame.values[d.ref] = entries
            keep = min(count + 1, window - 1)
            new[path][banks][:keep] = entries[:keep]
            new[f"{path}.count"][banks] = keep

        return enter

    def _apply(self, a: Apply) -> Action:
        part, runner = next(p for p in self.cell.parts if p.name == a.part), self.parts[a.part]
        select = expression(a.select, {}, a.lead) if a.select is not None else None
        taken = [(g.ref, [a.lead.index(i) for i in g.lead]) for g in a.inputs]

        def apply(run: _Run) -> None:
            values, path, banks = run.frame.values, f"{run.site.path}.{a.part}", run.site.banks
            chosen = select(run.frame) if select is not None else None
            if chosen is not None and runner.stateful and len(set(chosen.flat)) < chosen.size:
                raise ValueError(f"{a.span}: an expert of `{part.name}` with state is chosen twice by one token")
            result = np.empty(sizes((*a.lead, *a.outs)))
            for at in np.ndindex(*sizes(a.lead)):
                inputs = tuple(values[ref][tuple(at[p] for p in ps)] for ref, ps in taken)
                site = Site(path, banks if chosen is None else (*banks, int(chosen[at])))
                result[at] = runner.run(site, inputs, run.token)
            values[Ref("def", a.name)] = result

        return apply


def _top(t: Top, source: Expression) -> Action:
    def top(run: _Run) -> None:
        found = source(run.frame)
        places = np.argsort(-found.astype(np.float64, copy=False), axis=-1, kind="stable")[..., : t.k.axis.size]
        if t.values is not None:
            run.frame.values[Ref("def", t.values)] = np.take_along_axis(found, places, -1)
        if t.picks is not None:
            run.frame.values[Ref("def", t.picks)] = places

    return top
