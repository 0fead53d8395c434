"""Trees of expressions to the abstract syntax.

Input: Lark trees of the rules under `expr`, with positions.  Output: `ast.Expr`; a number out of range and an
expression too deep go to the `Report`.

One method a rule or alias of the grammar, of its name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lark import Token

from cdrmix.diagnose import Report, Span
from cdrmix.syntax import ast

Parsed = Any
"""A Lark tree or token; what the children of a tree are is written in the grammar, where no type checker reads it."""

MAX_DEPTH = 100
"""Levels of nesting a text may have: the recursive stages rely on it, and no model comes near."""

_BINARY = {
    "or_": "or",
    "and_": "and",
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "floordiv": "//",
    "mod": "%",
    "matmul": "@",
    "pow": "^",
}


class Expressions:
    """Builds the expressions of one file."""

    def __init__(self, text: str, file: str, report: Report):
        self.text = text.split("\n")
        self.file = file
        self.report = report
        self.depth = 0

    def __call__(self, tree: Parsed) -> Any:
        """The node of `tree`."""
        name = str(tree.data)
        if self.depth == MAX_DEPTH:
            if all(d.code != "E0113" for d in self.report.diagnostics):
                help = "give a part of it a name in an equation of its own"
                message = f"this is nested more than {MAX_DEPTH} levels deep"
                self.report.error("E0113", self.span(tree), message, help)
            return ast.Num(self.span(tree), 0)
        self.depth += 1
        node = self.binary(tree, _BINARY[name]) if name in _BINARY else getattr(self, name)(tree)
        self.depth -= 1
        return node

    def all(self, trees: Sequence[Any]) -> tuple[Any, ...]:
        """The nodes of `trees`."""
        return tuple(self(tree) for tree in trees)

    def maybe(self, tree: Parsed) -> Any:
        """The node of a tree that may be absent."""
        return None if tree is None else self(tree)

    def span(self, tree: Parsed) -> Span:
        """Where `tree` stands."""
        at: Any = tree if isinstance(tree, Token) else tree.meta
        return Span(self.file, at.line, at.column, at.end_line, at.end_column)

    def exprs(self, t: Parsed) -> tuple[ast.Expr, ...]:
        return self.all(t.children)

    def binary(self, t: Parsed, op: str) -> ast.Binary:
        left, right = t.children
        return ast.Binary(self.span(t), op, self(left), self(right))

    def cmp(self, t: Parsed) -> ast.Binary:
        left, op, right = t.children
        return ast.Binary(self.span(t), str(op.children[0]), self(left), self(right))

    def compose(self, t: Parsed) -> ast.Compose:
        left, right = t.children
        return ast.Compose(self.span(t), self(left), self(right))

    def ifelse(self, t: Parsed) -> ast.IfElse:
        then, cond, other = t.children
        return ast.IfElse(self.span(t), self(then), self(cond), self(other))

    def not_(self, t: Parsed) -> ast.Unary:
        return ast.Unary(self.span(t), "not", self(t.children[0]))

    def neg(self, t: Parsed) -> ast.Unary:
        return ast.Unary(self.span(t), "-", self(t.children[0]))

    def index(self, t: Parsed) -> ast.Index:
        base, items = t.children
        return ast.Index(self.span(t), self(base), self(items))

    def call(self, t: Parsed) -> ast.Call:
        base, args = t.children
        return ast.Call(self.span(t), self(base), self.maybe(args) or ())

    def args(self, t: Parsed) -> tuple[ast.Arg, ...]:
        return self.all(t.children)

    def arg(self, t: Parsed) -> ast.Arg:
        name, value = t.children
        return ast.Arg(self.span(t), None if name is None else str(name), self(value))

    def reshape(self, t: Parsed) -> ast.Reshape:
        base, type_ = t.children
        return ast.Reshape(self.span(t), self(base), self(type_))

    def type(self, t: Parsed) -> ast.TypeExpr:
        dtype, dims = t.children
        return ast.TypeExpr(self.span(t), None if dtype is None else str(dtype.children[0]), self.maybe(dims) or ())

    def num(self, t: Parsed) -> ast.Num:
        text = str(t.children[0]).replace("_", "")
        span = self.span(t)
        value: int | float
        if text.isdigit():
            value = int(text) if len(text) < 19 else 0
            too_large = len(text) >= 19
        else:
            value = float(text)
            too_large = math.isinf(value)
        if too_large:
            help = "an integer has at most 18 digits; any other number fits a double"
            self.report.error("E0114", span, f"the number {t.children[0]} is too large", help)
        return ast.Num(span, value)

    def str(self, t: Parsed) -> ast.Str:
        return ast.Str(self.span(t), t.children[0][1:-1])

    def true(self, t: Parsed) -> ast.Bool:
        return ast.Bool(self.span(t), True)

    def false(self, t: Parsed) -> ast.Bool:
        return ast.Bool(self.span(t), False)

    def primed(self, t: Parsed) -> ast.Primed:
        return ast.Primed(self.span(t), t.children[0][:-1])

    def path(self, t: Parsed) -> ast.Name | ast.Path:
        parts = tuple(map(str, t.children))
        return ast.Name(self.span(t), parts[0]) if len(parts) == 1 else ast.Path(self.span(t), parts)
