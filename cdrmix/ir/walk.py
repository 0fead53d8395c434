"""Traversal of the IR: the one place that knows how nodes and statements are put together.

Input: a `Node`, a statement or a `Cell`.
Output: its parts, or the same thing with parts replaced; what is unchanged is returned as it is, not copied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from functools import cache
from math import prod
from typing import Any, TypeVar, get_args, get_type_hints

from cdrmix.ir import build
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Access, Apply, Axis, Cell, Def, Index, Node, Ref, Stmt, Top
from cdrmix.ir.ops import OPS

T = TypeVar("T")


# --- what holds expressions ----------------------------------------------------------------------------------------
@cache
def _expressions(kind: Any) -> tuple[str, ...]:
    """The fields of a class of records in which there are expressions, by their types."""

    def holds(hint: Any) -> bool:
        return hint is Node or bool(_expressions(hint)) or any(map(holds, get_args(hint)))

    return tuple(name for name, hint in get_type_hints(kind).items() if holds(hint)) if is_dataclass(kind) else ()


def roots(thing: Any) -> tuple[Node, ...]:
    """The expressions in a record, such as a statement of any form, a declaration or a cell, or in several."""
    match thing:
        case Node():
            return (thing,)
        case tuple():
            held = thing
        case dict():
            held = tuple(thing.values())
        case _:
            held = tuple(getattr(thing, name) for name in _expressions(thing.__class__))
    return tuple(n for x in held for n in roots(x))


def map_roots(thing: T, fn: Callable[[Node], Node]) -> T:
    """The same with `fn` applied to each of its `roots`."""
    new: Any = thing
    match new:
        case Node():
            new = fn(new)
        case tuple():
            found = tuple(map_roots(x, fn) for x in new)
            new = found if any(x is not y for x, y in zip(found, new, strict=True)) else new
        case dict():
            new = {key: map_roots(x, fn) for key, x in new.items()}
        case _:
            parts = {name: getattr(new, name) for name in _expressions(new.__class__)}
            changed = {name: map_roots(x, fn) for name, x in parts.items()}
            if any(changed[name] is not x for name, x in parts.items()):
                new = replace(new, **changed)
    return new  # type: ignore[no-any-return]


# --- nodes ---------------------------------------------------------------------------------------------------------
def bound(n: Node) -> tuple[Index, ...]:
    """The indices that `n` itself binds."""
    return n.arg if OPS[n.op].kind == "reduce" else ()


def nodes(thing: Any) -> Iterator[Node]:
    """The nodes in an expression or in what `roots` takes, outermost first."""
    todo = [*roots(thing)[::-1]]
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


def reads(thing: Any) -> Iterator[Node]:
    """The `read` nodes among them."""
    return (m for m in nodes(thing) if m.op == "read")


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
            return (*factors(n.args[0]), build.div(build.const(1.0), n.args[1], span=n.args[1].span))
        case "neg":
            return (build.const(-1), *factors(n.args[0]))
        case _:
            return (n,)


has_reads = build.has_reads


def refs(thing: Any) -> set[Ref]:
    """What these read."""
    return {m.arg.ref for m in reads(thing)}


def indices(thing: Any) -> set[Index]:
    """Every index variable in an expression or in what `roots` takes, free or bound."""
    return {i for m in nodes(thing) for i in (*m.free, *bound(m))}


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
    return build.again(n, args, n.arg)


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
            incoming = {i.name for e in by.values() for i in e.free}
            taken = incoming | {i.name for i in (*n.args[0].free, *n.arg)}
            for i in n.arg:
                if i.name in incoming:
                    j = Index(fresh(i.name, taken), i.axis)
                    inner[i] = build.index(j)
                    taken.add(j.name)
            arg = tuple(inner[i].arg if i in inner else i for i in n.arg)
        case "normalise" if n.arg in by:
            new = by[n.arg]
            others = set(n.args[0].free) - {n.arg}
            if new.op != "index" or new.arg in {i for o in others for i in (by[o].free if o in by else (o,))}:
                raise FixedPlace(f"softmax[{n.arg.name}] cannot be read at another place: name it first")
            arg = new.arg
    return build.again(n, [substitute(a, inner) for a in n.args], arg)


def rename_indices(n: Node, by: Mapping[Index, Index]) -> Node:
    """`n` with indices renamed, free and bound."""

    def rename(m: Node) -> Node:
        arg = tuple(by.get(i, i) for i in m.arg) if OPS[m.op].kind == "reduce" else by.get(m.arg, m.arg)
        return m if arg == m.arg else build.again(m, m.args, arg)

    return transform(n, rename) if by else n


def rename_refs(n: Node, by: Mapping[Ref, Ref]) -> Node:
    """`n` reading other names of the same axes."""

    def rename(m: Node) -> Node:
        if m.op == "read" and m.arg.ref in by:
            return replace(m, arg=Access(by[m.arg.ref], m.arg.view))
        return m

    return transform(n, rename) if by else n


# --- statements ----------------------------------------------------------------------------------------------------
def around(stmt: Stmt) -> tuple[Index, ...]:
    """The indices that a statement's expression stands under."""
    match stmt:
        case Def():
            return stmt.indices
        case Top():
            return (*stmt.lead, stmt.over)
        case Apply():
            return stmt.lead


def defines(stmt: Any) -> tuple[Ref, ...]:
    """What a statement defines: what a `Def` or a `Top` says, or its name."""
    match stmt:
        case Def():
            return (stmt.ref,)
        case Top():
            return tuple(Ref("def", name) for name in (stmt.values, stmt.picks) if name is not None)
        case _:
            return (Ref("def", stmt.name),)


def uses(stmt: Any) -> set[Ref]:
    """What a statement reads."""
    given = {g.ref for g in stmt.inputs} if isinstance(stmt, Apply) else set()
    return given | refs(stmt)


# --- cells ---------------------------------------------------------------------------------------------------------
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
            if places := window_places(stmt.indices, here):
                found[stmt.ref] = places
    return found


def window_places(indices: Sequence[Index], here: Collection[Index]) -> frozenset[tuple[int, int]]:
    """Where what is defined over `indices` runs over windows, those of them in `here`."""
    of = sizes(indices)
    return frozenset((prod(of[:p]), of[p]) for p, i in enumerate(indices) if i in here)


def window_positions(view: tuple[Axis, ...], places: frozenset[tuple[int, int]]) -> tuple[int, ...]:
    """The positions of a view at which a name with these windows runs over them."""
    sizes = [a.size for a in view]
    return tuple(p for p, size in enumerate(sizes) if (prod(sizes[:p]), size) in places)


def windowed(thing: Any, found: Windows) -> set[Index]:
    """The indices, free or bound, that an expression or what `roots` takes runs over a history's window."""
    here = set()
    for m in reads(thing):
        for p in window_positions(m.arg.view, found.get(m.arg.ref, frozenset())):
            if m.args[p].op == "index":
                here.add(m.args[p].arg)
    return here
