"""In which order names are worked out that need one another: what is needed first comes first, without recursion.

Input: a name and what each name surely needs.  Output: the names in order; `Ring` where one needs itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TypeVar

from cdrmix.syntax import ast

Name = TypeVar("Name", bound=Hashable)


class Ring(Exception):
    """Names that need one another: each the next, the last the first."""

    def __init__(self, names: list[Any]):
        super().__init__(names)
        self.names = names


def in_turn(start: Name, needs: Callable[[Name], Iterable[Name]]) -> list[Name]:
    """`start` last, what it needs before it.  Raises `Ring`."""
    found: dict[Name, None] = {}
    path: dict[Name, Iterator[Name]] = {start: iter(needs(start))}
    while path:
        name = next(reversed(path))
        new = next((n for n in path[name] if n not in found), None)
        if new is None:
            found[name] = None
            del path[name]
        elif new in path:
            names = list(path)
            raise Ring(names[names.index(new) :])
        else:
            path[new] = iter(needs(new))
    return list(found)


def surely(expr: ast.Expr) -> Iterator[str]:
    """The names that are read whenever a static expression is evaluated, dotted ones too: not those of a branch that
    may not be taken, nor of an op's arguments."""
    match expr:
        case ast.Name(id=name):
            yield name
        case ast.Path(parts=parts):
            yield ".".join(parts)
        case ast.Unary(arg=arg):
            yield from surely(arg)
        case ast.Binary(op="and" | "or", left=left):
            yield from surely(left)
        case ast.Binary(left=left, right=right):
            yield from surely(left)
            yield from surely(right)
        case ast.IfElse(cond=cond):
            yield from surely(cond)
        case ast.Call(base=ast.Name(id=name), args=args) if name != "carried":
            for given in args:
                yield from surely(given.value)
