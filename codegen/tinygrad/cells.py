"""Emission of a cell: one function over [B, T, …].

Input: a cell and its sequence form.
Output: a `Function`: its head, doc and lines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cdrmix.ir import python as escape
from cdrmix.ir import walk
from cdrmix.ir.forms import Attend, Chunk, Coupled, Elementwise, MaxPlus, SequenceStmt, Sequential
from cdrmix.ir.nodes import Apply, Buffer, Cell, Def, Node, Param, Ref, Top

from . import chunks as chunks  # registers its rule
from . import states as states  # registers its rules
from .attention import emit_entry
from .casts import full
from .levels import levelled, plain
from .norms import variance_about
from .scope import Scope, Symbol
from .statements import Cells, emit_moments, emit_statement, read_back
from .wrap import wrapped

_SIZES = re.compile(r"(?<![\w.\"])(b|t)(?![\w\"=])")
"""The sizes of B and T in code; no other name is one of them."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the generated module."""

    head: str
    doc: tuple[str, ...]
    lines: tuple[str, ...]


def emit_cell(
    cell: Cell, body: Sequence[SequenceStmt], cells: Cells, taken: frozenset[str], sources: Mapping[str, str]
) -> Function:
    """The function of a cell; `taken` are the names of the module."""
    names = escape.Names(taken)
    inputs = [names.fresh(i.name) for i in cell.inputs]
    needed, read = _needed(cell, body)
    lead = "b, t"
    windows = walk.windows(replace(cell, body=tuple(needed)))  # type: ignore[arg-type]
    scope = Scope(cell, names, lead, windows, sources, read)
    for name, i in zip(inputs, cell.inputs, strict=True):
        sizes = tuple(a.size for a in i.axes)
        kind = "int" if i.dtype == "pick" else "float"
        scope.symbols[Ref("input", i.name)] = Symbol(name, kind, sizes, (True,) * len(sizes), True)  # type: ignore[arg-type]
    for c in cell.carries:
        if c.reads:
            code = scope.once(c.name, f"here.carry({escape.text(c.name)})")
            scope.known(Ref("carry", c.name), code, [a.size for a in c.axes])
    scope.missing = lambda ref: _stored(scope, ref)
    scope.scans.update(s for stmt in needed if isinstance(stmt, Chunk) for s in stmt.states)
    measured: set[Ref] = set()
    for stmt in needed:
        variance = variance_about(stmt, needed, windows) if isinstance(stmt, Def) else None
        if isinstance(stmt, Def) and stmt.ref.kind == "history":
            emit_entry(stmt, scope)
        elif isinstance(stmt, Def) and variance is not None:
            emit_moments(stmt, variance, scope)
            measured.add(variance.ref)
        elif not isinstance(stmt, Def) or stmt.ref not in measured:
            emit_statement(stmt, scope, cells)
    arrange = plain if any(isinstance(stmt, Sequential) for stmt in needed) else levelled
    lines = arrange(scope.text())
    scope.lines = []
    _return(cell, scope)
    lines += plain(scope.lines)
    if any(_SIZES.search(line) for line in lines if not line.lstrip().startswith("#")):
        lines = [f"b, t = {inputs[0]}.shape[:2]", *lines]
    arguments = ", ".join(["here: Frame", *(f"{n}: Tensor" for n in inputs)])
    head = f"def {cells.functions[cell.name]}({arguments}) -> Tensor:"
    doc = tuple(escape.doc(f"op {cell.op} ({cell.span})\n\n{cell.doc}".strip()))
    return Function(head, doc, tuple(wrapped(lines)))


def _stored(scope: Scope, ref: Ref) -> Symbol | None:
    """The symbol of a weight."""
    stored: list[Param | Buffer] = [*scope.cell.params, *scope.cell.buffers]
    found = [d for d in stored if d.name == ref.name]
    if ref.kind not in ("param", "buffer") or not found:
        return None
    sizes = tuple(i.axis.size for i in found[0].indices)
    return Symbol(f"here.weight({escape.text(ref.name)})", "float", sizes, (True,) * len(sizes), False)


def _return(cell: Cell, scope: Scope) -> None:
    """The carries this cell writes, and the output."""
    defs = {d.ref: d for d in cell.body if isinstance(d, Def)}
    for c in (c for c in cell.carries if c.writes):
        ref = Ref("carry", c.name)
        code = full(read_back(scope.written[ref], defs[ref].indices), defs[ref].indices, scope)
        scope.line(f"here.give({escape.text(c.name)}, {code})")
    out = Ref("output", "out")
    scope.line(f"return {full(read_back(scope.written[out], defs[out].indices), defs[out].indices, scope)}")


def _needed(cell: Cell, body: Sequence[SequenceStmt]) -> tuple[list[SequenceStmt], frozenset[Ref]]:
    """The statements that inference needs, and what they read: what only training values read is left out."""
    kept: list[SequenceStmt] = []
    read: set[Ref] = set()
    for stmt in reversed(body):
        if not _only_named(stmt) or read & {*walk.defines(stmt)}:  # type: ignore[arg-type]
            kept.append(stmt)
            read |= _reads(stmt)
    return kept[::-1], frozenset(read)


def _only_named(stmt: SequenceStmt) -> bool:
    """Whether a statement does nothing but define names."""
    match stmt:
        case Def():
            return stmt.ref.kind == "def"
        case Top():
            return True
        case _:
            return False


def _reads(stmt: SequenceStmt) -> set[Ref]:
    """What the statement's expressions read; an `Attend` reads its histories by itself."""
    if isinstance(stmt, Def | Top | Apply):
        return walk.uses(stmt)
    return {ref for n in _roots(stmt) for ref in walk.refs(n)}


def _roots(stmt: SequenceStmt) -> list[Node]:
    match stmt:
        case Elementwise() | MaxPlus():
            return [stmt.decay, stmt.addend]
        case Coupled():
            return [*(d for row in stmt.decay for d in row if d is not None), *stmt.addend]
        case Chunk():
            found = [*stmt.decay.values(), *(q.q for q in stmt.queries)]
            found += [n for t in stmt.low_rank for n in (t.a, t.b)] + [n for t in stmt.outer for n in (t.v, t.k)]
            return found + ([stmt.value_decay] if stmt.value_decay is not None else [])
        case Sequential():
            return [n for d in stmt.body for n in walk.roots(d)]
        case Attend():
            return [*(p.query for p in stmt.parts), *([stmt.bias] if stmt.bias is not None else [])]
        case _:
            return []
