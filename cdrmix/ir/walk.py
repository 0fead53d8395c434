"""Traversal of the IR: the one place that knows how nodes and statements are put together.

Input: a `Node`, a statement or a `Cell`.
Output: its parts, or the same thing with parts replaced; what is unchanged is returned as it is, not copied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import singledispatch
from math import prod

from cdrmix.ir import build
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Access, Apply, Axis, Cell, Def, Index, Node, Ref, Stmt, Top
from cdrmix.ir.ops import OPS


# --- nodes ---------------------------------------------------------------------------------------------------------
def children(n: Node) -> tuple[Node, ...]:
    """The operands; a read's are its index expressions."""
    return n.args


def bound(n: Node) -> tuple[Index, ...]:
    """The indices that `n` itself binds."""
    return n.arg if OPS[n.op].kind == "reduce" else ()


def nodes(n: Node) -> Iterator[Node]:
    """`n` and everything in it, outermost first."""
    todo = [n]
    while todo:
        n = todo.pop()
        yield n
        todo += n.args[::-1]


def depth(n: Node) -> int:
    """How deep operations are nested in `n`."""
    deepest, todo = 0, [(n, 1)]
    while todo:
        n, level = todo.pop()
        deepest = max(deepest, level)
        todo += [(a, level + 1) for a in n.args]
    return deepest


def reads(n: Node) -> Iterator[Node]:
    """The `read` nodes in `n`."""
    return (m for m in nodes(n) if m.op == "read")


def multiplied(n: Node) -> Iterator[Node]:
    """The operands of a product of numbers as it is written; of anything else, itself."""
    if n.op == "mul" and n.dtype in FLOATS:
        for a in n.args:
            yield from multiplied(a)
    else:
        yield n


def factors(n: Node) -> tuple[Node, ...]:
    """The factors of a product; a quotient's divisor is a factor `1/divisor`, a sign is one of -1."""
    match n.op:
        case "mul":
            return factors(n.args[0]) + factors(n.args[1])
        case "div":
            return (*factors(n.args[0]), build.div(build.const(1.0), n.args[1], n.args[1].span))
        case "neg":
            return (build.const(-1), *factors(n.args[0]))
        case _:
            return (n,)


def has_reads(n: Node) -> bool:
    """Whether `n` reads anything: else it is known but for indices and `pos`."""
    return any(True for _ in reads(n))


def refs(n: Node) -> set[Ref]:
    """What `n` reads."""
    return {m.arg.ref for m in reads(n)}


def holding(n: Node, ref: Ref) -> set[int]:
    """The `id`s of the nodes in `n` that read `ref`, themselves or in an operand."""
    found: set[int] = set()
    for m in reversed(list(nodes(n))):  # operands first
        if m.op == "read" and m.arg.ref == ref or any(id(a) in found for a in m.args):
            found.add(id(m))
    return found


def indices(n: Node) -> set[Index]:
    """Every index variable in `n`, free or bound."""
    return {i for m in nodes(n) for i in (*m.free, *bound(m))}


def sizes(indices: Iterable[Index]) -> tuple[int, ...]:
    """The sizes of the axes that indices run over."""
    return tuple(i.axis.size for i in indices)


def size(indices: Iterable[Index]) -> int:
    """How many values indices take together."""
    return prod(i.axis.size for i in indices)


def rebuild(n: Node, args: tuple[Node, ...]) -> Node:
    """`n` with other operands; dtype and free indices follow from them."""
    if all(a is b for a, b in zip(args, n.args, strict=True)):
        return n
    if n.op == "read":
        return build.read(n.arg.ref, n.arg.view, args, n.dtype, n.span)
    return build.node(n.op, *args, arg=n.arg, span=n.span)


def transform(n: Node, fn: Callable[[Node], Node]) -> Node:
    """`n` with `fn` applied to every node, operands first."""
    return fn(rebuild(n, tuple(transform(a, fn) for a in n.args)))


def fresh(name: str, taken: Collection[str]) -> str:
    """`name`, or the first of `name_1`, `name_2`, … that is not taken."""
    found, count = name, 0
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    return found


class FixedPlace(ValueError):
    """A softmax is to be read at a place that is no index of its own."""


def substitute(n: Node, by: Mapping[Index, Node]) -> Node:
    """`n` with its free indices replaced by expressions; bound ones that would capture are renamed.

    The index of a `softmax` can only become another index, one its body does not use already; else `FixedPlace`.
    """
    by = {i: e for i, e in by.items() if i in n.free and e.arg is not i}
    if not by:
        return n
    if n.op == "index":
        return by[n.arg]
    arg, inner = n.arg, dict(by)
    match OPS[n.op].kind:
        case "reduce":
            taken = {i.name for e in by.values() for i in e.free} | {i.name for i in n.args[0].free}
            renamed = []
            for i in n.arg:
                if any(i.name == j.name for e in by.values() for j in e.free):
                    j = Index(fresh(i.name, taken | {k.name for k in n.arg}), i.axis)
                    inner[i] = build.index(j)
                    taken.add(j.name)
                    renamed.append(j)
                else:
                    renamed.append(i)
            arg = tuple(renamed)
        case "normalise" if n.arg in by:
            new = by[n.arg]
            others = set(n.args[0].free) - {n.arg}
            if new.op != "index" or new.arg in {i for o in others for i in (by[o].free if o in by else (o,))}:
                raise FixedPlace(f"softmax[{n.arg.name}] cannot be read at another place: name it first")
            arg = new.arg
        case _:
            pass
    args = tuple(substitute(a, inner) for a in n.args)
    if n.op == "read":
        return build.read(n.arg.ref, n.arg.view, args, n.dtype, n.span)
    return build.node(n.op, *args, arg=arg, span=n.span)


def rename_indices(n: Node, by: Mapping[Index, Index]) -> Node:
    """`n` with indices renamed, free and bound."""

    def rename(m: Node) -> Node:
        match OPS[m.op].kind:
            case "reduce":
                return build.node(m.op, *m.args, arg=tuple(by.get(i, i) for i in m.arg), span=m.span)
            case "normalise":
                return build.node(m.op, *m.args, arg=by.get(m.arg, m.arg), span=m.span)
            case _:
                return build.index(by[m.arg], m.span) if m.op == "index" and m.arg in by else m

    return transform(n, rename) if by else n


def rename_refs(n: Node, by: Mapping[Ref, Ref]) -> Node:
    """`n` reading other names of the same axes."""

    def rename(m: Node) -> Node:
        if m.op == "read" and m.arg.ref in by:
            return replace(m, arg=Access(by[m.arg.ref], m.arg.view))
        return m

    return transform(n, rename) if by else n


# --- statements ----------------------------------------------------------------------------------------------------
@singledispatch
def defines(stmt: Stmt) -> tuple[Ref, ...]:
    """What a statement defines."""
    raise TypeError(type(stmt))


@defines.register
def _(stmt: Def) -> tuple[Ref, ...]:
    return (stmt.ref,)


@defines.register
def _(stmt: Top) -> tuple[Ref, ...]:
    return tuple(Ref("def", name) for name in (stmt.values, stmt.picks) if name is not None)


@defines.register
def _(stmt: Apply) -> tuple[Ref, ...]:
    return (Ref("def", stmt.name),)


@singledispatch
def roots(stmt: Stmt) -> tuple[Node, ...]:
    """The expressions of a statement."""
    raise TypeError(type(stmt))


@roots.register
def _(stmt: Def) -> tuple[Node, ...]:
    return (stmt.value,)


@roots.register
def _(stmt: Top) -> tuple[Node, ...]:
    return (stmt.source,)


@roots.register
def _(stmt: Apply) -> tuple[Node, ...]:
    return (stmt.select,) if stmt.select is not None else ()


def uses(stmt: Stmt) -> set[Ref]:
    """What a statement reads."""
    given = {g.ref for g in stmt.inputs} if isinstance(stmt, Apply) else set()
    return given.union(*(refs(n) for n in roots(stmt)))


@singledispatch
def map_roots(stmt: Stmt, fn: Callable[[Node], Node]) -> Stmt:
    """The statement with `fn` applied to each of its expressions."""
    raise TypeError(type(stmt))


@map_roots.register
def _(stmt: Def, fn: Callable[[Node], Node]) -> Stmt:
    value = fn(stmt.value)
    return stmt if value is stmt.value else replace(stmt, value=value)


@map_roots.register
def _(stmt: Top, fn: Callable[[Node], Node]) -> Stmt:
    source = fn(stmt.source)
    return stmt if source is stmt.source else replace(stmt, source=source)


@map_roots.register
def _(stmt: Apply, fn: Callable[[Node], Node]) -> Stmt:
    select = fn(stmt.select) if stmt.select is not None else None
    return stmt if select is stmt.select else replace(stmt, select=select)


# --- cells ---------------------------------------------------------------------------------------------------------
def map_cell(cell: Cell, fn: Callable[[Node], Node]) -> Cell:
    """The cell with `fn` applied to every expression of its body and its training values."""
    body = tuple(map_roots(s, fn) for s in cell.body)
    training = tuple(replace(t, value=fn(t.value)) for t in cell.training)
    return replace(cell, body=body, training=training)


def names(cell: Cell) -> set[str]:
    """Every name of the cell, of whatever kind."""
    declared = (cell.inputs, cell.params, cell.states, cell.histories, cell.carries, cell.buffers, cell.parts)
    found = {d.name for group in declared for d in group} | {"out"}
    return found | {ref.name for s in cell.body for ref in defines(s)}


Windows = Mapping[Ref, frozenset[tuple[int, int]]]
"""Where a name runs over a history's window: (elements of the axes before, the window's size), whatever the view."""


def windows(cell: Cell) -> dict[Ref, frozenset[tuple[int, int]]]:
    """The axes of each name that run over a history's window: a history's first, and what defs make of it.

    An index that stands alone at such a place ranges over the tokens that are there, wherever else its definition
    uses it.
    """
    found = {Ref("history", h.name): frozenset({(1, h.window.size)}) for h in cell.histories}
    for stmt in cell.body:
        if isinstance(stmt, Def) and stmt.ref.kind == "def":
            here = windowed(stmt.value, found)
            sizes = [i.axis.size for i in stmt.indices]
            places = frozenset((prod(sizes[:p]), sizes[p]) for p, i in enumerate(stmt.indices) if i in here)
            if places:
                found[stmt.ref] = places
    return found


def window_positions(view: tuple[Axis, ...], places: frozenset[tuple[int, int]]) -> tuple[int, ...]:
    """The positions of a view at which a name with these windows runs over them."""
    sizes = [a.size for a in view]
    return tuple(p for p, size in enumerate(sizes) if (prod(sizes[:p]), size) in places)


def windowed(n: Node, found: Windows) -> set[Index]:
    """The indices, free or bound, that `n` runs over a history's window."""
    here = set()
    for m in reads(n):
        for p in window_positions(m.arg.view, found.get(m.arg.ref, frozenset())):
            if m.args[p].op == "index":
                here.add(m.args[p].arg)
    return here
