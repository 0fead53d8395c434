"""The names of one op body: its formals, `let`s and `dim`s, and what its statements declare.

Input: an `OpValue`, the axes of its tensor formals and where it stands (`Context`).
Output: a `Frame` with every `when` decided and every `dim` solved; `Names` is what the body's static expressions see.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol

from cdrmix.check.axes.axes import AxisVar, Products
from cdrmix.check.body.draft import Draft
from cdrmix.check.body.symbols import Held, Local, Stored, Symbol
from cdrmix.check.body.tensors import Value
from cdrmix.check.body.waiting import Waiting
from cdrmix.check.help.other_languages import MODULES, in_general
from cdrmix.check.help.quote import quote, written
from cdrmix.check.names.catalogue import squashed
from cdrmix.check.names.mentions import defined, mentioned, nodes, whens
from cdrmix.check.names.modules import Lets, ModuleEnv
from cdrmix.check.names.needs import Ring, in_turn, surely
from cdrmix.check.names.scope import OpDecl, OpValue, Scope, Static
from cdrmix.check.names.statics import RUNTIME, evaluate, import_of, not_static, unknown
from cdrmix.check.names.values import CONTEXT, Failed, accept
from cdrmix.diagnose import NOWHERE, Report, Span
from cdrmix.ir.nodes import Cell
from cdrmix.syntax import ast


@dataclass(frozen=True, slots=True)
class Context:
    """Where an op stands: its layer, and the shapes of the carries that something above has written.

    `given`: the layer is an argument of an op around it, so that it is not the stack's.
    """

    layer: int | None = None
    layers: int | None = None
    carried: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    span: Span = NOWHERE
    given: bool = False

    def of(self, op: OpValue) -> Context:
        """The context inside an op: the layer that it was given, or that of its place."""
        args: dict[str, Any] = {name: value for name, value in op.args if name in CONTEXT}
        return replace(self, **args, given=True) if args else self


class Home(Protocol):
    """The elaborator, as an op body sees it."""

    lets: Lets
    settings: frozenset[str]

    def part(self, op: OpValue, given: Sequence[Sequence[AxisVar]], frame: Frame, span: Span) -> Cell | None:
        """The cell of a part; None after a mistake."""

    def acts(self, name: str | None) -> bool:
        """Whether a cell does something besides giving its result."""

    def check_reach(self, frame: Frame, also: Collection[ast.Stmt] = ()) -> None:
        """Report what leads nowhere in an op's body."""

    def check_bank(self, held: Held, cell: Cell, draft: Draft) -> None:
        """Report what an expert cannot hold."""


@dataclass(eq=False, slots=True)
class Frame:
    """One op body, of a cell or of a function written out in place (`pure`: as one expression).

    `seen` holds what was asked of the context: two places that agree on it share the cell.  `calling` is what the
    equation that calls the function still waits for.  `broken` are names that a mistake has left without a meaning:
    using them is no further mistake.  `unprimed` are equations that write a state without its prime.  `symbolic` are
    the `let`s as init rules read them, in terms of the layer.
    """

    draft: Draft
    op: OpValue
    context: Context
    home: Home
    seen: dict[tuple[str, ...], object]
    parent: Frame | None = None
    prefix: str = ""
    pure: bool = False
    calling: Waiting | None = None
    statics: dict[str, Static] = field(default_factory=dict)
    lets: dict[str, tuple[ast.Let, Scope]] = field(default_factory=dict)
    dims: list[tuple[ast.Dim, Scope]] = field(default_factory=list)
    axes: dict[str, AxisVar] = field(default_factory=dict)
    products: Products = field(default_factory=Products)
    symbols: dict[str, Symbol] = field(default_factory=dict)
    following: dict[str, Local] = field(default_factory=dict)
    statements: list[tuple[ast.Stmt, Scope]] = field(default_factory=list)
    spans: dict[str, Span] = field(default_factory=dict)
    busy: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    unprimed: list[Local] = field(default_factory=list)
    symbolic: dict[str, Value] = field(default_factory=dict)
    formals: Mapping[str, ast.Formal] = field(init=False)
    _failed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.formals = {f.name: f for f in self.op.op.formals}

    @property
    def decl(self) -> OpDecl:
        """The op's declaration."""
        return self.op.op

    @property
    def report(self) -> Report:
        """Where mistakes go."""
        return self.draft.report

    def names(self, scope: Scope) -> Names:
        """What a static expression of a statement in that file sees."""
        return Names(self, scope)

    def scope_of(self, node: ast.Syntax, around: Scope) -> Scope:
        """The file in which the names of a statement resolve."""
        return self.decl.scopes.get(id(node), around)

    def formal(self, name: str) -> ast.Formal | None:
        """The formal of that name."""
        return self.formals.get(name)

    def static(self, name: str) -> Static | None:
        """The value of a static name of this body, or None when it has none."""
        if name in self.statics:
            return self.statics[name]
        if self._text(name) is None:
            return None
        try:
            for needed in in_turn(name, self._needs):
                if needed not in self._failed:
                    self._compute(needed)
        except Ring as ring:
            self.fail_ring(ring.names)
        if name in self._failed:
            raise Failed
        return self.statics[name]

    def runs(self, expr: ast.Expr) -> bool:
        """Whether an expression reads what only the running program knows; `carried(v0)` only asks for it."""
        calls = [n for n in nodes(expr) if isinstance(n, ast.Call) and isinstance(n.base, ast.Name)]
        asked = {id(a.value) for n in calls if n.base.id == "carried" for a in n.args}  # type: ignore[attr-defined]
        return any(
            (isinstance(self.symbols.get(n.id), Stored | Local) or n.id in RUNTIME and not self.own(n.id))
            and n.id not in self.broken
            for n in nodes(expr)
            if isinstance(n, ast.Name | ast.Primed) and id(n) not in asked
        )

    def _text(self, name: str) -> tuple[ast.Expr, Scope] | None:
        """The expression that gives a name its static value: a `let`'s, or a default."""
        if name in self.lets:
            stmt, scope = self.lets[name]
            if self.runs(stmt.value):
                self.broken.add(name)
                wrong = f"a `let` is known before the program runs, `{quote(stmt.value)}` is not"
                help = f"an equation has no `let`: write `{name} = {written(stmt.value)}`"
                self.draft.fail("E0213", stmt.span, wrong, help)
            return stmt.value, scope
        formal = self.formal(name)
        if formal is None or formal.default is None or formal.kind in ("tensor", "index"):
            return None
        return formal.default, self.scope_of(formal, self.decl.scope)

    def _needs(self, name: str) -> list[str]:
        """The names of this body without a value yet that a static name surely needs."""
        text = self._text(name)
        return [n for n in surely(text[0]) if n not in self.statics and self._text(n)] if text else []

    def _compute(self, name: str) -> None:
        """Evaluate a static name; what it may need besides is evaluated by need."""
        if name in self.busy:
            self.fail_ring(self.busy[self.busy.index(name) :])
        text, formal = self._text(name), self.formal(name)
        assert text is not None
        self.busy.append(name)
        try:
            value = evaluate(text[0], self.names(text[1]), self.report)
            if name not in self.lets and formal is not None:
                value = accept(value, formal.kind, f"`{name}` of op `{self.decl.name}`", text[0].span, self.report)
            self.statics[name] = value
        except Failed:
            self._failed.add(name)
        finally:
            self.busy.pop()

    def fail_ring(self, names: Sequence[str]) -> NoReturn:
        """Report static names that need one another."""
        self._failed.update(names)
        at = self.lets[names[0]][0].span if names[0] in self.lets else self.formals[names[0]].span
        self.draft.fail("E0206", at, f"`{names[0]}` needs itself: {' → '.join((*names, names[0]))}",
                        "give one of them a value of its own")  # fmt: skip

    def placed(self, name: str, span: Span) -> int:
        """`layer` or `layers` as a number."""
        value = self.context.layer if name == "layer" else self.context.layers
        if value is None:
            self.outside(name, span)
        self.seen[(name,)] = value
        return value

    def ask(self, op: OpValue, asked: Mapping[tuple[str, ...], object]) -> None:
        """Note what an op inside this one asked of the place; a layer that it was given is not the place's."""
        args = dict(op.args)
        where = {"layer": "layer", "layers": "layers", "inside": "layer"}
        self.seen.update({q: answer for q, answer in asked.items() if where.get(q[0]) not in args})

    def outside(self, name: str, span: Span) -> NoReturn:
        """Report `layer` where there is none."""
        self.broken.update(CONTEXT)
        self.draft.fail("E0212", span, f"`{name}` is used outside any `repeat layer`",
                        f"call `{self.decl.name}` inside one, or give `layer=0, layers=1`")  # fmt: skip

    def is_carried(self, name: str) -> tuple[int, ...] | None:
        """The shape of a carry that something above has written, or None."""
        shape = self.context.carried.get(name)
        self.seen[("carry", name)] = shape
        return shape

    def visible(self, name: str, scope: Scope) -> bool:
        """Whether a name stands for something here, so that it cannot be an index."""
        return self.own(name) or name in CONTEXT or name in RUNTIME or name in scope.ops or name in scope.lets

    def own(self, name: str) -> bool:
        """Whether the body itself gives the name a meaning."""
        return name in self.symbols or name in self.statics or name in self.lets or self.formal(name) is not None

    def lacks(self, name: str, scope: Scope) -> bool:
        """Whether a name stands for nothing, and nothing has been said of it."""
        told = name in self.broken or name in scope.broken or self.left_out(name) is not None
        return not told and not self.visible(name, scope) and self.static(name) is None

    def left_out(self, name: str) -> ast.When | None:
        """The `when` that defines a name in a branch that is not taken."""
        return next((w for w in whens(self.decl.body) if any(name in defined(s) for s in (*w.body, *w.other))), None)

    def all_names(self, scope: Scope) -> Iterator[str]:
        """For `did you mean`."""
        yield from (name for name in self.symbols)
        yield from self.statics
        yield from self.lets
        yield from (f.name for f in self.decl.formals)
        yield from scope.ops
        yield from scope.lets

    def declare(self, name: str, symbol: Symbol) -> None:
        """Give a name its meaning; a second one is a mistake."""
        if self.is_new(name, symbol.span):
            self.symbols[name] = symbol

    def is_new(self, name: str, span: Span) -> bool:
        """Whether a name is still free; reports it otherwise."""
        first = self.spans.get(name)
        if first is not None:
            at = f"{first.line}:{first.col}"
            help = "one equation a name: give this value a name of its own, and read that below"
            self.draft.error("E0205", span, f"`{name}` is defined twice (first at {at})", help)
            self.broken.add(name)
        elif name.removesuffix("'") in (*CONTEXT, *RUNTIME):
            self.draft.error("E0205", span, f"`{name}` has a meaning in the language", "choose another name")
        else:
            self.spans[name] = span
            return True
        return False


@dataclass(frozen=True, slots=True)
class Names:
    """What a static expression in an op body sees: an `Env`."""

    frame: Frame
    scope: Scope

    def name(self, node: ast.Name) -> Static:
        frame, name = self.frame, node.id
        value = frame.static(name)
        if value is not None:
            return value
        if name in frame.broken:
            raise Failed
        if name in frame.symbols:
            symbol = frame.symbols[name]
            if isinstance(symbol, Held):
                frame.draft.fail("E0216", node.span, f"`{name}` is a part, not a value", f"apply it: `{name}(…)`")
            not_static(node, frame.report)
        if name in CONTEXT:
            return frame.placed(name, node.span)
        self.check_dims(node)
        found = ModuleEnv(self.scope, frame.report, frame.home.lets).lookup(name, node.span)
        if found is None:
            self.unknown(node)
        return found

    def path(self, node: ast.Path) -> Static:
        self.unknown(node)

    def call(self, node: ast.Call) -> Static | None:
        """`carried(v0)`."""
        match node:
            case ast.Call(base=ast.Name(id="carried"), args=(ast.Arg(name=None, value=ast.Name(id=name)),)):
                symbol = self.frame.symbols.get(name)
                if isinstance(symbol, Stored) and symbol.kind == "carry":
                    return self.frame.is_carried(name) is not None
                self.frame.draft.fail("E0201", node.span, f"`{name}` is no carry of this op", f"declare `carry {name}`")
            case ast.Call(base=ast.Name(id="carried")):
                self.frame.draft.fail("E0209", node.span, "`carried` takes the name of one carry", "as `carried(v0)`")
        return None

    def is_open(self, name: str) -> bool:
        """Whether a `dim` that is not solved yet would give the name its value."""
        return any(name in mentioned(dim.value) or name == dim.name for dim, _ in self.frame.dims)

    def check_dims(self, node: ast.Name) -> None:
        """Report a name that a `dim` should have given a value."""
        for dim, _ in self.frame.dims:
            if node.id == dim.name or any(isinstance(n, ast.Name) and n.id == node.id for n in factors(dim.value)):
                self.frame.draft.fail("E0302", node.span, f"`{node.id}` has no value: `dim {dim.name}` is not solved",
                                      "give all but one of its names a value")  # fmt: skip

    def unknown(self, node: ast.Name | ast.Path) -> NoReturn:
        """Report a name that stands for nothing."""
        frame = self.frame
        name = node.id if isinstance(node, ast.Name) else ".".join(node.parts)
        if name in frame.broken:
            raise Failed
        models = [model for model, _ in self.scope.models.values()]
        settings = {s.name for model in models for s in model.body if isinstance(s, ast.Setting | ast.Group)}
        frame.broken.add(name)  # told once
        if (when := frame.left_out(name)) is not None:
            frame.draft.fail("E0201", node.span, f"`{name}` is defined only in the branch that the `when` of line "
                             f"{when.span.line} does not take",
                             "define it in the other branch too, or read it inside that one")  # fmt: skip
        first, _, rest = name.partition(".")
        if rest and frame.own(first):
            help = in_general(rest) if rest != "T" else f"a product with it is `y[j] = sum[i]({first}[i,j]*x[i])`"
            frame.draft.fail("E0201", node.span, f"`{first}` has nothing behind a dot, no `{rest}`",
                             help or "only a model's settings come in groups")  # fmt: skip
        if rest and first in MODULES:
            last = name.rpartition(".")[2]
            own = next((n for n in frame.all_names(self.scope) if squashed(n) == squashed(last)), "")
            help = f"write `{own}`" if own else import_of(last, self.scope, node.span) or in_general(last)
            help = help or "names have no module in front"
            frame.draft.fail("E0201", node.span, f"no name `{first}` here", help)
        if first in frame.home.settings or first in settings or isinstance(node, ast.Path):
            plain = name.rpartition(".")[2]
            frame.draft.fail("E0211", node.span, f"`{name}` is a model setting, ops do not see settings",
                             f"pass it as an argument: `{plain}: int` in the op, and "
                             f"`{frame.decl.name}({plain}={name})` where it is used")  # fmt: skip
        if name in RUNTIME:
            not_static(node, frame.report)  # type: ignore[arg-type]  # a path was dealt with above
        unknown(node, frame.all_names(self.scope), frame.report, self.scope)


def factors(expr: ast.Expr) -> list[ast.Expr]:
    """The factors of a product, in order."""
    match expr:
        case ast.Binary(op="*"):
            return [*factors(expr.left), *factors(expr.right)]
        case _:
            return [expr]
