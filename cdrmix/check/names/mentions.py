"""Which names a piece of syntax mentions and which ones a statement defines.

Input: any node of `syntax.ast`.  Output: names as text; a state's next value keeps its prime (`S'`), a dotted name its
dots.  Indices count as mentions: whoever asks only wants to know what is surely not mentioned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields

from cdrmix.syntax import ast

RETURN = "return"
"""The name under which an op's result is defined; no statement can take it, as it is a keyword."""

_children: dict[type, tuple[str, ...]] = {}


def nodes(*roots: ast.Syntax) -> Iterator[ast.Syntax]:
    """Every node of the trees, parents first."""
    todo: list[object] = [*reversed(roots)]
    while todo:
        node = todo.pop()
        if isinstance(node, tuple):
            todo.extend(reversed(node))
        elif isinstance(node, ast.Syntax):
            yield node
            kind = type(node)
            if kind not in _children:
                _children[kind] = tuple(f.name for f in fields(kind) if f.name != "span" and f.type not in _LEAVES)
            todo.extend(getattr(node, name) for name in reversed(_children[kind]))


_LEAVES = ("str", "str | None", "bool", "int | float", "tuple[str, ...]")


def mentioned(*roots: ast.Syntax) -> set[str]:
    """The names that the trees read."""
    found = set()
    for node in nodes(*roots):
        match node:
            case ast.Name(id=name):
                found.add(name)
            case ast.Primed(id=name):
                found.add(name + "'")
            case ast.Path(parts=parts):
                found.add(".".join(parts))
    return found


def leaves(statements: Iterable[ast.Stmt]) -> Iterator[ast.Stmt]:
    """The statements, those of both branches of a `when` in its place."""
    for stmt in statements:
        if isinstance(stmt, ast.When):
            yield from leaves(stmt.body)
            yield from leaves(stmt.other)
        else:
            yield stmt


def whens(statements: Iterable[ast.Stmt]) -> Iterator[ast.When]:
    """Every `when`, outer ones first."""
    for stmt in statements:
        if isinstance(stmt, ast.When):
            yield stmt
            yield from whens(stmt.body)
            yield from whens(stmt.other)


def defined(stmt: ast.Stmt) -> tuple[str, ...]:
    """The names a statement defines, those of both branches for a `when`."""
    match stmt:
        case ast.Equation(targets=targets):
            return tuple(t.name + "'" * t.primed for t in targets if t.name != "_")
        case ast.AfterStep(equation=equation):
            return defined(equation)
        case ast.Metric(target=target):
            return (target.name,)
        case ast.When():
            return tuple(name for inner in leaves((stmt,)) for name in defined(inner))
        case ast.Return():
            return (RETURN,)
        case ast.Require() | ast.Drop():
            return ()
        case _:
            return (stmt.name,)  # type: ignore[attr-defined]
