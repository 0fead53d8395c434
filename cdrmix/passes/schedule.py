"""The order of the statements of the sequence form.

Input: statements in any order, the queries of chunk states among them.
Output: what is needed of them, each after what it reads, otherwise in the given order; the queries of a chunk gathered
into as few passes over its states as their dependencies allow (one, unless a query waits for another's answer).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from cdrmix.ir.forms import Chunk, Query, SequenceStmt
from cdrmix.ir.nodes import Ref
from cdrmix.passes import graph


def schedule(items: Sequence[SequenceStmt | Query], also: Collection[Ref]) -> list[SequenceStmt]:
    """The statements in order; `also` are names that must be known at the end."""
    items = graph.Body(items).needed(also, graph.is_root)
    chunks = {s: item for item in items if isinstance(item, Chunk) for s in item.states}
    queries = [item for item in items if isinstance(item, Query)]
    rank = {states: n for n, states in enumerate(dict.fromkeys(chunks[q.state].states for q in queries))}
    # a chunk that is asked stands where its queries do, and they come last: they wait while anything else can be done
    left = [i for i in items if not isinstance(i, Query) and not (isinstance(i, Chunk) and i.states in rank)]
    body = graph.Body([*left, *sorted(queries, key=lambda q: rank[chunks[q.state].states])])
    asked = [chunks[item.state] if isinstance(item, Query) else None for item in body.stmts]
    waits = [refs | graph.uses(chunk) if chunk else refs for refs, chunk in zip(body.uses, asked, strict=True)]
    needs = [{body.maker[ref] for ref in refs if ref in body.maker} for refs in waits]
    out: list[SequenceStmt] = []
    for now in graph.in_order(needs, [chunk.states if chunk else n for n, chunk in enumerate(asked)]):
        stmts, chunk = [body.stmts[n] for n in now], asked[now[0]]
        out.append(replace(chunk, queries=tuple(stmts)) if chunk else stmts[0])
    return out
