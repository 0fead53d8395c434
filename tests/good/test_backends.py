"""What every backend promises the compiler: a primitive that it has no rule for is refused, with its place."""

from __future__ import annotations

import numpy as np
import pytest

from cdrmix.check import expressions, load_text
from cdrmix.compiler import TARGETS, emit, lower
from cdrmix.diagnose import CompileError
from cdrmix.ir import ops
from tests.small import ADDS

PLACES = {
    "an equation": ("S' = keep * S + x", "S' = keep * frob(S) + x"),
    "what does not vary": ("return S'", "s = sum[i](frob(keep[i] * x[i])) ⏎ return S' * s"),
    "a reduction": ("S' = keep * S + x", "S' = keep * S + frobs[i < D](x[i])"),
}


@pytest.fixture
def frob(monkeypatch: pytest.MonkeyPatch) -> None:
    """The language with a function and a reduction more than any backend knows."""
    function = ops.Op("frob", "elementwise", 1, "frob", np.square)
    reduction = ops.Op("frobs", "reduce", 1, "frobs", np.sum)
    for row, known in ((function, ops.FUNCTIONS), (reduction, ops.REDUCTIONS)):
        monkeypatch.setitem(ops.OPS, row.name, row)
        monkeypatch.setitem(known, row.name, row)
    monkeypatch.setitem(expressions.OPERATORS, "frob", "frob")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_primitive_without_a_rule_is_refused_where_it_stands(frob: None, target: str, place: str) -> None:
    old, new = PLACES[place]
    text = ADDS.replace(old, new.replace(" ⏎ ", "\n  "))
    with pytest.raises(CompileError) as refused:
        emit(lower(load_text(text, "frob.cdr")), target)
    (found,) = refused.value.diagnostics
    assert (found.code, found.help) == ("E0901", "no target has it yet")
    assert "frob" in text.splitlines()[found.span.line - 1] and f"cannot be compiled for {target}" in found.message
