"""`op a(formals) = b with { … }`: a new op as a difference to another.

Input: the base as it stands and the statements of the `with`.
Output: an `OpDecl` whose body is the base's with names replaced, dropped and added, and without the equations that
nothing reads any more.  An inherited parameter that nothing reads is a mistake: a parameter never vanishes unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cdrmix.check.body.reach import HELD, ROOTS
from cdrmix.check.help.remedies import without_prime
from cdrmix.check.names.mentions import RETURN, defined, leaves, mentioned, whens
from cdrmix.check.names.scope import OpDecl, Scope
from cdrmix.check.names.values import inputs, settable
from cdrmix.diagnose import Report, Span, did_you_mean
from cdrmix.syntax import ast


def derive(text: ast.Derive, base: OpDecl, scope: Scope, report: Report) -> OpDecl:
    """The op that `text` describes, in the file of `scope`."""
    drops = [name for stmt in leaves(text.body) if isinstance(stmt, ast.Drop) for name in stmt.names]
    for stmt in leaves(s for s in text.body if isinstance(s, ast.When)):
        if isinstance(stmt, ast.Drop):
            report.error(
                "E0801", stmt.span, "`drop` stands inside a `when`", "a name is dropped everywhere: move it out"
            )
    added = tuple(stmt for stmt in text.body if not isinstance(stmt, ast.Drop))
    added = _primed(added, base, report)
    new = {name: stmt.span for stmt in added for name in defined(stmt)}
    formals = _formals(base, text.formals, {d.id for d in drops})
    _check_drops(drops, base, new, report)
    diff = _Diff(new, frozenset(d.id for d in drops), report)
    kept = diff.filter(base.body)
    _check_carried(drops, base, kept, report)
    body = _place(base.body, kept, added)
    dead = _dead(body, {id(s) for s in leaves(added)})
    left = set() if diff.torn else _check_held(text, base, body, dead, report)
    body = diff.keep(diff.prune(body, dead), lambda stmt: id(stmt) not in left)
    scopes = _scopes(base, scope, formals, body, diff.rebuilt)
    return OpDecl(text.name, scope, formals, base.type, body, text.doc, text.span, base, scopes)


def _primed(added: Sequence[ast.Stmt], base: OpDecl, report: Report) -> tuple[ast.Stmt, ...]:
    """The new statements, with the prime where the new value of one of the base's states lacks it (E0401)."""
    states = {s.name: "state" if isinstance(s, ast.State) else "carry"
              for s in leaves(base.body) if isinstance(s, ast.State | ast.Carry)}  # fmt: skip
    found: list[ast.Stmt] = []
    for stmt in added:
        match stmt:
            case ast.When():
                stmt = replace(stmt, body=_primed(stmt.body, base, report), other=_primed(stmt.other, base, report))
            case ast.Equation(targets=(target,)) if target.name in states and not target.primed:
                report.error("E0401", target.span, f"{states[target.name]} `{target.name}` of {base.name} is written "
                             "without its prime", f"write `{without_prime(target)}`, or `drop {target.name}` first "
                             "if it is to be no state")  # fmt: skip
                stmt = replace(stmt, targets=(replace(target, primed=True),))
        found.append(stmt)
    return tuple(found)


def _scopes(
    base: OpDecl,
    scope: Scope,
    formals: Sequence[ast.Formal],
    body: Sequence[ast.Stmt],
    rebuilt: Sequence[tuple[ast.When, ast.When]],
) -> dict[int, Scope]:
    """Where the inherited statements' names resolve, by `id`."""
    where: dict[int, Scope] = {}
    if base.scope is not scope:
        inherited = (base.type, *base.formals, *leaves(base.body), *whens(base.body))
        where = {id(s): base.scope for s in inherited}
    where |= base.scopes
    for old, new in rebuilt:
        if id(old) in where:
            where[id(new)] = where[id(old)]
    here = (base.type, *formals, *leaves(body), *whens(body))
    return {id(s): where[id(s)] for s in here if id(s) in where}


def _formals(base: OpDecl, new: Sequence[ast.Formal], dropped: set[str]) -> tuple[ast.Formal, ...]:
    """The base's formals, those named again in their old place, new ones last of their sort (tensors come first)."""
    again = {f.name: f for f in new}
    old = {f.name for f in base.formals}
    tensors = [again.get(f.name, f) for f in inputs(base)]
    statics = [again.get(f.name, f) for f in settable(base)]
    for formal in new:
        if formal.name not in old:
            (tensors if formal.kind in ("tensor", "index") else statics).append(formal)
    return tuple(f for f in (*tensors, *statics) if f.name not in dropped or f.name in again)


def _check_drops(drops: Sequence[ast.Name], base: OpDecl, new: Mapping[str, Span], report: Report) -> None:
    there = {name.removesuffix("'") for stmt in base.body for name in defined(stmt) if name != RETURN}
    there |= {f.name for f in settable(base)}
    left = set(there)
    for drop in drops:
        if drop.id in new or drop.id + "'" in new:
            report.error("E0801", drop.span, f"`{drop.id}` is dropped and defined in one `with`", "do one of the two")
        elif drop.id not in left:
            near = did_you_mean(drop.id, left)
            names = f"names it has: {', '.join(sorted(left))}"
            report.error("E0801", drop.span, f"`drop {drop.id}`: {base.name} has no `{drop.id}` that is still there",
                         f"{near} {names}".strip())  # fmt: skip
        left.discard(drop.id)


@dataclass(slots=True)
class _Diff:
    """Removes from the base's statements what the `with` defines anew or drops, and what is dead then."""

    new: Mapping[str, Span]
    dropped: frozenset[str]
    report: Report
    torn: bool = False  # an equation of several names was replaced in part
    rebuilt: list[tuple[ast.When, ast.When]] = field(default_factory=list)

    def filter(self, body: Sequence[ast.Stmt]) -> tuple[ast.Stmt, ...]:
        return self.keep(body, lambda stmt: not self.gone(stmt))

    def prune(self, body: Sequence[ast.Stmt], dead: set[int]) -> tuple[ast.Stmt, ...]:
        return self.keep(body, lambda stmt: id(stmt) not in dead or isinstance(stmt, HELD))

    def keep(self, body: Sequence[ast.Stmt], stays: Callable[[ast.Stmt], bool]) -> tuple[ast.Stmt, ...]:
        """The statements that stay, with `when`s rebuilt where they lost some, and gone where they lost all."""
        kept: list[ast.Stmt] = []
        for stmt in body:
            if isinstance(stmt, ast.When):
                inner, other = self.keep(stmt.body, stays), self.keep(stmt.other, stays)
                if not inner and not other:
                    continue
                if not _same(inner, stmt.body) or not _same(other, stmt.other):
                    new = ast.When(stmt.span, stmt.cond, inner, other)
                    self.rebuilt.append((stmt, new))
                    stmt = new
                kept.append(stmt)
            elif stays(stmt):
                kept.append(stmt)
        return tuple(kept)

    def gone(self, stmt: ast.Stmt) -> bool:
        names = defined(stmt)
        gone = [name for name in names if name in self.new or name.removesuffix("'") in self.dropped]
        if gone and len(gone) < len(names):
            whole, rest = ", ".join(names), [name for name in names if name not in gone]
            how = " and ".join(f"`{name}`" for name in rest)
            self.torn = True
            at = self.new.get(gone[0], stmt.span)
            self.report.error("E0803", at, f"`{whole} = …` is replaced only in part: {how} would be left",
                              f"define {how} in the `with` too, or drop it")  # fmt: skip
        return bool(gone)


def _same(kept: Sequence[ast.Stmt], old: Sequence[ast.Stmt]) -> bool:
    return len(kept) == len(old) and all(a is b for a, b in zip(kept, old, strict=True))


def _check_carried(drops: Sequence[ast.Name], base: OpDecl, kept: Sequence[ast.Stmt], report: Report) -> None:
    carries = {stmt.name for stmt in leaves(base.body) if isinstance(stmt, ast.Carry)}
    asked = mentioned(*(when.cond for when in whens(kept)))
    for drop in drops:
        if drop.id in carries & asked:
            report.error(
                "E0805",
                drop.span,
                f"`drop {drop.id}` takes the carry away and `when carried({drop.id})` still asks for it",
                "replace what is in that block too",
            )


def _place(old: Sequence[ast.Stmt], kept: Sequence[ast.Stmt], added: Sequence[ast.Stmt]) -> tuple[ast.Stmt, ...]:
    """The kept statements, each new one where the first it replaces stood, else at the end.

    Order means nothing to the language; a body that reads like its base is easier on the reader of its listing.
    """
    spans = {stmt.span: stmt for stmt in kept}
    waiting = list(added)
    body: list[ast.Stmt] = []
    for stmt in old:
        if stmt.span in spans:
            body.append(spans[stmt.span])
            continue
        names = set(defined(stmt))
        here = [new for new in waiting if names & set(defined(new))]
        waiting = [new for new in waiting if not any(new is other for other in here)]
        body += here
    return (*body, *waiting)


def _check_held(text: ast.Derive, base: OpDecl, body: Sequence[ast.Stmt], dead: set[int], report: Report) -> set[int]:
    """Report inherited params, parts and banks that the new text leaves dead (E0802), and give their `id`s."""
    before = _dead(base.body, set())  # the base's own faults are told there
    held = [s for s in leaves(body) if isinstance(s, HELD) and id(s) in dead and id(s) not in before]
    left = [s.name for s in held]
    if left:
        what, them = ("is", "it") if len(left) == 1 else ("are", "them")
        report.error("E0802", text.span, f"{', '.join(left)} of {base.name} {what} left unused by this `with`",
                     f"add `drop {', '.join(left)}`, or use {them}")  # fmt: skip
    return {id(s) for s in held}


def _dead(body: Sequence[ast.Stmt], own: set[int]) -> set[int]:
    """The `id`s of statements that neither stand for themselves nor are read, however indirectly, by one that does."""
    by_name: dict[str, list[ast.Stmt]] = {}
    todo: list[ast.Stmt] = []
    carries = {stmt.name + "'" for stmt in leaves(body) if isinstance(stmt, ast.Carry)}
    for stmt in leaves(body):
        for name in defined(stmt):
            by_name.setdefault(name, []).append(stmt)
        if isinstance(stmt, ROOTS) or id(stmt) in own or carries.intersection(defined(stmt)):
            todo.append(stmt)
    for name in mentioned(*(when.cond for when in whens(body))):
        todo += by_name.get(name, [])
    live: set[int] = set()
    while todo:
        stmt = todo.pop()
        if id(stmt) in live:
            continue
        live.add(id(stmt))
        read = mentioned(stmt)
        for name in (*read, *(n.removesuffix("'") for n in read), *_together(stmt)):
            todo += by_name.get(name, [])
    return {id(stmt) for stmt in leaves(body)} - live


def _together(stmt: ast.Stmt) -> list[str]:
    """The other half of a state or carry: its declaration for `S' = …`, its next value for `state S`."""
    return [name.removesuffix("'") if name.endswith("'") else name + "'" for name in defined(stmt)]


def explain_axes(op: OpDecl, report: Report) -> None:
    """For a derived op that does not fit together: report new equations whose left side has other axes (E0804).

    Only asked for when the op failed, as an axis may well be read by its factors.
    """
    while op.base is not None:
        inherited = {id(stmt) for stmt in leaves(op.base.body)}
        old = {name: count for stmt in leaves(op.base.body) for name, count in _written(stmt)}
        for stmt in leaves(op.body):
            if id(stmt) not in inherited and isinstance(stmt, ast.State):
                old.pop(stmt.name + "'", None)
        for stmt in leaves(op.body):
            if id(stmt) in inherited or not isinstance(stmt, ast.Equation):
                continue
            for target in stmt.targets:
                name = target.name + "'" * target.primed
                if target.items is not None and old.get(name, len(target.items)) != len(target.items):
                    counts = f"{_axes(old[name])} in {op.base.name}, {_axes(len(target.items))} here"
                    wrong = f"`with` replaces `{name}` by a value of other axes: {counts}"
                    help = f"what reads `{name}` expects the old ones: keep them, or replace that too"
                    report.error("E0804", target.span, wrong, help)
        op = op.base


def _axes(count: int) -> str:
    return "1 axis" if count == 1 else f"{count} axes"


def _written(stmt: ast.Stmt) -> list[tuple[str, int]]:
    """The names whose number of axes a statement writes down."""
    match stmt:
        case ast.State(name=name, type=type_):
            return [(name + "'", len(type_.dims))]
        case ast.Equation(targets=targets):
            return [(t.name, len(t.items)) for t in targets if t.items is not None and not t.primed]
    return []
