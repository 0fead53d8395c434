"""What of an op's text leads nowhere: it reaches no result, no training value and nothing that another layer reads.

Input: an op's statements in both branches of every `when`, and which of them stand in a branch that is taken.
Output: mistakes (E0507) for what nothing needs, with the parameters that are dead because of it; a note for an argument
that nothing reads, since it has no weights and may be there for the sake of other ops.

Names are followed as the text mentions them, so that what only another setting needs is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cdrmix.check.names.mentions import defined, leaves, mentioned, whens
from cdrmix.check.names.scope import OpDecl
from cdrmix.check.names.values import inputs
from cdrmix.diagnose import Report, Span
from cdrmix.syntax import ast

HELD = (ast.Param, ast.Part, ast.Bank)
"""Statements that hold parameters."""

ROOTS = (ast.Return, ast.Aux, ast.Metric, ast.AfterStep, ast.Require, ast.Dim)
"""Statements that are there for their own sake."""


@dataclass(slots=True)
class Thing:
    """What one name stands for: its declaration, its equations in all branches, and the names that they read."""

    name: str
    stmts: list[ast.Stmt] = field(default_factory=list)
    reads: set[str] = field(default_factory=set)


def things(op: OpDecl) -> dict[str, Thing]:
    """The things of an op by name, a state's next value and a carry's being the state's and the carry's."""
    found: dict[str, Thing] = {}
    for stmt in leaves(op.body):
        names = dict.fromkeys(name.removesuffix("'") for name in defined(stmt))
        for name in names if not isinstance(stmt, ROOTS) else ():
            thing = found.setdefault(name, Thing(name))
            thing.stmts.append(stmt)
            thing.reads |= _names(stmt) | names.keys() - {name}
    return found


def needed(op: OpDecl, found: Mapping[str, Thing], also: Iterable[ast.Stmt] = ()) -> set[str]:
    """The names that something needs: the result, a training value, a `when`, a shape or what stands in `also`."""
    carries = {stmt.name for stmt in leaves(op.body) if isinstance(stmt, ast.Carry)}
    shapes = [op.type, *(f.type for f in op.formals if f.type), *(f.extent for f in op.formals if f.extent)]
    written = {f"{name}'" for name in carries}
    roots = [s for s in leaves(op.body) if isinstance(s, ROOTS) or written.intersection(defined(s))]
    todo = [*_names(*roots, *also, *(when.cond for when in whens(op.body)), *shapes)]
    todo += [name.removesuffix("'") for stmt in (*roots, *also) for name in defined(stmt)]
    defaults = {f.name: f.default for f in op.formals if f.default is not None}
    live: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in live:
            live.add(name)
            todo += found[name].reads if name in found else ()
            todo += _names(defaults[name]) if name in defaults else ()
    return live


def check_reach(op: OpDecl, taken: Sequence[ast.Stmt], also: Collection[ast.Stmt], report: Report) -> None:
    """Report what leads nowhere (E0507), and note arguments that are never read.  `also` are statements that do
    something."""
    found = things(op)
    live = needed(op, found, also)
    here = {id(stmt) for stmt in taken}
    dead = {name: thing for name, thing in found.items()
            if name not in live and any(id(s) in here for s in thing.stmts)}  # fmt: skip
    computed = {name: thing for name, thing in dead.items() if not isinstance(thing.stmts[0], HELD)}
    read = {name for thing in computed.values() for name in thing.reads - {thing.name}}
    told: set[str] = set()
    for ends in (True, False):  # what nothing reads; then what only reads itself in a ring
        for name, thing in computed.items():
            if name in told or ends and name in read:
                continue
            cone = _cone(name, dead)
            held = [n for n in dead if n in cone - told and n not in computed]
            told |= cone
            stmt = next(s for s in thing.stmts if id(s) in here)
            report.error("E0507", _span(stmt, name), _said(stmt, name) + _dead(held), _help(held))
    for formal in op.formals if op.base is None else ():  # a derived op takes what its base does
        if formal.name not in live and not any(formal.name in thing.reads for thing in computed.values()):
            what = "input" if formal in inputs(op) else "argument"
            report.note(formal.span, f"{what} `{formal.name}` of op `{op.name}` is never read")


def _cone(name: str, dead: Mapping[str, Thing]) -> set[str]:
    """A name and what of the dead it reads, however indirectly."""
    found: set[str] = set()
    todo = [name]
    while todo:
        name = todo.pop()
        if name in dead and name not in found:
            found.add(name)
            todo += dead[name].reads
    return found


def _names(*nodes: ast.Syntax) -> set[str]:
    return {name.removesuffix("'") for name in mentioned(*nodes)}


def _span(stmt: ast.Stmt, name: str) -> Span:
    targets = stmt.targets if isinstance(stmt, ast.Equation) else ()
    return next((t.span for t in targets if t.name == name), stmt.span)


def _said(stmt: ast.Stmt, name: str) -> str:
    match stmt:
        case ast.State() | ast.History() | ast.Buffer():
            return f"{type(stmt).__name__.lower()} `{name}` is kept and never used"
        case ast.Carry():
            return f"carry `{name}` is neither read nor written here"
        case ast.Let():
            return f"`{name}` is set and never read"
        case _:
            return f"`{name}` is computed and never used"


def _dead(held: Sequence[str]) -> str:
    names = ", ".join(f"`{name}`" for name in held)
    return f", so {names} {'is' if len(held) == 1 else 'are'} dead" if held else ""


def _help(held: Sequence[str]) -> str:
    return f"use it, or delete it with {', '.join(held)}" if held else "use it or delete it"
