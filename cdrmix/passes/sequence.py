"""The sequence form: the statements of a cell over whole sequences [B, T].

Input: a cell.
Output: a `SequenceForm`.  What is free of state is batched over time as it stands; each group of states becomes its
scan; reads of a chunk's states become queries; attention becomes `Attend`.  Document boundaries are the backend's:
it multiplies every operand that reads the old state by `keep`.
"""

from __future__ import annotations

from cdrmix.ir import walk
from cdrmix.ir.forms import Delay, Query, SequenceForm, Sequential
from cdrmix.ir.nodes import Apply, Cell, Def, Node, Ref, Top
from cdrmix.ir.ops import OPS
from cdrmix.passes import graph
from cdrmix.passes.attention import Attention
from cdrmix.passes.classify import Derivation, derive
from cdrmix.passes.groups import Group
from cdrmix.passes.loops import sequential
from cdrmix.passes.notes import note_of_group, note_of_softmax
from cdrmix.passes.schedule import schedule
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
