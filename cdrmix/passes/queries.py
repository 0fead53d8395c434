"""Reads of a chunk state as queries: `sum[key](S * q)`, S before or after the token.

Input: statements and a group in chunk form.
Output: the statements with every read of the group's states replaced by the name of a query, each query a statement
in front of its first reader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cdrmix.diagnose import Span
from cdrmix.ir import build, walk
from cdrmix.ir.forms import Chunk, Query
from cdrmix.ir.nodes import Cell, Index, Node, Ref, Stmt
from cdrmix.passes import algebra, graph
from cdrmix.passes.readers import Whole, rewrite
from cdrmix.passes.terms import Culprit, Fresh, Leaves, Term


def ask(body: graph.Body, cell: Cell, chunk: Chunk, leaves: Callable[..., Leaves], fresh: Fresh) -> graph.Body:
    """The statements with the reads of the group's states replaced."""
    refs = [Ref(kind, s) for s in chunk.states for kind in ("state", "next")]
    asked: dict[Ref, list[Query]] = {}
    known: dict[tuple[str, bool, str], Query] = {}

    def one(owner: Ref, t: Term) -> Node:
        made, rest = _query(chunk, t, fresh)
        name = (made.state, made.after, algebra.key(made.q) + str(made.lead))
        if name not in known:
            known[name] = replace(made, name=fresh.name(f"{made.state}_read"))
            asked.setdefault(owner, []).append(known[name])
        made = known[name]
        axes = [i.axis for i in (*chunk.batch, *made.lead, *chunk.value)]
        found = build.read(Ref("def", made.name), axes, rest.args, "f32", rest.span)
        return algebra.product((found, *rest.outer), rest.bound)

    done = rewrite(cell, chunk.states, leaves(*refs), one)
    out: list[Stmt] = []
    for stmt in body.stmts:
        ref = walk.defines(stmt)[0]
        out += [*asked.get(ref, []), done.get(ref, stmt)]  # type: ignore[list-item]
    return graph.Body(out, body)


@dataclass(frozen=True, slots=True)
class _Rest:
    """What is left around a query: where its result is read, and the other factors."""

    args: tuple[Node, ...]
    outer: tuple[Node, ...]
    bound: tuple[Index, ...]
    span: Span


def _query(chunk: Chunk, t: Term, fresh: Fresh) -> tuple[Query, _Rest]:
    """A contracted read as a query, and what is done with its result."""
    assert chunk.key is not None and t.read is not None
    args = dict(zip(chunk.order, t.read.args, strict=True))
    m = args[chunk.key].arg
    if m not in t.bound:
        raise Whole(Culprit(t.read, f"is not contracted along `{chunk.key.name}`"))
    at = {a.arg: i for i, a in args.items() if a.op == "index" and _alone(a.arg, t.read)}
    inner, outer = _around(t, m, at, chunk)
    shared = {i for f in outer for i in f.free} | {i for a in t.read.args for i in a.free}
    q = algebra.product(inner, [i for i in t.bound if i != m and i not in shared and _held(i, inner)])
    mine = {i for i in t.bound if i != m and i not in shared and _held(i, inner)}
    lead = tuple(i for i in q.free if i != m and at.get(i) not in chunk.batch)
    names = {i: fresh.index(i) for i in lead}
    by = {i: build.index(names.get(i) or at[i]) for i in q.free}
    ref = t.read.arg.ref
    query = Query("", ref.name, walk.substitute(q, by), ref.kind == "next", tuple(names.values()))
    places = [args[i] for i in chunk.batch] + [build.index(i) for i in lead] + [args[i] for i in chunk.value]
    left = tuple(i for i in t.bound if i != m and i not in mine)
    return query, _Rest(tuple(places), outer, left, t.read.span)


def _alone(i: Index, read: Node) -> bool:
    return sum(i in a.free for a in read.args) == 1


def _held(i: Index, coef: tuple[Node, ...]) -> bool:
    return any(i in f.free for f in coef)


def _around(t: Term, m: Index, at: dict[Index, Index], chunk: Chunk) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """The factors that make the query's vector, and the others.

    A factor joined to the vector by a bound index is part of it, unless it runs over the rows of the state.
    """
    inner = [f for f in t.coef if m in f.free]
    grown, joined = list(inner), True
    while joined:
        links = {i for f in grown for i in f.free if i in t.bound and i not in at}
        more = [f for f in t.coef if f not in grown and links & set(f.free)]
        joined = bool(more)
        grown += more
    if not any(at.get(i) in chunk.value for f in grown for i in f.free):
        inner = grown
    kept = tuple(f for f in t.coef if any(f is g for g in inner))
    return kept, tuple(f for f in t.coef if not any(f is g for g in inner))
