"""What the names of an op body stand for.

Input: declarations and equations of the text.  Output: records that the elaborator fills in as it learns axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cdrmix.check.axes.axes import AxisVar, IndexVar
from cdrmix.check.body.draft import Unit
from cdrmix.check.body.tensors import Value
from cdrmix.check.names.scope import OpValue, Scope
from cdrmix.diagnose import Span
from cdrmix.ir.nodes import DType
from cdrmix.syntax import ast

Kind = Literal["input", "param", "state", "carry", "history", "buffer"]
Declaration = ast.Formal | ast.Param | ast.State | ast.Carry | ast.History | ast.Buffer


@dataclass(eq=False, slots=True)
class Stored:
    """A declared tensor.  `indices` are its axes, None until they are known; a history's window is not among them.

    `unit` defines a state's next value, a history's entry, a carry's new value.
    """

    kind: Kind
    name: str
    stmt: Declaration
    scope: Scope
    dtype: DType
    span: Span
    indices: tuple[IndexVar, ...] | None = None
    window: AxisVar | None = None
    into: AxisVar | None = None
    used: bool = False
    unit: Unit | None = None

    @property
    def varies(self) -> bool:
        """Whether it changes with the token."""
        return self.kind not in ("param", "buffer")


@dataclass(eq=False, slots=True)
class Local:
    """A name that an equation defines; `primed` for the next value of a state, a carry or a buffer.

    `value` is what it stands for, once known: a read of its definition, or in a function that is written as one
    expression the right side itself, over `indices`.
    """

    name: str
    stmt: ast.Equation
    target: ast.Target
    scope: Scope
    span: Span
    status: Literal["new", "busy", "done", "failed"] = "new"
    indices: tuple[IndexVar, ...] = ()
    value: Value | None = None
    unit: Unit | None = None

    @property
    def shown(self) -> str:
        """The name as the text has it."""
        return self.name + "'" * self.target.primed


@dataclass(eq=False, slots=True)
class Held:
    """A part or bank.  `calls` are the places that apply it; `index` names a bank's instances."""

    name: str
    stmt: ast.Part | ast.Bank
    scope: Scope
    span: Span
    op: OpValue | None = None
    index: IndexVar | None = None
    capacity: float = 0.0
    cell: str | None = None
    failed: bool = False
    calls: list[Span] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Bound:
    """A formal of a function whose call is written out in place."""

    name: str
    value: Value
    span: Span


Symbol = Stored | Local | Held | Bound
