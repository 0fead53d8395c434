"""Text to an abstract syntax tree.

Input: the text of one `.cdr` file and the name to report it by.  Output: its `ast.Module`, or a `CompileError` with
every syntax error that could be found.

The grammar is `cdr.lark`.  Its tables are built once a process, when first needed, in a tenth of a second.  A right
text is read in one go; only a wrong one is read again by `recovery`, which finds and explains the mistakes.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from lark import Lark, Token, Tree, UnexpectedInput

from cdrmix.diagnose import CompileError, Report, Span
from cdrmix.syntax import ast
from cdrmix.syntax.build import Builder
from cdrmix.syntax.newlines import statements
from cdrmix.syntax.recovery import find_mistakes
from cdrmix.syntax.source import check_size, check_words


@cache
def tables(strict: bool = False) -> Lark:
    """The parser of the grammar.  `strict` also refuses conflicts and colliding terminals, and is for tests."""
    grammar = files("cdrmix.syntax").joinpath("cdr.lark").read_text(encoding="utf-8")
    return Lark(
        grammar,
        parser="lalr",
        lexer="basic",
        start=["start", "alone"],
        propagate_positions=True,
        maybe_placeholders=True,
        strict=strict,
    )


def parse(text: str, file: str) -> ast.Module:
    """The module that `text` is."""
    report = Report()
    module: ast.Module = Builder(text, file, report)(_tree(text, file, "start"))
    if not module.items:
        report.error("E0117", Span(file, 1, 1, 1, 1), "there is nothing in this file", "write a `model` or an `op`")
    report.raise_if_any()
    return module


def parse_expression(text: str, file: str) -> ast.Expr:
    """The expression that `text` is, for settings given on the command line."""
    report = Report()
    expr: ast.Expr = Builder(text, file, report)(_tree(text, file, "alone").children[0])
    report.raise_if_any()
    return expr


def _tree(text: str, file: str, start: str) -> Tree[Token]:
    check_size(text, file)
    check_words(text, file)
    parser: Any = tables().parse_interactive(text, start)
    try:
        for token in statements(parser.lexer_thread.lex(parser.parser_state)):
            parser.feed_token(token)
        tree: Tree[Token] = parser.feed_eof()
    except UnexpectedInput:
        raise CompileError(find_mistakes(tables(), text, file, start)) from None
    return tree
