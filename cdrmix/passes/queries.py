"""Reads of a chunk state as queries: `sum[key](S * q)`, S before or after the token.

Input: statements and a group in chunk form.
Output: the statements with every read of the group's states replaced by the name of a query, each query a statement
in front of its first reader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cdrmix.ir import build, walk
from cdrmix.ir.forms import Chunk, Query
from cdrmix.ir.nodes import Cell, Node, Ref
from cdrmix.passes import algebra, graph
from cdrmix.passes.readers import rewrite
from cdrmix.passes.terms import Culprit, Fresh, Leaves, Term, Unfit


def ask(body: graph.Body, cell: Cell, chunk: Chunk, leaves: Callable[..., Leaves], fresh: Fresh) -> graph.Body:
    """The statements with the reads of the chunk's states replaced."""
    asked: dict[Ref, list[Query]] = {}
    known: dict[tuple[str, bool, str], str] = {}

    def one(owner: Ref, t: Term) -> Node:
        def name(query: Query) -> str:
            key = (query.state, query.after, algebra.key(query.q) + str(query.lead))
            if key not in known:
                known[key] = fresh.name(f"{query.state}_read")
                asked.setdefault(owner, []).append(replace(query, name=known[key]))
            return known[key]

        return _answered(chunk, t, fresh, name)

    refs = [Ref(kind, s) for s in chunk.states for kind in ("state", "next")]
    done = rewrite(cell, chunk.states, leaves(*refs), one)
    out: list[graph.Item] = []
    for stmt in body.stmts:
        ref = walk.defines(stmt)[0]
        out += [*asked.get(ref, []), done.get(ref, stmt)]
    return graph.Body(out)


def _answered(chunk: Chunk, t: Term, fresh: Fresh, name: Callable[[Query], str]) -> Node:
    """A contracted read as what is done with the answer to a query, which gets a `name`.

    A factor joined to the query's vector by a bound index is part of it, unless it runs over the rows of the state.
    """
    args = dict(zip(chunk.order, t.leaf.args, strict=True))
    m = args[chunk.key].arg
    if m not in t.bound:
        raise Unfit(Culprit(t.leaf, f"is not contracted along `{chunk.key.name}`"))
    alone = {a.arg: i for i, a in args.items() if a.op == "index" and sum(a.arg in b.free for b in args.values()) == 1}
    links = tuple(i for i in t.bound if i == m or i not in alone)
    vector = next(members for members, held in algebra.linked(t.coef, links) if m in held)
    if any(alone.get(i) in chunk.value for n in vector for i in t.coef[n].free):
        vector = [n for n, f in enumerate(t.coef) if m in f.free]
    inner = [t.coef[n] for n in vector]
    outer = [f for n, f in enumerate(t.coef) if n not in vector]
    shared = {i for n in (*outer, *args.values()) for i in n.free}
    mine = [i for i in t.bound if i not in shared and any(i in f.free for f in inner)]
    q = algebra.product(inner, mine)  # [batch…, lead…, key]
    lead = {i: fresh.index(i) for i in q.free if i != m and alone.get(i) not in chunk.batch}
    by = {i: build.index(lead.get(i) or alone[i]) for i in q.free}
    ref = t.leaf.arg.ref
    query = Query("", ref.name, walk.substitute(q, by), ref.kind == "next", tuple(lead.values()))
    axes = [i.axis for i in (*chunk.batch, *query.lead, *chunk.value)]
    places = [*(args[i] for i in chunk.batch), *map(build.index, lead), *(args[i] for i in chunk.value)]
    answer = build.read(Ref("def", name(query)), axes, places, "f32", t.leaf.span)  # [batch…, lead…, value…]
    return algebra.product((answer, *outer), [i for i in t.bound if i != m and i not in mine])
