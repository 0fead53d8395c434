"""Traversal of the statements of the sequence form: what each defines, reads and holds.

It extends `ir.walk` from a cell's body to `ir.forms`, so that one schedule serves both.
"""

from __future__ import annotations

from typing import TypeGuard

from cdrmix.ir import walk
from cdrmix.ir.forms import Chunk, Coupled, Delay, Elementwise, MaxPlus, SequenceStmt, Sequential
from cdrmix.ir.nodes import Apply, Def, Ref, Stmt, Top
from cdrmix.passes.queries import Asked


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
        case _:
            return walk.uses(stmt)


def is_plain(stmt: SequenceStmt | Asked) -> TypeGuard[Stmt]:
    """Whether a statement is one of a cell's body, or stands for one."""
    return isinstance(stmt, (Def, Top, Apply, Asked))
