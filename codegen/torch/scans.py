"""Emission of the sequence form's own statements: each state's scan over [B, T].

Input: a statement of `ir.forms`, the scope of a `forward`, and which names the rest of the cell reads.
Output: lines in the scope: the scan, the state after the last token in `stream.new`, and symbols for what is read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import singledispatch

from cdrmix.diagnose import Span
from cdrmix.ir.forms import Coupled, Delay, Elementwise, MaxPlus, Sequential
from cdrmix.ir.nodes import Def, Index, Node, Ref, State, Top

from . import names as escape
from .casts import full
from .scope import Scope, Symbol
from .statements import emit_def, emit_top, valued
from .value import Value, listed

Uses = Collection[Ref]


def key(name: str) -> str:
    """The code of a slot's path."""
    return f"self.at + {escape.text(name)}"


def old(name: str) -> str:
    """The code of a state before the call."""
    return f"stream.old[{key(name)}]"


def declared(scope: Scope, name: str) -> State:
    """The declaration of a state."""
    return next(s for s in scope.cell.states if s.name == name)


def operand(scope: Scope, n: Node, indices: Sequence[Index]) -> str:
    """An expression over [B, T, *indices], in full."""
    return full(valued(scope, n, indices), indices, scope)


def initial(scope: Scope, state: State) -> str | None:
    """What a document starts from, as a tensor [*state]; None for zero."""
    v = valued(scope, state.init, state.indices)
    if v.const == 0:
        return None
    return full(v, state.indices, scope, lead=False)


def restart(begin: str | None) -> str:
    """The last arguments of a scan."""
    return ", stream.reset" if begin is None else f", stream.reset, {begin}"


def known(scope: Scope, kind: str, state: State, code: str) -> None:
    """The state's sequence, before or after each token, is `code`."""
    sizes = tuple(i.axis.size for i in state.indices)
    scope.symbols[Ref(kind, state.name)] = Symbol(code, "float", sizes, (True,) * len(sizes), True)  # type: ignore[arg-type]


def settle(scope: Scope, state: State, after: str, begin: str | None, uses: Uses) -> None:
    """Keep the last of the states `after` each token; make those before each token if anything reads them."""
    scope.line(f"stream.new[{key(state.name)}] = {after}[:, -1]")
    known(scope, "next", state, after)
    if Ref("state", state.name) in uses:
        before = scope.let(state.name, f"shift({after}, {old(state.name)}{restart(begin)})")
        known(scope, "state", state, before)


@singledispatch
def emit_scan(stmt: object, scope: Scope, uses: Uses) -> None:
    """The lines of a statement of the sequence form."""
    raise TypeError(type(stmt))


@emit_scan.register
def _(stmt: Delay, scope: Scope, uses: Uses) -> None:
    state = declared(scope, stmt.state)
    symbol = scope.symbol(Ref("next", stmt.state))
    present = tuple(i for i, there in zip(state.indices, symbol.has, strict=True) if there)
    after = full(Value(symbol.code, symbol.type, present, symbol.lead), state.indices, scope)
    begin = initial(scope, state)
    before = scope.names.fresh(state.name)
    scope.line(f"{before}, stream.new[{key(state.name)}] = delay({after}, {old(state.name)}{restart(begin)})")
    known(scope, "state", state, before)


@emit_scan.register
def _(stmt: Elementwise, scope: Scope, uses: Uses) -> None:
    state = declared(scope, stmt.state)
    scope.say(state_span(scope, state.name))
    decay, addend = operand(scope, stmt.decay, stmt.indices), operand(scope, stmt.addend, stmt.indices)
    begin = initial(scope, state)
    after = scope.let(f"{state.name}_next", f"linear_scan({decay}, {addend}, {old(state.name)}{restart(begin)})")
    settle(scope, state, after, begin, uses)


@emit_scan.register
def _(stmt: MaxPlus, scope: Scope, uses: Uses) -> None:
    state = declared(scope, stmt.state)
    scope.say(state_span(scope, state.name))
    decay, addend = operand(scope, stmt.decay, stmt.indices), operand(scope, stmt.addend, stmt.indices)
    begin = initial(scope, state)
    combine = escape.text(stmt.combine)
    after = scope.let(
        f"{state.name}_next", f"maxplus_scan({decay}, {addend}, {old(state.name)}, {combine}{restart(begin)})"
    )
    settle(scope, state, after, begin, uses)


@emit_scan.register
def _(stmt: Coupled, scope: Scope, uses: Uses) -> None:
    states = [declared(scope, s) for s in stmt.states]
    scope.say(state_span(scope, stmt.states[0]))
    zero = scope.let("zero", f"{scope.data}.new_zeros({shape(scope, stmt.indices)})")
    rows = []
    for row in stmt.decay:
        cells = [zero if d is None else operand(scope, d, stmt.indices) for d in row]
        rows.append(f"torch.stack([{', '.join(cells)}], 2)")
    decay = scope.let("decay", f"torch.stack([{', '.join(rows)}], 2)")
    addends = ", ".join(operand(scope, a, stmt.indices) for a in stmt.addend)
    before = ", ".join(old(s) for s in stmt.states)
    begins = [initial(scope, s) for s in states]
    begin = None
    if any(b is not None for b in begins):
        sizes = listed(*(str(i.axis.size) for i in stmt.indices))
        filled = [b if b is not None else f"{scope.data}.new_zeros({sizes})" for b in begins]
        begin = scope.let("begin", f"torch.stack([{', '.join(filled)}])")
    after = scope.let(
        "mixed",
        f"coupled_scan({decay}, torch.stack([{addends}], 2), torch.stack([{before}], 1){restart(begin)})",
    )
    for place, state in enumerate(states):
        one = scope.let(f"{state.name}_next", f"{after}[:, :, {place}]")
        settle(scope, state, one, begins[place], uses)


def shape(scope: Scope, indices: Sequence[Index]) -> str:
    """The code of [B, T, *indices], without brackets."""
    return ", ".join([f"*{scope.shape}", *(str(i.axis.size) for i in indices)])


def state_span(scope: Scope, name: str) -> Span:
    """Where a state's update is written."""
    found = [d for d in scope.cell.body if isinstance(d, Def) and d.ref == Ref("next", name)]
    return found[0].span if found else declared(scope, name).span


# --- the general class ---------------------------------------------------------------------------------------------
@emit_scan.register
def _(stmt: Sequential, scope: Scope, uses: Uses) -> None:
    states = [declared(scope, s) for s in stmt.states]
    scope.line(f"# token by token: {escape.comment(stmt.why)}")
    begins = [initial(scope, s) for s in states]
    now = [scope.let(f"{s.name}_t", old(s.name)) for s in states]
    seen = [scope.let(f"{s.name}_all", "[]") for s in states]
    t = scope.names.fresh("t")
    shape = f"{scope.first}.shape[:1]"
    inner = Scope(scope.cell, "step", scope.names, scope.data, scope.device, shape, scope.first, scope.windows)
    inner.suffix = "_t"
    inner.sources, inner.pos, inner.indent = scope.sources, f"stream.pos[:, {t}]", scope.indent + 1
    inner.masks = {w: f"{code}[:, {t}]" for w, code in scope.masks.items()}
    inner.missing = lambda ref: _at(scope.symbol(ref), t)
    scope.line(f"for {t} in range({scope.first}.shape[1]):")
    for state, code, begin in zip(states, now, begins, strict=True):
        nones = ", None" * len(state.indices)
        inner.line("if stream.reset is not None:")
        inner.line(f"    {code} = torch.where(stream.reset[:, {t}{nones}], {begin or '0.0'}, {code})")
        known(inner, "state", state, code)
    for d in stmt.body:
        if isinstance(d, Top):
            emit_top(d, inner)
        else:
            emit_def(d, inner)
    for state, all_seen in zip(states, seen, strict=True):
        symbol = inner.symbol(Ref("next", state.name))
        present = tuple(i for i, there in zip(state.indices, symbol.has, strict=True) if there)
        v = Value(symbol.code, symbol.type, present, symbol.lead, const=symbol.const)
        inner.line(f"{all_seen}.append({full(v, state.indices, inner)})")
    for code, all_seen in zip(now, seen, strict=True):
        inner.line(f"{code} = {all_seen}[-1]")
    scope.adopt(inner)
    for state, all_seen, begin in zip(states, seen, begins, strict=True):
        after = scope.let(f"{state.name}_next", f"torch.stack({all_seen}, 1)")
        settle(scope, state, after, begin, uses)


def _at(symbol: Symbol, t: str) -> Symbol:
    """The symbol of the sequence at one token."""
    if not symbol.lead:
        return symbol
    return replace(symbol, code=f"{symbol.code}[:, {t}]")
