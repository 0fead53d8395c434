"""Ops from strings to cells, for tests of the elaborator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cdrmix.check.body.elaborate import Context, Elaborator
from cdrmix.check.names.scope import OpValue, Scope, Static
from cdrmix.check.names.values import inputs
from cdrmix.check.session import Session
from cdrmix.diagnose import Diagnostic, Report
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Axis, Cell, Def, Instance, Line, Model
from cdrmix.ir.verify import verify_cell

Array = NDArray[np.float64]


@dataclass
class Elaborated:
    """What came of an op: its cell, or the mistakes."""

    cell: Cell | None
    cells: Mapping[str, Cell]
    said: list[Diagnostic] = field(default_factory=list)

    def model(self) -> Model:
        """The cell as a model of one line."""
        assert self.cell is not None, [d.message for d in self.said]
        width = int(np.prod([a.size for a in self.cell.inputs[0].axes]))
        line = Line("m", False, (Instance("m", self.cell.name, 0, 2),))
        return Model("m", 0, width, (line,), self.cells)

    def definition(self, name: str) -> Def:
        """The one of that name."""
        assert self.cell is not None, [d.message for d in self.said]
        return next(d for d in self.cell.body if isinstance(d, Def) and d.ref.name == name)

    def run(self, tokens: Sequence[Array]) -> tuple[Array, dict[str, Array]]:
        """The outputs at each token, and the random weights they were computed with, by name."""
        model = self.model()
        weights = random_weights(model, 0)
        found = Interpreter(model, weights).run(list(tokens)).logits
        return found, {path.removeprefix("m."): w.astype(np.float64) for path, w in weights.items()}


def scope_of(text: str) -> Scope:
    """The names of a text that stands beside the library's models."""
    session = Session()
    with session.errors():
        file = session.loader.text(text, "spec.cdr")
        session.stop()
    assert file is not None
    return file.scope


def elaborate(
    text: str,
    op: str = "f",
    sizes: Sequence[Sequence[int]] | None = None,
    args: Mapping[str, Static] | None = None,
    context: Context | None = None,
) -> Elaborated:
    """An op of a text; every axis of its inputs has 8 places unless `sizes` says otherwise."""
    decl = scope_of(text).ops[op]
    report = Report()
    elaborator = Elaborator(report)
    given = sizes if sizes is not None else [[8] * len(f.type.dims) if f.type else [] for f in inputs(decl)]
    axes = [[Axis("?", n) for n in shape] for shape in given]
    name = elaborator.cell(OpValue(decl, tuple((args or {}).items())), axes, context or Context(0, 2))
    checked: dict[str, Cell] = {}
    for key, cell in elaborator.cells.items():
        verify_cell(cell, checked)
        checked[key] = cell
    return Elaborated(elaborator.cells[name] if name is not None else None, elaborator.cells, report.diagnostics)


def tokens(shape: Sequence[int], count: int = 6) -> list[Array]:
    """Random inputs."""
    rng = np.random.default_rng(1)
    return [rng.standard_normal(shape) for _ in range(count)]


def agrees(text: str, shape: Sequence[int], reference: Callable[[Array, dict[str, Array]], Array]) -> None:
    """Check an op without state against numpy, token by token."""
    found = elaborate(text, sizes=[shape])
    fed = tokens(shape, 3)
    outputs, weights = found.run(fed)
    for x, y in zip(fed, outputs, strict=True):
        np.testing.assert_allclose(y, reference(x, weights), rtol=1e-12, atol=1e-12)
