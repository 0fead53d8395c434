"""Expressions as the text writes them, for messages.

Input: an `ast.Expr`.  Output: one line, with as few brackets as the grammar needs.
"""

from __future__ import annotations

from collections.abc import Sequence

from cdrmix.syntax import ast

_LEVELS = (("or",), ("and",), ("not",), ("==", "!=", "<=", ">=", "<", ">"), ("+", "-"), ("*", "/", "//", "%", "@"))
_LEVEL = {op: level for level, ops in enumerate(_LEVELS, 1) for op in ops}
_UNARY, _POWER, _POSTFIX = 7, 8, 9
_SPACED = {"+", "-", "@", "and", "or", "==", "!=", "<=", ">=", "<", ">"}

LONGEST = 60
"""Characters of an expression that a message repeats."""


def quote(expr: ast.Expr) -> str:
    """The text of an expression, cut where it is long."""
    text = _text(expr, 0)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def written(expr: ast.Expr) -> str:
    """The whole text of an expression, for a line to be copied."""
    return _text(expr, 0)


def operand(expr: ast.Expr) -> str:
    """The whole text, in brackets where it would not stand in front of a `[`."""
    return _text(expr, _POSTFIX)


def dims(exprs: Sequence[ast.Expr]) -> str:
    """`[H, N]`."""
    return f"[{', '.join(quote(e) for e in exprs)}]"


def _text(expr: ast.Expr, level: int) -> str:
    match expr:
        case ast.Num(value=value):
            return repr(value)
        case ast.Str(value=value):
            return f'"{value}"'
        case ast.Bool(value=value):
            return "true" if value else "false"
        case ast.Name(id=name):
            return name
        case ast.Primed(id=name):
            return name + "'"
        case ast.Path(parts=parts):
            return ".".join(parts)
        case ast.Unary(op="-"):
            return _wrap("-" + _text(expr.arg, _UNARY), _UNARY, level)
        case ast.Unary():
            return _wrap("not " + _text(expr.arg, _LEVEL["not"]), _LEVEL["not"], level)
        case ast.Binary(op="^"):
            return _wrap(f"{_text(expr.left, _POSTFIX)}^{_text(expr.right, _UNARY)}", _POWER, level)
        case ast.Binary(op=op):
            here = _LEVEL[op]
            sign = f" {op} " if op in _SPACED else op
            return _wrap(_text(expr.left, here) + sign + _text(expr.right, here + 1), here, level)
        case ast.IfElse():
            text = f"{_text(expr.then, 1)} if {_text(expr.cond, 1)} else {_text(expr.other, 0)}"
            return _wrap(text, 0, level - 1)
        case ast.Index():
            return f"{_text(expr.base, _POSTFIX)}[{_list(expr.items)}]"
        case ast.Call():
            args = [(f"{a.name}=" if a.name else "") + _text(a.value, 0) for a in expr.args]
            return f"{_text(expr.base, _POSTFIX)}({', '.join(args)})"
        case ast.Reshape():
            return _wrap(f"{_text(expr.base, _POSTFIX)} as [{_list(expr.type.dims)}]", _UNARY, level)
        case ast.Compose():
            return f"{_text(expr.left, 0)} >> {_text(expr.right, 0)}"
        case _:
            return "…"


def _list(exprs: Sequence[ast.Expr]) -> str:
    return ", ".join(_text(e, 0) for e in exprs)


def _wrap(text: str, own: int, level: int) -> str:
    return f"({text})" if own < level else text
