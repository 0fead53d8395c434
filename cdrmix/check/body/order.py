"""In which order an op body's equations are elaborated: what is read first, so that the text may have any order.

Input: a frame whose statements are declared.  Output: its equations and histories.  A cycle is left for the elaborator
to report; this order only keeps a long chain of equations from nesting deeply.
"""

from __future__ import annotations

from cdrmix.check.body.frame import Frame
from cdrmix.check.body.symbols import Local, Stored, Symbol
from cdrmix.check.names.mentions import nodes
from cdrmix.syntax import ast


def in_order(frame: Frame) -> list[Local | Stored]:
    """Equations and histories, those they mention before them, otherwise as the text has them."""
    found: list[Local | Stored] = []
    seen: set[int] = set()
    for start in _defined(frame):
        todo: list[tuple[Local | Stored, bool]] = [(start, False)]
        while todo:
            symbol, ready = todo.pop()
            if ready:
                found.append(symbol)
            elif id(symbol) not in seen:
                seen.add(id(symbol))
                todo.append((symbol, True))
                todo += [(needed, False) for needed in reversed(_needs(symbol, frame)) if id(needed) not in seen]
    return found


def _defined(frame: Frame) -> list[Local | Stored]:
    found: list[Local | Stored] = []
    for stmt, _ in frame.statements:
        match stmt:
            case ast.Equation(targets=targets):
                names = [frame.following.get(t.name) if t.primed else frame.symbols.get(t.name) for t in targets]
                found += [s for s in names if isinstance(s, Local) and s.stmt is stmt]
            case ast.History(name=name):
                symbol = frame.symbols.get(name)
                if isinstance(symbol, Stored) and symbol.stmt is stmt:
                    found.append(symbol)
    return found


def _needs(symbol: Local | Stored, frame: Frame) -> list[Local | Stored]:
    stmt = symbol.stmt
    assert isinstance(stmt, ast.Equation | ast.History)
    found: list[Local | Stored] = []
    for node in nodes(stmt.value):
        other: Symbol | None = None
        match node:
            case ast.Name(id=name):
                other = frame.symbols.get(name)
            case ast.Primed(id=name):
                other = frame.following.get(name)
        if isinstance(other, Local) or isinstance(other, Stored) and other.kind == "history":
            found.append(other)
    return found
