"""Parse trees to the abstract syntax.

Input: a Lark tree of `cdr.lark`, with positions.  Output: an `ast.Module`; mistakes that the grammar lets through
(a chain too deep, a number too large, `@lr(2)` for `!lr(2)`) go to the `Report`.

One method a rule of the grammar, of the rule's name.
"""

from __future__ import annotations

from typing import Any

from cdrmix.diagnose import Span
from cdrmix.syntax import ast
from cdrmix.syntax.expressions import Expressions, Parsed

ATTRIBUTES = frozenset({"lr", "decay", "capacity"})


class Builder(Expressions):
    """Builds the abstract syntax of one file."""

    def doc(self, line: int) -> str:
        """The block of `#` lines right above line `line`."""
        first = line - 1
        while first > 0 and self.text[first - 1].startswith("#"):
            first -= 1
        return "\n".join(text.strip().lstrip("#").strip() for text in self.text[first : line - 1])

    def attributed(self, value: ast.Expr) -> ast.Expr:
        """`value`, where attributes may follow: `0 @lr(2)` is read as a product and was not meant so."""
        match value:
            case ast.Binary(op="@", right=ast.Call(base=ast.Name(id=name)) as call) if name in ATTRIBUTES:
                text = self.text[call.span.line - 1][call.span.col - 1 : call.span.end_col - 1]
                message = "`@` is the matrix product; attributes begin with `!`"
                self.report.error("E0107", call.span, message, f"write `!{text}`")
        return value

    # ---- items
    def start(self, t: Parsed) -> ast.Module:
        whole = Span(self.file, 1, 1, len(self.text), len(self.text[-1]) + 1)
        return ast.Module(whole, self.file, self.all(t.children))

    def use(self, t: Parsed) -> ast.Use:
        path, *imports = t.children
        return ast.Use(self.span(t), path[1:-1], self.all(imports))

    def imported(self, t: Parsed) -> ast.Import:
        name, alias = t.children
        return ast.Import(self.span(t), str(name), _text(alias))

    def let(self, t: Parsed) -> ast.Let:
        name, value = t.children
        return ast.Let(self.span(t), str(name), self(value))

    def op(self, t: Parsed) -> ast.OpDef:
        name, formals, type_, block = t.children
        span = self.span(t)
        return ast.OpDef(span, str(name), self.maybe(formals) or (), self(type_), self(block), self.doc(span.line))

    def derive(self, t: Parsed) -> ast.Derive:
        name, formals, base, block = t.children
        span = self.span(t)
        return ast.Derive(span, str(name), self.maybe(formals) or (), str(base), self(block), self.doc(span.line))

    def formals(self, t: Parsed) -> tuple[ast.Formal, ...]:
        return self.all(t.children)

    def formal(self, t: Parsed) -> ast.Formal:
        name, what, default = t.children
        kind, type_, extent = "tensor", None, None
        if what.data == "type":
            type_ = self(what)
        else:
            kind = str(what.children[0])
            extent = self(what.children[2]) if kind == "index" else None
        return ast.Formal(self.span(t), str(name), kind, type_, extent, self.maybe(default))

    # ---- statements
    def block(self, t: Parsed) -> tuple[ast.Stmt, ...]:
        return self.all(t.children)

    def dim(self, t: Parsed) -> ast.Dim:
        name, value = t.children
        return ast.Dim(self.span(t), str(name), self(value))

    def param(self, t: Parsed) -> ast.Param:
        name, type_, init, *attrs = t.children
        return ast.Param(self.span(t), str(name), self(type_), self.attributed(self(init)), self.all(attrs))

    def state(self, t: Parsed) -> ast.State:
        name, type_, init, *attrs = t.children
        return ast.State(self.span(t), str(name), self(type_), self.maybe(init), self.all(attrs))

    def carry(self, t: Parsed) -> ast.Carry:
        name, type_ = t.children
        return ast.Carry(self.span(t), str(name), self(type_))

    def history(self, t: Parsed) -> ast.History:
        name, type_, window, value, *attrs = t.children
        return ast.History(self.span(t), str(name), self(type_), self(window), self(value), self.all(attrs))

    def part(self, t: Parsed) -> ast.Part:
        name, op = t.children
        return ast.Part(self.span(t), str(name), self(op))

    def bank(self, t: Parsed) -> ast.Bank:
        name, count, op, *attrs = t.children
        return ast.Bank(self.span(t), str(name), self(count), self.attributed(self(op)), self.all(attrs))

    def buffer(self, t: Parsed) -> ast.Buffer:
        name, type_, init = t.children
        return ast.Buffer(self.span(t), str(name), self(type_), self(init))

    def after(self, t: Parsed) -> ast.AfterStep:
        return ast.AfterStep(self.span(t), self(t.children[0]))

    def aux(self, t: Parsed) -> ast.Aux:
        name, value = t.children
        return ast.Aux(self.span(t), str(name), self(value))

    def metric(self, t: Parsed) -> ast.Metric:
        target, value = t.children
        return ast.Metric(self.span(t), self(target), self(value))

    def require(self, t: Parsed) -> ast.Require:
        cond, message = t.children
        return ast.Require(self.span(t), self(cond), None if message is None else str(message)[1:-1])

    def when(self, t: Parsed) -> ast.When:
        cond, body, other = t.children
        return ast.When(self.span(t), self(cond), self(body), self.otherwise(other, "when"))

    def otherwise(self, t: Parsed | None, chained: str) -> tuple[Any, ...]:
        if t is None:
            return ()
        return (self(t),) if t.data == chained else self(t)

    def eq(self, t: Parsed) -> ast.Equation:
        targets = [c for c in t.children if c.data == "lhs"]
        value, *attrs = t.children[len(targets) :]
        return ast.Equation(self.span(t), self.all(targets), self(value), self.all(attrs))

    def lhs(self, t: Parsed) -> ast.Target:
        name, items = t.children
        return ast.Target(self.span(t), name.removesuffix("'"), name.type == "PRIMED", self.maybe(items))

    def ret(self, t: Parsed) -> ast.Return:
        return ast.Return(self.span(t), self(t.children[0]))

    def drop(self, t: Parsed) -> ast.Drop:
        return ast.Drop(self.span(t), tuple(ast.Name(self.span(name), str(name)) for name in t.children))

    def attr(self, t: Parsed) -> ast.Attr:
        name, args = t.children
        return ast.Attr(self.span(t), str(name), self.maybe(args) or ())

    # ---- models
    def model(self, t: Parsed) -> ast.Model:
        name, base, *body = t.children
        span = self.span(t)
        return ast.Model(span, str(name), _text(base), self.all(body), self.doc(span.line))

    def setting(self, t: Parsed) -> ast.Setting:
        name, value = t.children
        return ast.Setting(self.span(t), str(name), self(value))

    def group(self, t: Parsed) -> ast.Group:
        name, *settings = t.children
        return ast.Group(self.span(t), str(name), self.all(settings))

    def stack(self, t: Parsed) -> ast.Stack:
        return ast.Stack(self.span(t), self(t.children[0]))

    def rows(self, t: Parsed) -> tuple[ast.Syntax, ...]:
        return self.all(t.children)

    def repeat(self, t: Parsed) -> ast.Repeat:
        name, count, lines = t.children
        return ast.Repeat(self.span(t), str(name), self(count), self(lines))

    def branch(self, t: Parsed) -> ast.Branch:
        cond, lines, other = t.children
        return ast.Branch(self.span(t), self(cond), self(lines), self.otherwise(other, "branch"))

    def tie(self, t: Parsed) -> ast.Tie:
        left, right = t.children
        return ast.Tie(self.span(t), tuple(map(str, left.children)), tuple(map(str, right.children)))

    def layer(self, t: Parsed) -> ast.Line:
        label, residual, value = t.children
        return ast.Line(self.span(t), _text(label), residual is not None, self(value))


def _text(token: Any) -> str | None:
    return None if token is None else str(token)
