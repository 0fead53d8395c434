"""Cells written out: a line's chain, its parts and the experts of its banks, one statement after the other.

Input: a cell, what its formals are, and the draft.  Output: the draft's steps, and where the cell's value lies.

A part has no call of its own.  A bank's experts are written out for each place of the call: a chosen one differs from a
fixed one only in that its parameters are read at a pick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from cdrmix.ir import build, walk
from cdrmix.ir.forms import Program
from cdrmix.ir.nodes import Apply, Axis, Buffer, Cell, Def, Index, Node, Param, Ref, Top
from cdrmix.ir.text import headings, statement
from cdrmix.ir.walk import sizes

from .. import plan
from .definitions import define, top
from .draft import Assign, Draft, Entry, Given, every, refuse


@dataclass(frozen=True, slots=True)
class Site:
    """Where a cell stands: `number` in its line's chain, `below` that cell (a path with a dot behind it), the banks
    around it."""

    number: int
    below: str = ""
    prefix: str = ""
    instance: str = ""
    banks: tuple[Axis, ...] = ()
    at: tuple[Node, ...] = ()


@dataclass(slots=True)
class Writing:
    """A line being written: the draft, the carries so far, what is kept for the next token, what ends the line."""

    program: Program
    draft: Draft
    carries: dict[str, Entry] = field(default_factory=dict)
    writes: dict[str, Entry] = field(default_factory=dict)
    residents: list[tuple[str, tuple[int, str], bool]] = field(default_factory=list)
    tail: list[Assign] = field(default_factory=list)

    def cell(self, name: str, site: Site, inputs: tuple[Entry, ...]) -> Entry:
        """One cell; gives its value."""
        cell = self.program.model.cells[name]
        env = self.begin(cell, site, inputs)
        form, known, draft = self.program.step[name], headings(cell), self.draft
        for stmt in form.body:
            draft.span = stmt.span
            draft.texts = (" ".join(statement(stmt, known)),)
            match stmt:
                case Def():
                    self.definition(cell, stmt, env, site, form.in_place)
                case Top():
                    found = top(draft, stmt, self.named(stmt.source, env))
                    env |= {Ref("def", made): entry for made, entry in found.items()}
                case Apply():
                    env[Ref("def", stmt.name)] = self.apply(cell, stmt, env, site)
        return env[Ref("output", "out")]

    def begin(self, cell: Cell, site: Site, inputs: tuple[Entry, ...]) -> dict[Ref, Entry]:
        """The names that a cell begins with."""
        draft = self.draft
        env = {Ref("input", i.name): entry for i, entry in zip(cell.inputs, inputs, strict=True)}
        banks = tuple(a.size for a in site.banks)
        decls: tuple[Param | Buffer, ...] = (*cell.params, *cell.buffers)
        for decl in decls:
            path = (site.number, site.below + decl.name)
            known = [name for name, given in draft.given.items() if given.path == path]
            local = known[0] if known else draft.fresh(site.prefix + decl.name)
            stored = decl.stored if isinstance(decl, Param) else "f32"
            draft.given[local] = Given(path, (*banks, *sizes(decl.indices)), len(banks), stored, decl.span)
            ref = Ref("param" if isinstance(decl, Param) else "buffer", decl.name)
            env[ref] = Entry(Ref("param", local), site.banks, site.at)
        for state in cell.states:
            name = draft.array(site.instance + state.name, sizes(state.indices), memory="state")
            self.residents.append((name, (site.number, site.below + state.name), False))
            env[Ref("state", state.name)] = Entry(Ref("def", name))
        for history in cell.histories:
            window = history.window.size
            memory: plan.Memory = "state" if window > 1 else "scratch"
            name = draft.array(site.instance + history.name, (window, *(a.size for a in history.axes)), memory=memory)
            if window > 1:
                self.residents.append((name, (site.number, site.below + history.name), True))
            draft.windows[Ref("history", name)] = frozenset({(1, window)})
            env[Ref("history", history.name)] = Entry(Ref("history", name))
        for carry in cell.carries:
            if carry.reads and carry.name not in self.carries:  # what a line above wrote, not a cell of this one
                shape = tuple(a.size for a in carry.axes)
                above, tensor = draft.array(f"{carry.name}_above", shape), draft.carry(carry.name, prod(shape))
                draft.add(plan.Fetch(above, tensor, texts=(f"{carry.name}, from a line above",)))
                self.carries[carry.name] = Entry(Ref("def", above))
            if carry.reads:
                env[Ref("carry", carry.name)] = self.carries[carry.name]
        return env

    def named(self, n: Node, env: Mapping[Ref, Entry]) -> Node:
        """An expression of the cell over the draft's names."""

        def name(m: Node) -> Node:
            if m.op == "context":
                return self.draft.token(1)
            return env[m.arg.ref].read(m) if m.op == "read" else m

        return walk.transform(n, name)

    # --- statements ------------------------------------------------------------------------------------------------
    def definition(self, cell: Cell, d: Def, env: dict[Ref, Entry], site: Site, in_place: frozenset[str]) -> None:
        """A definition, into the array that it belongs in."""
        draft, value = self.draft, self.named(d.value, env)
        name = site.instance + d.ref.name
        match d.ref.kind:
            case "history":
                ring = env[d.ref].ref.name
                window = draft.arrays[ring].shape[0]
                slot = build.node("mod", draft.token(1), build.const(window)) if window > 1 else build.const(0)
                pulled = define(draft, f"{name}_entry", d, value)
                draft.assign(ring, d.indices, pulled.over(d.indices), (slot, *map(build.index, d.indices)))
            case "next":
                state = env[Ref("state", d.ref.name)]
                pulled = define(draft, f"{name}_next", d, value)
                own = draft.settled(pulled.over(d.indices))
                copy = Assign(state.ref.name, d.indices, own, span=d.span, texts=draft.texts)
                if d.ref.name in in_place:
                    draft.add(copy)
                    env[d.ref] = state
                else:
                    self.tail.append(copy)
                    env[d.ref] = pulled
            case "carry":
                entry = define(draft, name, d, value)
                if not draft.is_own(entry):
                    made = draft.array(f"{name}_own", sizes(d.indices))
                    draft.assign(made, d.indices, entry.over(d.indices))
                    entry = Entry(Ref("def", made))
                self.carries[d.ref.name] = self.writes[d.ref.name] = entry
                if not any(c.name == d.ref.name and c.reads for c in cell.carries):
                    env[d.ref] = entry
            case _:
                env[d.ref] = define(draft, name, d, value)

    def apply(self, cell: Cell, a: Apply, env: Mapping[Ref, Entry], site: Site) -> Entry:
        """A part, or each called expert of a bank."""
        draft, part = self.draft, next(p for p in cell.parts if p.name == a.part)
        texts = draft.texts
        found: dict[tuple[int, ...], Entry] = {}
        for by in every(a.lead):
            at = tuple(int(n.arg) for n in by.values())
            given = tuple(_given(draft, env[g.ref], g.lead, by) for g in a.inputs)
            banks, chosen = site.banks, site.at
            if a.select is not None and part.bank is not None:
                banks = (*banks, part.bank.axis)
                chosen = (*chosen, walk.substitute(self.named(a.select, env), by))
            instance = "_".join((f"{site.instance}{part.name}", *map(str, at), ""))
            inner = Site(
                site.number, f"{site.below}{part.name}.", f"{site.prefix}{part.name}_", instance, banks, chosen
            )
            found[at] = self.cell(part.cell, inner, given)
        draft.span, draft.texts = a.span, texts
        if not a.lead:
            return found[()]
        name = draft.fresh(site.instance + a.name)
        draft.bundles[name] = (sizes(a.lead), sizes(a.outs), found)
        return Entry(Ref("def", name))


def _given(draft: Draft, entry: Entry, lead: tuple[Index, ...], by: Mapping[Index, Node]) -> Entry:
    """What a part is given at one place of a call."""
    if entry.ref.kind == "history":
        message = f"the history `{entry.ref.name}` is given to a part"
        raise refuse(draft.span, message, "name what the part needs of it in an equation", "E0903")
    return Entry(entry.ref, (*entry.axes, *(i.axis for i in lead)), (*entry.at, *(by[i] for i in lead)))
