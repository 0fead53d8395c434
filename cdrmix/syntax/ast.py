"""The abstract syntax of a `.cdr` file: what the parser returns and the checker reads.

Every node is frozen and carries the `Span` of its text.  Nothing here knows names, axes or types.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdrmix.diagnose import Span


@dataclass(frozen=True, slots=True)
class Syntax:
    """Any node."""

    span: Span


# --- expressions -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Expr(Syntax):
    """Any expression."""


@dataclass(frozen=True, slots=True)
class Num(Expr):
    """A number; `value` is an int when the text has neither point nor exponent."""

    value: int | float


@dataclass(frozen=True, slots=True)
class Str(Expr):
    """A string, without its quotes."""

    value: str


@dataclass(frozen=True, slots=True)
class Bool(Expr):
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True, slots=True)
class Name(Expr):
    """`x`."""

    id: str


@dataclass(frozen=True, slots=True)
class Primed(Expr):
    """`S'`; `id` is without the prime."""

    id: str


@dataclass(frozen=True, slots=True)
class Path(Expr):
    """`moe.experts`: two names or more."""

    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unary(Expr):
    """`op` is `-` or `not`."""

    op: str
    arg: Expr


@dataclass(frozen=True, slots=True)
class Binary(Expr):
    """`op` is one of `+ - * / // % @ ^ == != <= >= < > and or`."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class IfElse(Expr):
    """`then if cond else other`."""

    then: Expr
    cond: Expr
    other: Expr


@dataclass(frozen=True, slots=True)
class Index(Expr):
    """`base[items]`.  `sum[k]`, `top[k < n]`, `F[pick[k]]` and `x[h, n]` all read like this."""

    base: Expr
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Arg(Syntax):
    """One argument of a call; `name` is None for a positional one."""

    name: str | None
    value: Expr


@dataclass(frozen=True, slots=True)
class Call(Expr):
    """`base(args)`."""

    base: Expr
    args: tuple[Arg, ...]


@dataclass(frozen=True, slots=True)
class TypeExpr(Syntax):
    """`f32[H, N]`; `dtype` is None when not written; `[]` has no dims."""

    dtype: str | None
    dims: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Reshape(Expr):
    """`base as [D]`."""

    base: Expr
    type: TypeExpr


@dataclass(frozen=True, slots=True)
class Compose(Expr):
    """`left >> right`."""

    left: Expr
    right: Expr


# --- statements of an op -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Attr(Syntax):
    """`!lr(2)`."""

    name: str
    args: tuple[Arg, ...]


@dataclass(frozen=True, slots=True)
class Stmt(Syntax):
    """Any statement."""


@dataclass(frozen=True, slots=True)
class Let(Stmt):
    """`let a = e`."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Dim(Stmt):
    """`dim D = H * N`."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Param(Stmt):
    """`param w: [i < D] ~ init !lr(2)`."""

    name: str
    type: TypeExpr
    init: Expr
    attrs: tuple[Attr, ...]


@dataclass(frozen=True, slots=True)
class State(Stmt):
    """`state S: f32[H, N] = 0`."""

    name: str
    type: TypeExpr
    init: Expr | None
    attrs: tuple[Attr, ...]


@dataclass(frozen=True, slots=True)
class Carry(Stmt):
    """`carry v0: [D]`."""

    name: str
    type: TypeExpr


@dataclass(frozen=True, slots=True)
class History(Stmt):
    """`history K: [N] last window = value`."""

    name: str
    type: TypeExpr
    window: Expr
    value: Expr
    attrs: tuple[Attr, ...]


@dataclass(frozen=True, slots=True)
class Part(Stmt):
    """`part f: op(…)`."""

    name: str
    op: Expr


@dataclass(frozen=True, slots=True)
class Bank(Stmt):
    """`bank F: [e < experts] of op(…) !capacity(c)`."""

    name: str
    count: Expr
    op: Expr
    attrs: tuple[Attr, ...]


@dataclass(frozen=True, slots=True)
class Buffer(Stmt):
    """`buffer bias: [experts] = 0`."""

    name: str
    type: TypeExpr
    init: Expr


@dataclass(frozen=True, slots=True)
class Target(Syntax):
    """A left side: `y`, `y[h, i]`, `S'[h]`, `_`; `items` is None without brackets."""

    name: str
    primed: bool
    items: tuple[Expr, ...] | None


@dataclass(frozen=True, slots=True)
class Equation(Stmt):
    """`targets = value !attrs`."""

    targets: tuple[Target, ...]
    value: Expr
    attrs: tuple[Attr, ...]


@dataclass(frozen=True, slots=True)
class AfterStep(Stmt):
    """`after step bias'[e] = …`."""

    equation: Equation


@dataclass(frozen=True, slots=True)
class Aux(Stmt):
    """`aux loss = e`."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Metric(Stmt):
    """`metric load[e] = e`."""

    target: Target
    value: Expr


@dataclass(frozen=True, slots=True)
class Require(Stmt):
    """`require cond, "message"`."""

    cond: Expr
    message: str | None


@dataclass(frozen=True, slots=True)
class When(Stmt):
    """`when cond { … } else { … }`; an `else when` is one nested statement in `other`."""

    cond: Expr
    body: tuple[Stmt, ...]
    other: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True)
class Return(Stmt):
    """`return e`."""

    value: Expr


@dataclass(frozen=True, slots=True)
class Drop(Stmt):
    """`drop a, b`."""

    names: tuple[Name, ...]


# --- items of a file -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Import(Syntax):
    """`name as alias`."""

    name: str
    alias: str | None


@dataclass(frozen=True, slots=True)
class Use(Syntax):
    """`use "lib/norm.cdr" { a, b as c }`."""

    path: str
    imports: tuple[Import, ...]


@dataclass(frozen=True, slots=True)
class Formal(Syntax):
    """`x: [D]`, `n: int = 4`, `f: op`, `id: index[vocab]`.

    `kind` is `tensor`, `int`, `float`, `bool`, `string`, `op` or `index`; `type` is set for `tensor`,
    `extent` (the size of the indexed axis) for `index`.
    """

    name: str
    kind: str
    type: TypeExpr | None
    extent: Expr | None
    default: Expr | None


@dataclass(frozen=True, slots=True)
class OpDef(Syntax):
    """`op name(formals) -> type { body }`; `doc` is the comment right above it."""

    name: str
    formals: tuple[Formal, ...]
    type: TypeExpr
    body: tuple[Stmt, ...]
    doc: str


@dataclass(frozen=True, slots=True)
class Derive(Syntax):
    """`op name(formals) = base with { body }`."""

    name: str
    formals: tuple[Formal, ...]
    base: str
    body: tuple[Stmt, ...]
    doc: str


@dataclass(frozen=True, slots=True)
class Setting(Syntax):
    """`layers = 24`."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Group(Syntax):
    """`moe { experts = 8 }`."""

    name: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class Line(Syntax):
    """`label: residual expr`."""

    label: str | None
    residual: bool
    value: Expr


@dataclass(frozen=True, slots=True)
class Repeat(Syntax):
    """`repeat layer < layers { lines }`."""

    name: str
    count: Expr
    lines: tuple[Syntax, ...]


@dataclass(frozen=True, slots=True)
class Branch(Syntax):
    """`if cond { lines } else { lines }`; an `else if` is one nested branch in `other`."""

    cond: Expr
    lines: tuple[Syntax, ...]
    other: tuple[Syntax, ...]


@dataclass(frozen=True, slots=True)
class Tie(Syntax):
    """`tie head.W = emb.E`."""

    left: tuple[str, ...]
    right: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stack(Syntax):
    """`stack { lines }`: `Line | Repeat | Branch | Tie | Let | Require`."""

    lines: tuple[Syntax, ...]


@dataclass(frozen=True, slots=True)
class Model(Syntax):
    """`model name extends base { … }`: `Setting | Group | Require | Stack`."""

    name: str
    extends: str | None
    body: tuple[Syntax, ...]
    doc: str


@dataclass(frozen=True, slots=True)
class Module(Syntax):
    """One file: `Use | Let | OpDef | Derive | Model`."""

    file: str
    items: tuple[Syntax, ...]
