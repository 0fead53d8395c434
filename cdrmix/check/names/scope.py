"""What a name of a module stands for: ops, constants and models, across files.

`loader` fills these; `statics`, the op elaborator and the model expander read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cdrmix.diagnose import Span
from cdrmix.syntax import ast

if TYPE_CHECKING:
    from cdrmix.check.names.catalogue import Catalogue


@dataclass(slots=True)
class Scope:
    """The names one file sees: its own and the imported.  `lets` are evaluated by need, in the file that wrote them;
    `broken` are names it lacks because of a mistake told elsewhere, `elsewhere` knows what it could import.
    """

    file: str
    ops: dict[str, OpDecl] = field(default_factory=dict)
    lets: dict[str, tuple[ast.Let, Scope]] = field(default_factory=dict)
    models: dict[str, tuple[ast.Model, Scope]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    elsewhere: Catalogue | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, eq=False, slots=True)
class OpDecl:
    """An op as it stands after every `with` above it was applied.

    Statements keep the spans of the files that wrote them.  `scopes` gives the scope in which a statement's names
    resolve where that is not `scope` (a derived op holds statements of two files): by `id(stmt)`.
    """

    name: str
    scope: Scope
    formals: tuple[ast.Formal, ...]
    type: ast.TypeExpr
    body: tuple[ast.Stmt, ...]
    doc: str
    span: Span
    base: OpDecl | None = None
    scopes: Mapping[int, Scope] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpValue:
    """An op with static arguments bound: `rwkv7(N=64)`.  Applying it gives the tensors."""

    op: OpDecl
    args: tuple[tuple[str, Static], ...] = ()
    span: Span | None = field(default=None, compare=False)


Static = int | float | bool | str | OpValue
"""A value known before the program runs."""
