"""Traversal of the statements of the sequence form: what each defines, reads and holds.

It extends `ir.walk` from a cell's body to `ir.forms`, so that one schedule serves both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeGuard

from cdrmix.ir import walk
from cdrmix.ir.forms import Attend, Chunk, Coupled, Delay, Elementwise, MaxPlus, SequenceStmt, Sequential
from cdrmix.ir.nodes import Apply, Def, Node, Ref, Stmt, Top
from cdrmix.passes.queries import Asked

Fn = Callable[[Node], Node]


def defines(stmt: SequenceStmt | Asked) -> set[Ref]:
    """What a statement makes known over the whole sequence; a chunk's states stay unknown."""
    match stmt:
        case Delay():
            return {Ref("state", stmt.state)}
        case Elementwise() | MaxPlus():
            return {Ref("state", stmt.state), Ref("next", stmt.state)}
        case Coupled() | Sequential():
            return {ref for s in stmt.states for ref in (Ref("state", s), Ref("next", s))}
        case Chunk():
            return {Ref("def", q.name) for q in stmt.queries}
        case Attend():
            return {Ref("def", stmt.name)}
        case Asked():
            return {Ref("def", stmt.query.name)}
        case _:
            return {ref for ref in walk.defines(stmt) if ref.kind != "carry"}


def uses(stmt: SequenceStmt | Asked) -> set[Ref]:
    """What must be known before a statement."""
    match stmt:
        case Delay():
            return {Ref("next", stmt.state)}
        case Sequential():
            inside = {ref for d in stmt.body for ref in walk.defines(d)} | defines(stmt)
            return {ref for d in stmt.body for ref in walk.uses(d)} - inside
        case Apply():
            return walk.uses(stmt)
        case _:
            return {ref for n in roots(stmt) for ref in walk.refs(n)}


def is_plain(stmt: SequenceStmt | Asked) -> TypeGuard[Stmt]:
    """Whether a statement is one of a cell's body, or stands for one."""
    return isinstance(stmt, (Def, Top, Apply, Asked))


def roots(stmt: SequenceStmt | Asked) -> list[Node]:
    """The expressions of a statement."""
    found: list[Node] = []

    def keep(n: Node) -> Node:
        found.append(n)
        return n

    map_roots(stmt, keep)
    return found


def map_roots(stmt: Any, fn: Fn) -> Any:
    """The statement with `fn` applied to each of its expressions."""
    match stmt:
        case Delay():
            return stmt
        case Elementwise() | MaxPlus():
            return replace(stmt, decay=fn(stmt.decay), addend=fn(stmt.addend))
        case Coupled():
            decay = tuple(tuple(None if d is None else fn(d) for d in row) for row in stmt.decay)
            return replace(stmt, decay=decay, addend=tuple(fn(a) for a in stmt.addend))
        case Chunk():
            return replace(
                stmt,
                decay={edge: fn(d) for edge, d in stmt.decay.items()},
                value_decay=None if stmt.value_decay is None else fn(stmt.value_decay),
                low_rank=tuple(replace(x, a=fn(x.a), b=fn(x.b)) for x in stmt.low_rank),
                outer=tuple(replace(x, v=fn(x.v), k=fn(x.k)) for x in stmt.outer),
                queries=tuple(replace(x, q=fn(x.q)) for x in stmt.queries),
            )
        case Sequential():
            return replace(stmt, body=tuple(map_roots(d, fn) for d in stmt.body))
        case Attend():
            bias = None if stmt.bias is None else fn(stmt.bias)
            parts = tuple(replace(p, query=fn(p.query), key=fn(p.key)) for p in stmt.parts)
            return replace(stmt, parts=parts, value=fn(stmt.value), bias=bias)
        case Asked():
            return replace(stmt, query=replace(stmt.query, q=fn(stmt.query.q)))
        case Def() | Top() | Apply():
            return walk.map_roots(stmt, fn)
        case _:
            raise TypeError(type(stmt))
