"""Random expressions, with and without windows, and random recurrences: the generated torch in float64 is the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings

from cdrmix.compiler import lower
from cdrmix.ir import build, walk
from cdrmix.ir.build import add, const, mul, reduce
from cdrmix.ir.nodes import Cell, Def, History, Index, Model, Node, Param, Ref
from tests.conformance.torch_agree import Array, Pair, resets_of, rms
from tests.good.cells import Known, model_of
from tests.good.handmade import ZERO, D, at, cell, define, model
from tests.good.known_cells import CELLS
from tests.good.odd_cells import MORE
from tests.good.test_ir_random import expressions
from tests.good.test_sequence_form_random import draw

torch.set_num_threads(1)
NAMED = {**CELLS, **MORE, **{f"drawn {seed}": Known(draw(seed), "") for seed in range(12)}}


def cell_over(e: Node, windows: bool) -> Cell:
    """An op whose output is `e` summed up; its names are params, values of the input and, with `windows`, histories."""
    names = {r.arg.ref.name: r.arg.view for r in walk.reads(e)}
    twice = {r.arg.ref.name for r in walk.reads(e) if len({a.arg for a in r.args}) < len(r.args)}
    by, params, defs, histories = {}, [], [], []
    for n, (name, view) in enumerate(sorted(names.items())):
        indices = tuple(Index(f"p{n}_{q}", a) for q, a in enumerate(view))
        given = reduce("mean", (Index(f"s{n}", D),), at("input", "x", Index(f"s{n}", D)))
        kind = "def" if n % 2 else "param"
        if windows and n % 3 == 0 and view[0] == D and name not in twice:
            kind = "history"
        own = indices[1:] if kind == "history" else indices
        params.append(Param(f"w_{name}", own, ZERO))
        held = build.read(Ref("param", f"w_{name}"), [i.axis for i in own], own)
        match kind:
            case "param":
                by[Ref("def", name)] = Ref("param", f"w_{name}")
            case "def":
                defs.append(Def(Ref("def", name), indices, mul(held, given)))
            case _:
                by[Ref("def", name)] = Ref("history", f"h_{name}")
                histories.append(History(f"h_{name}", D, view[1:]))
                defs.append(Def(Ref("history", f"h_{name}"), own, mul(held, given)))
    e = walk.rename_refs(e, by)  # type: ignore[arg-type]
    bound = tuple(Index(f"z_{i.name}", i.axis) for i in e.free)
    whole = build.read(Ref("def", "v"), [i.axis for i in bound], bound, e.dtype)
    d = Index("dd", D)
    total = add(reduce("sum", bound, mul(whole, const(1.0))), mul(const(0.0), at("input", "x", d)))
    out = define("output", "out", (d,), total)
    made = (*defs, Def(Ref("def", "v"), e.free, e, e.dtype), out)
    return cell("drawn", *made, params=tuple(params), histories=tuple(histories))


def agrees(m: Model, x: Array, reset: Array | None) -> None:
    """Forward and step in float64 are the interpreter."""
    pair = Pair(m)
    pair.module.double()
    want = pair.interpreted(x, reset)
    marks = None if reset is None else torch.from_numpy(reset)[None]
    with torch.no_grad():
        got, state = pair.module(torch.from_numpy(x)[None], None, marks)
        np.testing.assert_allclose(got[0].numpy(), want.logits, rtol=1e-6, atol=1e-6)
        for path, value in want.state.items():
            assert rms(state[path][0].numpy(), value) <= 1e-8, path
        now, whole = pair.module.init_state(1), pair.interpreted(x)  # type: ignore[operator]
        for t, row in enumerate(x):
            y, now = pair.module.step(torch.from_numpy(row)[None], now)  # type: ignore[operator]
            np.testing.assert_allclose(y[0].numpy(), whole.logits[t], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("windows", [False, True])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(expressions())
def test_random_expressions(windows: bool, e: Node) -> None:
    assume(all(m.op != "sign" for m in walk.nodes(e)))  # a rounding error would be one of two
    m = lower(model(cell_over(e, windows))).program.model
    agrees(m, np.random.default_rng(0).normal(size=(8, 6)), resets_of(8) if windows else None)


@pytest.mark.parametrize("name", NAMED)
def test_known_and_random_recurrences(name: str, tmp_path: Path) -> None:
    m = model_of(NAMED[name], tmp_path)
    agrees(m, np.random.default_rng(1).normal(size=(19, 5)) * 0.7, resets_of(19))
