"""The sequence form: the statements of a cell over whole sequences [B, T].

Input: a cell.
Output: a `SequenceForm`.  What is free of state is batched over time as it stands; each group of states becomes its
scan; reads of a chunk's states become queries; attention becomes `Attend`.  Document boundaries are the backend's:
it multiplies every operand that reads the old state by `keep`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from cdrmix.ir import walk
from cdrmix.ir.forms import Chunk, Delay, Query, SequenceForm, SequenceStmt, Sequential
from cdrmix.ir.nodes import Apply, Cell, Def, Node, Ref, Top
from cdrmix.ir.ops import OPS
from cdrmix.passes import graph
from cdrmix.passes.attention import Attention
from cdrmix.passes.classify import Derivation, derive
from cdrmix.passes.groups import Group
from cdrmix.passes.loops import sequential
from cdrmix.passes.notes import note_of_group, note_of_softmax
from cdrmix.passes.terms import Culprit, Leaves
from cdrmix.passes.tidy import name_queries, tidy


def sequence_form(cell: Cell) -> SequenceForm:
    """Derive the sequence form.  Raises `CompileError` for a recurrence that no form can run."""
    d = derive(cell)
    notes = [note for g in d.groups for note in note_of_group(cell, g)]
    scanned: dict[str, list[graph.Item]] = {}
    for g in d.groups:
        if g.kind != "history":
            scanned |= {s: _scan(d, g) if s == g.states[0] else [] for s in g.states}
    items: list[graph.Item] = []
    for stmt in d.body.stmts:
        items += scanned[stmt.ref.name] if isinstance(stmt, Def) and stmt.ref.kind == "next" else [stmt]
    items, left = _attended(d, items)
    notes += [note_of_softmax(cell, ref, culprit) for ref, culprit in left]
    body = schedule(name_queries(items), walk.refs(cell.training))
    return SequenceForm(tuple(tidy(cell, body)), tuple(dict.fromkeys(notes)))


def _scan(d: Derivation, g: Group) -> list[graph.Item]:
    """What stands in the place of a group's updates."""
    match g.scan:
        case None:
            return sequential(d, g)
        case Delay():
            return [d.update(g.scan.state), g.scan]
        case _:
            return [g.scan]


# --- histories -----------------------------------------------------------------------------------------------------
def _attended(d: Derivation, items: list[graph.Item]) -> tuple[list[graph.Item], list[tuple[Ref, Culprit]]]:
    """The statements with attention made explicit; what else reads a window is an equation of its own."""
    named: list[graph.Item] = []

    def unfolds(n: Node) -> bool:
        return OPS[n.op].kind == "reduce" and bool(walk.windowed(n.args[0], d.windows) & set(n.arg))

    for item in items:
        if not isinstance(item, Def | Sequential):
            item = walk.map_roots(item, lambda n: graph.lift(n, unfolds, lambda: d.fresh.name("window"), named))
        named.append(item)
    own = [s for s in named if isinstance(s, (Def, Top, Apply, Query))]
    histories = [Ref("history", h.name) for h in d.cell.histories]
    attention = Attention(Leaves(graph.Body(own), histories, d.windows, d.fresh))
    return attention.statements(named), attention.left


# --- order ---------------------------------------------------------------------------------------------------------
def schedule(items: Sequence[SequenceStmt | Query], also: Collection[Ref]) -> list[SequenceStmt]:
    """What is needed of the statements, each after what it reads, otherwise in the given order.

    The queries of a chunk are gathered into as few passes over its states as their dependencies allow: one, unless a
    query waits for another's answer.  `also` are names that must be known at the end.
    """
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
