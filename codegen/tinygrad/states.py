"""Emission of states that no matrix holds: each one's scan over the block.

Input: a statement of the sequence form and the scope.
Output: lines in the scope: the scan, the state after the last token kept, and symbols for what is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cdrmix.diagnose import Span
from cdrmix.ir import python as escape
from cdrmix.ir.forms import Coupled, Delay, Elementwise, MaxPlus, Sequential
from cdrmix.ir.nodes import Def, Index, Node, Ref, State

from .casts import full, spread
from .scope import Scope, Symbol, axes_of
from .statements import Cells, emit_statement, read_back, valued


def declared(scope: Scope, name: str) -> State:
    """The declaration of a state."""
    return next(s for s in scope.cell.states if s.name == name)


def say_update(scope: Scope, name: str) -> None:
    """The equation of a state's update, as a comment."""
    scope.say(_update(scope, name))


def _update(scope: Scope, name: str) -> Span:
    found = [d for d in scope.cell.body if isinstance(d, Def) and d.ref == Ref("next", name)]
    return found[0].span if found else declared(scope, name).span


def slot(name: str) -> str:
    """Code of a state before the block."""
    return f"here.state({escape.text(name)})"


def _decay(scope: Scope, n: Node, indices: Sequence[Index]) -> str:
    return spread(valued(scope, n, indices), indices)


def _addend(scope: Scope, n: Node, indices: Sequence[Index]) -> str:
    return full(valued(scope, n, indices), indices, scope)


def _sizes(state: State) -> list[int]:
    return [i.axis.size for i in state.indices]


@emit_statement.register
def _(stmt: Delay, scope: Scope, cells: Cells) -> None:
    state = declared(scope, stmt.state)
    after = full(read_back(scope.symbol(Ref("next", state.name)), state.indices), state.indices, scope)
    last = f"here.keep({escape.text(state.name)}, last({after}))"
    before = scope.let(state.name, f"delay({after}, {slot(state.name)})", axes_of(state.indices))
    scope.line(last)
    scope.known(Ref("state", state.name), before, _sizes(state))


def _scanned(scope: Scope, state: State, after: str, last: str) -> None:
    """A state whose slot the scan has written: what it is after each token, and before if anything reads that."""
    scope.line(f"here.wrote({escape.text(state.name)}, {last})")
    scope.known(Ref("next", state.name), after, _sizes(state))
    if Ref("state", state.name) in scope.uses:
        before = scope.let(state.name, f"shift({after}, {slot(state.name)})", axes_of(state.indices))
        scope.known(Ref("state", state.name), before, _sizes(state))


@emit_statement.register
def _(stmt: Elementwise, scope: Scope, cells: Cells) -> None:
    _alone(stmt, f"linear_scan({_operands(stmt, scope)}, {slot(stmt.state)})", scope)


@emit_statement.register
def _(stmt: MaxPlus, scope: Scope, cells: Cells) -> None:
    combine = escape.text(stmt.combine)
    _alone(stmt, f"max_plus_scan({_operands(stmt, scope)}, {slot(stmt.state)}, {combine})", scope)


def _operands(stmt: Elementwise | MaxPlus, scope: Scope) -> str:
    say_update(scope, stmt.state)
    return f"{_decay(scope, stmt.decay, stmt.indices)}, {_addend(scope, stmt.addend, stmt.indices)}"


def _alone(stmt: Elementwise | MaxPlus, code: str, scope: Scope) -> None:
    after, last = scope.names.fresh(f"{stmt.state}_next"), scope.names.fresh(f"{stmt.state}_last")
    scope.line(f"{after}, {last} = {code}  # {axes_of(stmt.indices)}")
    _scanned(scope, declared(scope, stmt.state), after, last)


@emit_statement.register
def _(stmt: Coupled, scope: Scope, cells: Cells) -> None:
    for s in stmt.states:
        say_update(scope, s)
    rows = []
    for row in stmt.decay:
        rows.append(f"[{', '.join('None' if d is None else _decay(scope, d, stmt.indices) for d in row)}]")
    addends = ", ".join(_addend(scope, a, stmt.indices) for a in stmt.addend)
    after = [scope.names.fresh(f"{s}_next") for s in stmt.states]
    last = [scope.names.fresh(f"{s}_last") for s in stmt.states]
    slots = ", ".join(slot(s) for s in stmt.states)
    scope.line(f"({', '.join(after)}), ({', '.join(last)}) = coupled_scan([{', '.join(rows)}], [{addends}], [{slots}])")
    for s, code, end in zip(stmt.states, after, last, strict=True):
        _scanned(scope, declared(scope, s), code, end)


# --- the general class ---------------------------------------------------------------------------------------------
@emit_statement.register
def _(stmt: Sequential, scope: Scope, cells: Cells) -> None:
    """A loop over the tokens, each one's expressions on slices [B, 1, …]."""
    states = [declared(scope, s) for s in stmt.states]
    scope.line(f"# token by token: {escape.comment(stmt.why, 90)}")
    now = [scope.let(f"{s.name}_t", f"{slot(s.name)}.unsqueeze(1)") for s in states]
    seen = [scope.let(f"{s.name}_all", "[]") for s in states]
    t = scope.names.fresh("t")
    inner = Scope(scope.cell, scope.names, f"{scope.lead.split(',')[0]}, 1", scope.windows, scope.sources, scope.uses)
    inner.suffix, inner.pos, inner.indent = "_t", f"{scope.pos}[:, {t} : {t} + 1]", scope.indent + 1
    inner.masks = {w: f"{code}[:, {t} : {t} + 1]" for w, code in scope.masks.items()}
    inner.missing = lambda ref: _at(scope.symbol(ref), t)
    scope.line(f"for {t} in range({scope.lead.split(', ')[1]}):")
    for state, code in zip(states, now, strict=True):
        inner.known(Ref("state", state.name), code, _sizes(state))
    for d in stmt.body:
        emit_statement(d, inner, cells)
    for state, every in zip(states, seen, strict=True):
        after = full(read_back(inner.symbol(Ref("next", state.name)), state.indices), state.indices, inner)
        inner.line(f"{every}.append({after})")
    for code, every in zip(now, seen, strict=True):
        inner.line(f"{code} = {every}[-1]")
    scope.adopt(inner)
    for state, every in zip(states, seen, strict=True):
        after = scope.let(f"{state.name}_next", f"tokens({every})", axes_of(state.indices))
        scope.line(f"here.keep({escape.text(state.name)}, last({after}))")
        scope.known(Ref("next", state.name), after, _sizes(state))
        if Ref("state", state.name) in scope.uses:
            before = scope.let(state.name, f"delay({after}, {slot(state.name)})", axes_of(state.indices))
            scope.known(Ref("state", state.name), before, _sizes(state))


def _at(symbol: Symbol, t: str) -> Symbol:
    """The symbol of the sequence at one token."""
    if not symbol.lead or symbol.type == "number":
        return symbol
    return replace(symbol, code=f"{symbol.code}[:, {t} : {t} + 1]")
