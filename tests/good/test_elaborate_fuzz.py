"""Library ops with a name, number, operator or line changed: they are told what is wrong, or become IR that runs."""

from __future__ import annotations

import random
import re
from pathlib import Path

import cdrmix.spec
import numpy as np
import pytest

from cdrmix.check.body.elaborate import Context, Elaborator
from cdrmix.check.names.scope import OpValue, Static
from cdrmix.check.names.values import inputs
from cdrmix.diagnose import CompileError, Report
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Axis, Instance, Line, Model
from cdrmix.ir.verify import verify
from tests.good.elaborated import scope_of

LIB = Path(cdrmix.spec.__file__).parent / "lib"
TEXTS = {p.name: p.read_text(encoding="utf-8").replace('use "', 'use "lib/') for p in sorted(LIB.glob("*.cdr"))}
TOKEN = re.compile(r"#[^\n]*|[A-Za-z_]\w*'?|\d[\d_.e-]*|\"[^\"]*\"|//|->|>>|[<>=!]=|\s+|.")
KEYWORDS = frozenset({
    "op", "param", "state", "carry", "history", "part", "bank", "buffer", "after", "step", "aux", "metric", "require",
    "when", "else", "return", "let", "dim", "of", "last", "use", "as",
})  # fmt: skip
GIVEN: dict[str, Static] = {
    "N": 8, "V": 8, "P": 8, "hidden": 24, "heads": 4, "kv_heads": 2, "window": 3, "width": 4, "vocab": 32,
    "base": 100.0, "experts": 4,
}  # fmt: skip


def mutated(text: str, rng: random.Random) -> str:
    """The text with one thing changed."""
    tokens = TOKEN.findall(text)
    names = [i for i, t in enumerate(tokens) if t[0].isalpha() and t not in KEYWORDS]
    signs = [i for i, t in enumerate(tokens) if t in "+-*/@^%"]
    numbers = [i for i, t in enumerate(tokens) if t[0].isdigit()]
    what = rng.random()
    if what < 0.5:
        at = rng.choice(names)
        tokens[at] = tokens[rng.choice([i for i in names if abs(i - at) < 120])]
    elif what < 0.65 and signs:
        tokens[rng.choice(signs)] = rng.choice(["+", "-", "*", "/", "//", "@", "%", "^"])
    elif what < 0.75 and numbers:
        tokens[rng.choice(numbers)] = rng.choice(["0", "1", "2", "64", "1.5", "layer", "pos"])
    elif what < 0.85:
        tokens[rng.choice(names)] += rng.choice(["+1", "[0]", "[i]", "'", "(x)", " as [D]", "//2", "[h,n]", "[t]"])
    else:
        lines = text.split("\n")
        del lines[rng.randrange(len(lines))]
        return "\n".join(lines)
    return "".join(tokens)


@pytest.mark.parametrize("seed", range(60))
def test_changed_texts_are_told_or_run(seed: int) -> None:
    rng = random.Random(seed)
    text = mutated(TEXTS[rng.choice(list(TEXTS))], rng)
    try:
        scope = scope_of(text)
    except CompileError:
        return
    expert = OpValue(scope_of('use "lib/channel_mix.cdr" { relu2 }').ops["relu2"], (("hidden", 8),))
    for op in scope.ops.values():
        report = Report()
        elaborator = Elaborator(report)
        given = {**GIVEN, "expert": expert}
        args = tuple((f.name, given[f.name]) for f in op.formals if f.name in given)
        shapes = [[Axis("?", 16 if len(f.type.dims) == 1 else 4)] * len(f.type.dims) if f.type else []
                  for f in inputs(op)]  # fmt: skip
        name = elaborator.cell(OpValue(op, args), shapes, Context(0, 2))
        assert (name is None) == bool(report.diagnostics)
        if name is None:
            continue
        size = int(np.prod([a.size for a in shapes[0]])) if shapes else 0
        model = Model("m", 0, size, (Line("m", False, (Instance("m", name, 0, 2),)),), elaborator.cells)
        verify(model)
        if len(shapes) == 1 and inputs(op)[0].type is not None:
            with np.errstate(all="ignore"):
                try:
                    weights = random_weights(model, 0)
                except CompileError as told:  # an init rule with no finite value
                    assert [d.code for d in told.diagnostics] == ["E0215"]
                    continue
                xs = list(np.random.default_rng(seed).standard_normal((3, *(a.size for a in shapes[0]))))
                Interpreter(model, weights).run(xs, collect=True)
